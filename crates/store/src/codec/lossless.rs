//! `lossless`: every bit comes back. Elements are split into the byte that says how large they are, which is Huffman coded,
//! and the rest, which is noise and stays as it is (as ZipNN and DFloat11 do for weights).
//!
//! The first byte is the exponent of `f32` and `bf16`, whose words are turned left by one bit for that; of `f16` and the
//! eight-bit types it is sign, exponent and the upper bits of the mantissa. Channels of keys differ in size and often keep their
//! sign, so where it helps every channel has a bias, an exponent that three quarters of its elements do not exceed, that is
//! taken off, and a sign that is flipped.
//!
//! A page that a recipe wrote goes through plane by plane of [`RUN`] bytes, each coded or not.

use super::entropy::plane;
use super::layout::{Layout, Reader, Side, corrupt, header_of, put_header, take_header};
use crate::{Codec, StoreError};
use cachalot_kernels::attention::{Element, PAGE_TOKENS};
use cachalot_kv::page::HEADER;

/// Bytes of a plane of which nothing is known.
const RUN: usize = 4096;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lossless;

impl Codec for Lossless {
    fn name(&self) -> String {
        "lossless".to_owned()
    }

    fn is_lossless(&self) -> bool {
        true
    }

    fn encode(&self, page: &[u8], out: &mut Vec<u8>) -> Result<(), StoreError> {
        let layout = Layout::of(&header_of(page)?, page.len());
        put_header(page, out);
        let mut end = HEADER;
        for side in layout.iter().flat_map(|layout| [&layout.keys, &layout.values]) {
            put_side(side, &page[side.range.clone()], out);
            end = side.range.end;
        }
        page[end..].chunks(RUN).for_each(|run| plane::put(run, out));
        Ok(())
    }

    fn decode(&self, coded: &[u8], len: usize) -> Result<Vec<u8>, StoreError> {
        let mut from = Reader::new(coded);
        let mut page = vec![0; len];
        let layout = Layout::of(&take_header(&mut from, &mut page)?, len);
        let mut end = HEADER;
        for side in layout.iter().flat_map(|layout| [&layout.keys, &layout.values]) {
            take_side(side, &mut from, &mut page[side.range.clone()])?;
            end = side.range.end;
        }
        for run in page[end..].chunks_mut(RUN) {
            run.copy_from_slice(&plane::take(&mut from, run.len())?);
        }
        from.end()?;
        Ok(page)
    }
}

/// How the first byte of an element is made of its exponent.
#[derive(Clone, Copy)]
struct Fields {
    /// Bits below the exponent.
    below: u32,
    /// Whether the sign is above it.
    signed: bool,
}

impl Fields {
    fn of(element: Element) -> Fields {
        match element {
            Element::F32 | Element::Bf16 => Fields { below: 0, signed: false },
            Element::F16 | Element::E5m2 => Fields { below: 2, signed: true },
            Element::E4m3 => Fields { below: 3, signed: true },
        }
    }

    fn exponent(self, first: u8) -> u8 {
        let unsigned = if self.signed { first & 0x7f } else { first };
        unsigned >> self.below
    }
}

/// What is taken off the first bytes of a channel: the exponent that three quarters of them do not exceed, and where most are
/// negative, the sign. Without signs the bias takes the whole byte.
fn bias(fields: Fields, first: impl Iterator<Item = u8> + Clone) -> u8 {
    let mut exponents = [0_u8; PAGE_TOKENS];
    exponents.iter_mut().zip(first.clone()).for_each(|(to, byte)| *to = fields.exponent(byte));
    exponents.sort_unstable();
    let negative = fields.signed && first.filter(|byte| byte >> 7 == 1).count() > PAGE_TOKENS / 2;
    exponents[PAGE_TOKENS * 3 / 4] << fields.below | u8::from(negative) << 7
}

/// Takes the bias of each channel off, or adds it again. `first` is a page's side, in its order.
fn shift(side: &Side, biases: &[u8], first: &mut [u8], add: bool) {
    let signed = Fields::of(side.element).signed;
    let (value, sign) = if signed { (0x7f, 0x80) } else { (0xff, 0) };
    let one = |byte: &mut u8, bias: u8| {
        *byte = match add {
            true => byte.wrapping_add(bias & value) ^ (bias & sign),
            false => (*byte ^ (bias & sign)).wrapping_sub(bias & value),
        };
    };
    match side.by_channel {
        true => first.chunks_exact_mut(PAGE_TOKENS).zip(biases).for_each(|(row, &bias)| {
            row.iter_mut().for_each(|byte| one(byte, bias));
        }),
        false => first.chunks_exact_mut(side.channels).for_each(|row| {
            row.iter_mut().zip(biases).for_each(|(byte, &bias)| one(byte, bias));
        }),
    }
}

/// Splits elements: their first bytes, and planes of the others.
fn split(element: Element, bytes: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    match element {
        Element::F32 => {
            let words = || bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word).rotate_left(1));
            (words().map(|word| (word >> 24) as u8).collect(), {
                (0..3).map(|plane| words().map(|word| (word >> (8 * plane)) as u8).collect()).collect()
            })
        }
        Element::F16 | Element::Bf16 => {
            let turn = u32::from(element == Element::Bf16);
            let words = || bytes.as_chunks().0.iter().map(|&word| u16::from_le_bytes(word).rotate_left(turn));
            (words().map(|word| (word >> 8) as u8).collect(), vec![words().map(|word| word as u8).collect()])
        }
        Element::E4m3 | Element::E5m2 => (bytes.to_vec(), Vec::new()),
    }
}

