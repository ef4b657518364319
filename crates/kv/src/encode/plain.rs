//! Plain elements: keys channel by channel, values token by token (see [`cachalot_kernels::attention`]).

use cachalot_kernels::attention::{Element, PAGE_TOKENS};
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
    }
}
