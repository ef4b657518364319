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
pub(super) const FEW: usize = 4;

/// Columns of a result that a byte can name.
const NAMED: usize = 256;

/// Entries whose column of the factor is their line's, the same number in every line, and whose column of the result is a
/// byte; those beyond the result's columns are none.
#[derive(Clone, Copy)]
pub(super) struct LineEntries<'a> {
    /// What the factor is multiplied with, `[lines][each]`.
    pub values: &'a [f32],
    /// Columns of the result, `[lines][each]`.
    pub places: &'a [u8],
    /// Entries of a line.
    pub each: usize,
}

dispatch! {
    /// As [`add_products`] of the same entries, to the same bits, for at most [`FEW`] rows.
    ///
    /// # Panics
    /// If there are more rows, no rows, more columns than a byte can name, or the slices are too short.
    pub(super) fn add_line_products(entries: LineEntries<'_>, x: &[f32], x_lines: Lines, y: &mut [f32], y_lines: Lines,
        rows: usize, buffer: &mut Vec<f32>) = add_line_products_body
}

// The set only says which features the loops are compiled with.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn add_line_products_body<S: Simd>(
    entries: LineEntries<'_>,
    x: &[f32],
    x_lines: Lines,
    y: &mut [f32],
    y_lines: Lines,
    rows: usize,
    buffer: &mut Vec<f32>,
) {
    assert!((1..=FEW).contains(&rows) && y_lines.columns <= NAMED);
    let LineEntries { values, places, each } = entries;
    // What is left in columns that nobody asks for does not matter.
    buffer.resize(buffer.len().max((x_lines.columns + 2 * NAMED) * FEW), 0.0);
    let (spare, buffer) = buffer.split_at_mut(NAMED * FEW);
    let (to, from) = buffer.as_chunks_mut::<FEW>().0.split_at_mut(NAMED);
    let Some(to) = to.first_chunk_mut::<NAMED>() else { return };
    to[..y_lines.columns].fill([0.0; FEW]);
    let from = &mut from[..x_lines.columns];
    // Rows that are not there get what the first gets, and are not looked at.
    let row = |r: usize| &x[if r < rows { r * x_lines.stride } else { 0 }..][..x_lines.columns];
    let (a, b, c, d) = (row(0), row(1), row(2), row(3));
    for ((((from, &a), &b), &c), &d) in from.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        *from = [a, b, c, d];
    }
    let mut add = |from: [f32; FEW], value: f32, place: u8| {
        let to = &mut to[usize::from(place)];
        for (to, from) in to.iter_mut().zip(from) {
            *to += from * value;
        }
    };
    if each == 2 {
        let lines = values.as_chunks::<2>().0.iter().zip(places.as_chunks::<2>().0);
        for (&from, (values, places)) in from.iter().zip(lines) {
            add(from, values[0], places[0]);
            add(from, values[1], places[1]);
        }
    } else if each > 0 {
        let lines = values.chunks_exact(each).zip(places.chunks_exact(each));
        for (&from, (values, places)) in from.iter().zip(lines) {
            values.iter().zip(places).for_each(|(&value, &place)| add(from, value, place));
        }
    }
    // Rows that are not there go where nobody looks, so that one loop reads all of a column.
    let mut all = y.chunks_mut(y_lines.stride).take(rows).chain(spare.chunks_exact_mut(NAMED));
    let mut row = || all.next().map(|row| &mut row[..y_lines.columns]);
    let (Some(a), Some(b), Some(c), Some(d)) = (row(), row(), row(), row()) else { return };
    for ((((to, a), b), c), d) in to.iter().zip(a).zip(b).zip(c).zip(d) {
        *a += to[0];
        *b += to[1];
        *c += to[2];
        *d += to[3];
    }
}

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
    fn entries_of_lines_give_the_bits_of_entries_one_by_one() {
        let number = |i: usize| (i as f32 * 0.731).sin() * 3.0;
        for (each, columns) in [(1, 64), (2, 64), (2, 80), (6, 256)] {
            let (x_lines, y_lines) = (Lines { columns: 70, stride: 80 }, Lines { columns, stride: columns + 16 });
            let values: Vec<f32> = (0..70 * each).map(number).collect();
            // Some beyond the columns, where there can be such.
            let places: Vec<u8> = (0..70 * each).map(|i| (i * 37 % 256) as u8).collect();
            let known = |&i: &usize| usize::from(places[i]) < columns;
            let entry = |i: usize| Entry { from: (i / each) as u16, to: places[i].into(), value: values[i] };
            let entries: Vec<Entry> = (0..70 * each).filter(known).map(entry).collect();
            let x: Vec<f32> = (0..FEW * 80).map(number).collect();
            let mut buffer = Vec::new();
            for isa in Isa::available() {
                for rows in 1..=FEW {
                    let mut expected = vec![0.25; rows * y_lines.stride];
                    let mut got = expected.clone();
                    add_products(isa, &entries, &x, x_lines, &mut expected, y_lines, rows, &mut Vec::new());
                    let lines = LineEntries { values: &values, places: &places, each };
                    add_line_products(isa, lines, &x, x_lines, &mut got, y_lines, rows, &mut buffer);
                    assert_eq!(got, expected, "{isa} {each} {columns} {rows}");
                }
            }
        }
    }

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
