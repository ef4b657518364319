//! Products of all rows with all other rows, by the kernel that scores pages.

use crate::encode::codec::bytes_of;
use cachalot_kernels::Isa;
use cachalot_kernels::attention::{Element, PAGE_TOKENS, score_page};
use cachalot_kernels::simd::LANES;

/// Rows that are multiplied at once.
const ROWS: usize = 256;

/// Shows for every row of `rows` its products with up to a page of `others` in turn: `(row, first other, products)`. Both have
/// `dim` channels.
pub(crate) fn products(isa: Isa, rows: &[f32], others: &[f32], dim: usize, mut show: impl FnMut(usize, usize, &[f32])) {
    let width = dim.next_multiple_of(LANES);
    let mut padded = vec![0.0f32; rows.len() / dim * width];
    padded.chunks_exact_mut(width).zip(rows.chunks_exact(dim)).for_each(|(to, row)| to[..dim].copy_from_slice(row));
    let mut tile = vec![0.0f32; width * PAGE_TOKENS];
    let mut products = vec![0.0f32; ROWS * PAGE_TOKENS];
    for (page, others) in others.chunks(dim * PAGE_TOKENS).enumerate() {
        tile.fill(0.0);
        for (other, row) in others.chunks_exact(dim).enumerate() {
            row.iter().enumerate().for_each(|(channel, &x)| tile[channel * PAGE_TOKENS + other] = x);
        }
        for (part, rows) in padded.chunks(width * ROWS).enumerate() {
            let products = &mut products[..rows.len() / width * PAGE_TOKENS];
            score_page(isa, rows, width, bytes_of(&tile), Element::F32, products);
            for (row, products) in products.chunks_exact(PAGE_TOKENS).enumerate() {
                show(part * ROWS + row, page * PAGE_TOKENS, &products[..others.len() / dim]);
            }
        }
    }
}
