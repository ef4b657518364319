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
    if rows <= FEW {
        return multiply_few(isa, entries, x, x_lines, y, y_lines, rows, buffer);
    }
    let side = rows.next_multiple_of(LANES);
    buffer.clear();
    buffer.resize((x_lines.columns + y_lines.columns) * side, 0.0);
    let (from, to) = buffer.split_at_mut(x_lines.columns * side);
    add_transposed(isa, x, x_lines.stride, rows, x_lines.columns, from, side);
    multiply(isa, entries, from, to, side);
    add_transposed(isa, to, side, y_lines.columns, rows, y, y_lines.stride);
}

/// Rows that travel in a quarter of a vector: those of one sequence that decodes.
const FEW: usize = 4;

dispatch! {
    /// As [`add_products`], to the same bits.
    fn multiply_few(entries: &[Entry], x: &[f32], x_lines: Lines, y: &mut [f32], y_lines: Lines, rows: usize,
        buffer: &mut Vec<f32>) = multiply_few_body
}

// The set only says which features the loops are compiled with.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn multiply_few_body<S: Simd>(
    entries: &[Entry],
    x: &[f32],
    x_lines: Lines,
    y: &mut [f32],
    y_lines: Lines,
    rows: usize,
    buffer: &mut Vec<f32>,
) {
    buffer.clear();
    buffer.resize((x_lines.columns + y_lines.columns) * FEW, 0.0);
    let (from, to) = buffer.as_chunks_mut::<FEW>().0.split_at_mut(x_lines.columns);
    for (row, x) in x.chunks(x_lines.stride).enumerate().take(rows) {
        from.iter_mut().zip(x).for_each(|(from, &x)| from[row % FEW] = x);
    }
    for entry in entries {
        let (from, to) = (from[usize::from(entry.from)], &mut to[usize::from(entry.to)]);
        to.iter_mut().zip(from).for_each(|(to, from)| *to += from * entry.value);
    }
    for (row, y) in y.chunks_mut(y_lines.stride).enumerate().take(rows) {
        y.iter_mut().zip(&*to).for_each(|(y, to)| *y += to[row % FEW]);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gets_the_same_bits_in_any_company() {
        let number = |i: usize| (i as f32 * 0.731).sin() * 3.0;
        let entries: Vec<Entry> = (0..200)
            .map(|i| Entry { from: (i * 37 % 70) as u16, to: (i * 29 % 64) as u16, value: number(i) })
            .collect();
        let (x_lines, y_lines) = (Lines { columns: 70, stride: 80 }, Lines { columns: 64, stride: 64 });
        let x: Vec<f32> = (0..19 * 80).map(number).collect();
        for isa in Isa::available() {
            let mut all = vec![0.25; 19 * 64];
            add_products(isa, &entries, &x, x_lines, &mut all, y_lines, 19, &mut Vec::new());
            for rows in 1..=5 {
                let mut some = vec![0.25; rows * 64];
                add_products(isa, &entries, &x, x_lines, &mut some, y_lines, rows, &mut Vec::new());
                assert_eq!(some, all[..rows * 64], "{isa} {rows} rows");
            }
        }
    }
}
