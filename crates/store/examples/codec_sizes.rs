//! Sizes, errors and speeds of codecs over pages in a file, one behind the other and of one length, whose checksums need not be
//! right:
//!
//! `cargo run --release -p cachalot-store --example codec_sizes -- PAGES LENGTH [PAGES-TO-LEARN-FROM THETA [DECODED]]`
//!
//! `THETA` is the base of rotary position of all channels, 0 for none. `DECODED` receives what the lossy codecs give back, as files `DECODED.NAME`. Errors are the root of the mean square,
//! relative to that of the numbers; speeds are of bytes of pages, the best of five for each page, one thread.

use cachalot_kernels::attention::{Element, PAGE_TOKENS};
use cachalot_kv::page::{HEADER, reseal};
use cachalot_store::Codec;
use cachalot_store::codec::{CacheGen, Lossless, Profile, Zstd};
use std::sync::Arc;
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

fn pages(path: &str, len: usize) -> Result<Vec<Vec<u8>>, Failure> {
    let mut pages: Vec<Vec<u8>> = std::fs::read(path)?.chunks_exact(len).map(<[u8]>::to_vec).collect();
    pages.iter_mut().for_each(|page| reseal(page));
    Ok(pages)
}

/// Keys and values.
fn sides(page: &[u8]) -> [Vec<f64>; 2] {
    let width = page[12..16].iter().rev().fold(0, |n, &byte| n << 8 | usize::from(byte)).next_multiple_of(16);
    let mut at = HEADER;
    [page[32], page[33]].map(|element| {
        let element = Element::ALL[usize::from(element)];
        let bytes = &page[at..at + width * PAGE_TOKENS * element.bytes()];
        at += bytes.len();
        let one = |bytes: &[u8]| match (element, bytes) {
            (Element::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f64(),
            (Element::Bf16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f64(),
            (_, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
            _ => 0.0,
        };
        bytes.chunks_exact(element.bytes()).map(one).collect()
    })
}

/// Seconds of the best of five runs for each, added up: others on the machine then count less.
fn best(pages: usize, mut run: impl FnMut(usize) -> Result<(), Failure>) -> Result<f64, Failure> {
    let mut sum = 0.0;
    for page in 0..pages {
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let start = Instant::now();
            run(page)?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        sum += best;
    }
    Ok(sum)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, len, more @ ..] = &arguments[..] else { return Err("PAGES LENGTH, please".into()) };
    let len: usize = len.parse()?;
    let pages = pages(path, len)?;
    let profile = match more {
        [learn, theta, ..] => {
            let (theta, dim) = (theta.parse::<f32>()?, pages.first().map_or(0, |page| u32::from(page[12])));
            let pairs = if theta > 0.0 { dim / 2 } else { 0 };
            let angles: Vec<f32> = (0..pairs).map(|i| theta.powf(-(i as f32) / pairs as f32)).collect();
            let learn = self::pages(learn, len)?;
            Some(Arc::new(Profile::learn(&mut learn.iter().map(Vec::as_slice), &angles)?))
        }
        _ => None,
    };
    let mut codecs: Vec<Box<dyn Codec>> = Vec::new();
    codecs.extend([1, 3].into_iter().filter_map(Zstd::new).map(|codec| Box::new(codec) as Box<dyn Codec>));
    codecs.push(Box::new(Lossless));
    for profile in [None, profile].into_iter().enumerate().filter(|(at, p)| *at == 0 || p.is_some()).map(|(_, p)| p) {
        let levels = (1..=3).rev().filter_map(|level| CacheGen::new(level, profile.clone()));
        codecs.extend(levels.map(|codec| Box::new(codec) as Box<dyn Codec>));
    }
    let total = (pages.len() * len) as f64;
    println!("{} pages of {len} bytes", pages.len());
    println!("codec                  ratio  keys off  values off  encode MB/s  decode MB/s");
    for codec in codecs {
        let mut coded: Vec<Vec<u8>> = vec![Vec::new(); pages.len()];
        let encode = best(pages.len(), |at| {
            coded[at].clear();
            Ok(codec.encode(&pages[at], &mut coded[at])?)
        })?;
        let decode = best(pages.len(), |at| Ok(codec.decode(&coded[at], len).map(drop)?))?;
        let mut sums = [[0.0; 2]; 2];
        let mut all = Vec::new();
        for (page, coded) in pages.iter().zip(&coded) {
            let decoded = codec.decode(coded, len)?;
            for ((was, is), [error, power]) in sides(page).iter().zip(sides(&decoded)).zip(&mut sums) {
                *error += was.iter().zip(is).map(|(was, is)| (was - is).powi(2)).sum::<f64>();
                *power += was.iter().map(|was| was * was).sum::<f64>();
            }
            all.extend(decoded);
        }
        let [keys, values] = sums.map(|[error, power]| (error / power).sqrt());
        let ratio = total / coded.iter().map(Vec::len).sum::<usize>() as f64;
        let speed = |seconds: f64| total / seconds / 1e6;
        let name = codec.name();
        println!("{name:20} {ratio:7.3}  {keys:8.5}  {values:10.5}  {:11.0}  {:11.0}", speed(encode), speed(decode));
        if let Some(decoded) = more.get(2).filter(|_| !codec.is_lossless()) {
            std::fs::write(format!("{decoded}.{}", name), all)?;
        }
    }
    Ok(())
}