fn join(element: Element, first: &[u8], rest: &[&[u8]], bytes: &mut [u8]) {
    match (element, rest) {
        (Element::F32, &[low, middle, high]) => {
            let low = low.iter().zip(middle).zip(high);
            for ((to, &top), ((&a, &b), &c)) in bytes.as_chunks_mut().0.iter_mut().zip(first).zip(low) {
                *to = u32::from_le_bytes([a, b, c, top]).rotate_right(1).to_le_bytes();
            }
        }
        (Element::Bf16, &[low]) => {
            for ((to, &top), &low) in bytes.as_chunks_mut().0.iter_mut().zip(first).zip(low) {
                *to = u16::from_le_bytes([low, top]).rotate_right(1).to_le_bytes();
            }
        }
        (Element::F16, &[low]) => {
            let words = bytes.as_chunks_mut().0.iter_mut().zip(first).zip(low);
            words.for_each(|((to, &top), &low)| *to = [low, top]);
        }
        _ => bytes.copy_from_slice(first),
    }
}

/// Appends a side: whether it has biases, these, the first bytes, the planes of the others.
fn put_side(side: &Side, bytes: &[u8], out: &mut Vec<u8>) {
    let fields = Fields::of(side.element);
    let (mut first, rest) = split(side.element, bytes);
    let biases: Vec<u8> = (0..side.channels)
        .map(|channel| match side.by_channel {
            true => bias(fields, first[channel * PAGE_TOKENS..][..PAGE_TOKENS].iter().copied()),
            false => bias(fields, first[channel..].iter().copied().step_by(side.channels)),
        })
        .collect();
    let mut even = first.clone();
    shift(side, &biases, &mut even, false);
    let mut packed = Vec::new();
    put_biases(fields, &biases, &mut packed);
    let better = packed.len() + plane::estimate(&plane::count(&even)) < plane::estimate(&plane::count(&first));
    out.push(u8::from(better));
    if better {
        out.append(&mut packed);
        first = even;
    }
    plane::put(&first, out);
    rest.iter().for_each(|rest| plane::put(rest, out));
}

fn take_side(side: &Side, from: &mut Reader<'_>, bytes: &mut [u8]) -> Result<(), StoreError> {
    let biases = match from.byte()? {
        0 => None,
        1 => Some(take_biases(Fields::of(side.element), from, side.channels)?),
        other => return Err(corrupt(format!("biases of the unknown kind {other}"))),
    };
    let mut first = plane::take(from, side.len())?;
    if let Some(biases) = biases {
        shift(side, &biases, first.to_mut(), true);
    }
    let rest = (1..side.element.bytes()).map(|_| plane::take(from, side.len())).collect::<Result<Vec<_>, _>>()?;
    let rest: Vec<&[u8]> = rest.iter().map(AsRef::as_ref).collect();
    join(side.element, &first, &rest, bytes);
    Ok(())
}

/// The smallest exponent, the bits of the difference to the largest, the signs, and the differences, from the lowest bit.
fn put_biases(fields: Fields, biases: &[u8], out: &mut Vec<u8>) {
    let exponents = || biases.iter().map(|&bias| fields.exponent(bias));
    let (low, high) = (exponents().min().unwrap_or(0), exponents().max().unwrap_or(0));
    let bits = (high - low).checked_ilog2().map_or(0, |log| log + 1);
    out.extend_from_slice(&[low, bits as u8]);
    let sign = u32::from(fields.signed);
    let (mut buffer, mut filled) = (0_u32, 0);
    for (exponent, &bias) in exponents().zip(biases) {
        let negative = if fields.signed { u32::from(bias >> 7) } else { 0 };
        buffer |= (u32::from(exponent - low) << sign | negative) << filled;
        filled += bits + sign;
        while filled >= 8 {
            out.push(buffer as u8);
            buffer >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        out.push(buffer as u8);
    }
}

fn take_biases(fields: Fields, from: &mut Reader<'_>, channels: usize) -> Result<Vec<u8>, StoreError> {
    let (low, bits) = (from.byte()?, u32::from(from.byte()?));
    if bits > 8 {
        return Err(corrupt("biases of more than eight bits"));
    }
    let sign = u32::from(fields.signed);
    let mut bytes = from.take((channels * (bits + sign) as usize).div_ceil(8))?.iter();
    let (mut buffer, mut filled) = (0_u32, 0);
    let mut biases = Vec::with_capacity(channels);
    for _ in 0..channels {
        while filled < bits + sign {
            buffer |= u32::from(bytes.next().copied().unwrap_or(0)) << filled;
            filled += 8;
        }
        let negative = (buffer & sign) as u8;
        let exponent = (buffer >> sign & ((1 << bits) - 1)) as u8;
        buffer >>= bits + sign;
        filled -= bits + sign;
        let largest = if fields.signed { 0x7f >> fields.below } else { 0xff };
        match low.checked_add(exponent).filter(|&exponent| exponent <= largest) {
            Some(exponent) => biases.push(exponent << fields.below | negative << 7),
            None => return Err(corrupt("a bias that no element has")),
        }
    }
    Ok(biases)
}
