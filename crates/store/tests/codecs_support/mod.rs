//! Made-up pages.
#![allow(dead_code, clippy::unwrap_used)]

use cachalot_kernels::attention::{Element, PAGE_TOKENS};
use cachalot_kv::page::{HEADER, Header, reseal};
use cachalot_store::Codec;

/// A page of layer 5 with this payload. `format` is none for one that a recipe wrote.
pub fn page(dim: u32, format: Option<(Element, Element)>, payload: &[u8]) -> Vec<u8> {
    let mut page = vec![0; HEADER];
    page[..6].copy_from_slice(&[b'K', b'V', b'P', b'G', 2, u8::from(format.is_none())]);
    page[8] = 5;
    page[10] = 1;
    page[12..16].copy_from_slice(&dim.to_le_bytes());
    page[16..24].copy_from_slice(&640_u64.to_le_bytes());
    page[24] = PAGE_TOKENS as u8;
    match format {
        Some((k, v)) => page[32..34].copy_from_slice(&[k as u8, v as u8]),
        None => page[32..44].copy_from_slice(b"some stages."),
    }
    page.extend_from_slice(payload);
    page.resize(page.len().next_multiple_of(64), 0);
    reseal(&mut page);
    assert!(Header::verified(&page).is_some());
    page
}

/// Bytes of keys and values.
pub fn bytes_of(dim: usize, (k, v): (Element, Element)) -> usize {
    dim.next_multiple_of(16) * PAGE_TOKENS * (k.bytes() + v.bytes())
}

pub fn random(n: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

pub fn coded(codec: &dyn Codec, page: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    codec.encode(page, &mut out).unwrap();
    out
}

/// Nearly normal numbers.
pub fn normals(n: usize, seed: u64) -> Vec<f32> {
    let noise = random(4 * n, seed);
    noise.as_chunks::<4>().0.iter().map(|four| four.iter().map(|&b| f32::from(b) / 148.0 - 0.86).sum()).collect()
}

pub fn write(element: Element, x: f32) -> Vec<u8> {
    match element {
        Element::F16 => half::f16::from_f32(x).to_le_bytes().to_vec(),
        Element::Bf16 => half::bf16::from_f32(x).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    }
}

/// Keys and values of a page: channels of very different sizes, those of the keys with means of their own.
pub fn numbers(dim: usize, seed: u64) -> Vec<f32> {
    let channels = normals(2 * dim, 3);
    let noise = normals(2 * dim * PAGE_TOKENS, seed);
    let (keys, values) = noise.split_at(dim * PAGE_TOKENS);
    let keys = keys.iter().enumerate().map(|(at, x)| {
        let channel = at / PAGE_TOKENS;
        (1.2 * channels[channel]).exp() * (channels[dim + channel] + x)
    });
    let values = values.iter().enumerate().map(|(at, x)| (0.4 * channels[at % dim]).exp() * x);
    keys.chain(values).collect()
}

/// [`numbers`] as a page holds them.
pub fn keys(dim: usize, element: Element, seed: u64) -> Vec<u8> {
    numbers(dim, seed).into_iter().flat_map(|x| write(element, x)).collect()
}
