//! Small dense products for tiles of one page: a change of basis of all its tokens at once.
//!
//! Every element is one chain of fused multiply-adds in the order of the inputs, so all instruction sets give the same bits.

use crate::dispatch;
use crate::simd::{LANES, Simd};

/// Numbers `[rows][inputs]`, wherever they lie.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// The numbers.
    pub data: &'a [f32],
    /// From a row to the next.
    pub row: usize,
    /// From an input to the next.
    pub input: usize,
    /// How many inputs.
    pub inputs: usize,
}

dispatch! {
    /// `out[row] += Σ weights[row][input] · from[input]`; `out` is `[rows][width]`, `from` is `[inputs][width]`, `width` a
    /// multiple of sixteen.
    ///
    /// # Panics
    /// If the slices do not have these lengths.
    pub fn combine(weights: Weights<'_>, from: &[f32], width: usize, out: &mut [f32]) = combine_body
}
dispatch! {
    /// Rounds to the nearest half floats, even ones where two are as near; what is beyond the largest becomes it. `to` has two
    /// bytes for each of `from`, which has a multiple of sixteen.
    ///
    /// # Panics
    /// If the slices do not have these lengths.
    pub fn to_f16(from: &[f32], to: &mut [u8]) = to_f16_body
}

#[inline(always)]
unsafe fn combine_body<S: Simd>(weights: Weights<'_>, from: &[f32], width: usize, out: &mut [f32]) {
    let Weights { data, row, input, inputs } = weights;
    assert!(width > 0 && width.is_multiple_of(LANES) && from.len() == inputs * width);
    assert!(out.len().is_multiple_of(width));
    let rows = out.len() / width;
    let last = (rows.max(1) - 1) * row + (inputs.max(1) - 1) * input;
    assert!(rows == 0 || inputs == 0 || last < data.len());
    // SAFETY: rows, inputs and columns stay below the lengths asserted above.
    unsafe {
        if S::REGISTERS >= 24 {
            blocks::<S, 8, 2>(data.as_ptr(), row, input, inputs, from, width, out);
        } else {
            blocks::<S, 4, 1>(data.as_ptr(), row, input, inputs, from, width, out);
        }
    }
}

#[inline(always)]
unsafe fn blocks<S: Simd, const R: usize, const C: usize>(
    data: *const f32,
    row: usize,
    input: usize,
    inputs: usize,
    from: &[f32],
    width: usize,
    out: &mut [f32],
) {
    let (from, rows, out) = (from.as_ptr(), out.len() / width, out.as_mut_ptr());
    let mut column = 0;
    while column < width {
        // SAFETY: the caller's.
        unsafe {
            let wide = column + C * LANES <= width;
            let mut at = 0;
            while at < rows {
                let (data, out) = (data.add(at * row), out.add(at * width + column));
                let from = from.add(column);
                at += match (wide, at + R <= rows) {
                    (true, true) => block::<S, R, C>(data, row, input, inputs, from, width, out),
                    (true, false) => block::<S, 1, C>(data, row, input, inputs, from, width, out),
                    (false, true) => block::<S, R, 1>(data, row, input, inputs, from, width, out),
                    (false, false) => block::<S, 1, 1>(data, row, input, inputs, from, width, out),
                };
            }
            column += if wide { C * LANES } else { LANES };
        }
    }
}

/// `R` rows of `C` vectors; returns `R`.
#[inline(always)]
unsafe fn block<S: Simd, const R: usize, const C: usize>(
    data: *const f32,
    row: usize,
    input: usize,
    inputs: usize,
    from: *const f32,
    width: usize,
    out: *mut f32,
) -> usize {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[S::splat(0.0); C]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (c, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(out.add(r * width + c * LANES));
            }
        }
        for i in 0..inputs {
            let mut x = [S::splat(0.0); C];
            for (c, x) in x.iter_mut().enumerate() {
                *x = S::load(from.add(i * width + c * LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = S::splat(*data.add(r * row + i * input));
                for (sum, &x) in sums.iter_mut().zip(&x) {
                    *sum = S::fma(weight, x, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (c, &sum) in sums.iter().enumerate() {
                S::store(out.add(r * width + c * LANES), sum);
            }
        }
    }
    R
}

#[inline(always)]
unsafe fn to_f16_body<S: Simd>(from: &[f32], to: &mut [u8]) {
    assert!(from.len().is_multiple_of(LANES) && to.len() == 2 * from.len());
    for (from, to) in from.chunks_exact(LANES).zip(to.chunks_exact_mut(2 * LANES)) {
        let mut halves = [0_u16; LANES];
        // SAFETY: sixteen numbers, and room for sixteen.
        unsafe {
            let x = S::max(S::splat(-65504.0), S::min(S::splat(65504.0), S::load(from.as_ptr())));
            S::store_f16(halves.as_mut_ptr(), x);
        }
        to.as_chunks_mut::<2>().0.iter_mut().zip(halves).for_each(|(to, half)| *to = half.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut x = seed;
        (0..n)
            .map(|_| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (x >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    #[test]
    fn a_product_is_the_chain_of_its_terms_on_every_instruction_set() {
        for (rows, inputs, width, turned) in
            [(64, 64, 64, false), (64, 64, 64, true), (5, 3, 48, true), (9, 1, 16, false)]
        {
            let (data, from) = (numbers(rows * inputs, 7), numbers(inputs * width, 8));
            let (row, input) = if turned { (1, rows) } else { (inputs, 1) };
            let start = numbers(rows * width, 9);
            let mut expected = start.clone();
            for r in 0..rows {
                for c in 0..width {
                    let out = &mut expected[r * width + c];
                    *out = (0..inputs).fold(*out, |sum, i| data[r * row + i * input].mul_add(from[i * width + c], sum));
                }
            }
            for isa in Isa::available() {
                let mut out = start.clone();
                combine(isa, Weights { data: &data, row, input, inputs }, &from, width, &mut out);
                assert!(out == expected, "{isa}: {rows} {inputs} {width}");
            }
        }
    }

    #[test]
    fn halves_are_the_nearest_and_never_infinite() {
        let mut from = numbers(64, 3);
        (from[0], from[1], from[2], from[3], from[4]) = (1e9, -1e9, 65519.0, 1.0 + 1.0 / 2048.0, 6e-8);
        for isa in Isa::available() {
            let mut to = vec![0; 128];
            to_f16(isa, &from, &mut to);
            let halves: Vec<u16> = to.as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b)).collect();
            assert_eq!(halves[..5], [0x7bff, 0xfbff, 0x7bff, 0x3c00, 0x0001], "{isa}");
        }
    }
}
