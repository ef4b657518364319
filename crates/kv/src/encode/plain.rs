//! Plain elements: keys channel by channel, values token by token (see [`cachalot_kernels::attention`]).

use cachalot_kernels::attention::{Element, PAGE_TOKENS};
use cachalot_kernels::float8::{e4m3_from_f32, e4m3_to_f32, e5m2_from_f32, e5m2_to_f32};
use half::{bf16, f16};

/// Writes the keys of consecutive tokens, `rows` of `width`, to the slots from `slot` of a page's key bytes.
pub(crate) fn write_keys(element: Element, keys: &mut [u8], rows: &[f32], width: usize, slot: usize) {
    // Channel by channel, so that the writes of one channel lie side by side.
    let tokens = rows.len() / width;
    for channel in 0..width {
        let to = (channel * PAGE_TOKENS + slot) * element.bytes();
        let to = &mut keys[to..to + tokens * element.bytes()];
        write(element, to, rows.iter().skip(channel).step_by(width));
    }
}

/// Writes the values of consecutive tokens, `rows` of `width`, to the slots from `slot` of a page's value bytes.
pub(crate) fn write_values(element: Element, values: &mut [u8], rows: &[f32], width: usize, slot: usize) {
    let to = slot * width * element.bytes();
    write(element, &mut values[to..to + rows.len() * element.bytes()], rows.iter());
}

fn write<'a>(element: Element, to: &mut [u8], from: impl Iterator<Item = &'a f32>) {
    match element {
        Element::F32 => to.chunks_exact_mut(4).zip(from).for_each(|(to, x)| to.copy_from_slice(&x.to_ne_bytes())),
        Element::F16 => {
            to.chunks_exact_mut(2).zip(from).for_each(|(to, &x)| to.copy_from_slice(&f16::from_f32(x).to_ne_bytes()));
        }
        Element::Bf16 => {
            to.chunks_exact_mut(2).zip(from).for_each(|(to, &x)| to.copy_from_slice(&bf16::from_f32(x).to_ne_bytes()));
        }
        Element::E4m3 => to.iter_mut().zip(from).for_each(|(to, &x)| *to = e4m3_from_f32(x)),
        Element::E5m2 => to.iter_mut().zip(from).for_each(|(to, &x)| *to = e5m2_from_f32(x)),
    }
}

/// The keys of all tokens of a page, `rows` of `dim`.
pub(crate) fn read_keys(element: Element, keys: &[u8], width: usize, dim: usize, rows: &mut [f32]) {
    debug_assert!(width >= dim && rows.len().is_multiple_of(dim));
    for (channel, keys) in keys.chunks_exact(PAGE_TOKENS * element.bytes()).take(dim).enumerate() {
        read(element, keys, rows.iter_mut().skip(channel).step_by(dim));
    }
}

/// The values of all tokens of a page, `rows` of `dim`.
pub(crate) fn read_values(element: Element, values: &[u8], width: usize, dim: usize, rows: &mut [f32]) {
    for (values, row) in values.chunks_exact(width * element.bytes()).zip(rows.chunks_exact_mut(dim)) {
        read(element, values, row.iter_mut());
    }
}

fn read<'a>(element: Element, from: &[u8], to: impl Iterator<Item = &'a mut f32>) {
    let half = |b: &[u8]| u16::from_ne_bytes([b[0], b[1]]);
    match element {
        Element::F32 => {
            to.zip(from.chunks_exact(4)).for_each(|(to, b)| *to = f32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        }
        Element::F16 => to.zip(from.chunks_exact(2)).for_each(|(to, b)| *to = f16::from_bits(half(b)).to_f32()),
        Element::Bf16 => to.zip(from.chunks_exact(2)).for_each(|(to, b)| *to = bf16::from_bits(half(b)).to_f32()),
        Element::E4m3 => to.zip(from).for_each(|(to, &b)| *to = e4m3_to_f32(b)),
        Element::E5m2 => to.zip(from).for_each(|(to, &b)| *to = e5m2_to_f32(b)),
    }
}
