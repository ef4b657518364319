//! Products with a matrix of few entries.
//!
//! Rows travel side by side, a vector of them for every entry: with the entries outside and the rows inside, each entry
//! would touch as many cache lines as there are rows.

use cachalot_kernels::simd::{LANES, Simd};
use cachalot_kernels::transpose::add_transposed;
use cachalot_kernels::{Isa, dispatch};

/// An entry that takes from one column of the rows and adds to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Column of the factor.
    pub from: u16,
    /// Column of the result.
    pub to: u16,
    /// What the factor is multiplied with.
    pub value: f32,
}

/// `rows` of so many columns, one every `stride`.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub columns: usize,
    pub stride: usize,
}

/// Adds to every row of `y` the products of its row of `x` with the entries: first these alone, in order, then their sums
/// to `y`.
#[allow(clippy::too_many_arguments)]
pub(super) fn add_products(
    isa: Isa,
    entries: &[Entry],
    x: &[f32],
    x_lines: Lines,
    y: &mut [f32],
    y_lines: Lines,
    rows: usize,
    buffer: &mut Vec<f32>,
) {
    if entries.is_empty() || rows == 0 {
        return;
    }
    let side = rows.next_multiple_of(LANES);
    buffer.clear();
    buffer.resize((x_lines.columns + y_lines.columns) * side, 0.0);
    let (from, to) = buffer.split_at_mut(x_lines.columns * side);
    add_transposed(isa, x, x_lines.stride, rows, x_lines.columns, from, side);
    multiply(isa, entries, from, to, side);
    add_transposed(isa, to, side, y_lines.columns, rows, y, y_lines.stride);
}

dispatch! {
    fn multiply(entries: &[Entry], from: &[f32], to: &mut [f32], side: usize) = multiply_body
}

/// # Safety
/// `S`'s instructions are present.
#[inline(always)]
unsafe fn multiply_body<S: Simd>(entries: &[Entry], from: &[f32], to: &mut [f32], side: usize) {
    for entry in entries {
        let from = &from[usize::from(entry.from) * side..][..side];
        let to = &mut to[usize::from(entry.to) * side..][..side];
        for (from, to) in from.chunks_exact(LANES).zip(to.chunks_exact_mut(LANES)) {
            // SAFETY: the chunks have sixteen numbers.
            unsafe {
                let product = S::mul(S::load(from.as_ptr()), S::splat(entry.value));
                S::store(to.as_mut_ptr(), S::add(S::load(to.as_ptr()), product));
            }
        }
    }
}
