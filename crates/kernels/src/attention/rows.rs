//! The state of an online softmax, row by row.

use crate::simd::{LANES, Simd};
use crate::{Isa, dispatch};

/// The tokens of a page that a row may see: `from..to`, within `0..=PAGE_TOKENS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visible {
    /// First visible token.
    pub from: u8,
    /// One past the last visible token.
    pub to: u8,
}

/// The running softmax of some query rows: maxima, sums and unnormalised outputs.
pub struct Rows<'a> {
    /// Largest score so far, `[rows]`; minus infinity before the first.
    pub max: &'a mut [f32],
    /// Sum of `exp(score - max)`, `[rows]`.
    pub sum: &'a mut [f32],
    /// Sum of `exp(score - max) * value`, `[rows][width]`.
    pub out: &'a mut [f32],
}

impl Rows<'_> {
    /// Forgets everything seen.
    pub fn clear(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.out.fill(0.0);
    }

    /// Takes in `part`, whose tokens come after those seen so far.
    pub fn merge(&mut self, isa: Isa, part: &Rows<'_>) {
        let rows = self.max.len();
        if rows == 0 {
            return;
        }
        let width = self.out.len() / rows;
        for row in 0..rows {
            if part.max[row] == f32::NEG_INFINITY {
                continue;
            }
            let span = row * width..(row + 1) * width;
            let max = if self.max[row] > part.max[row] { self.max[row] } else { part.max[row] };
            let mut factors = [self.max[row] - max, part.max[row] - max];
            exp_assign(isa, &mut factors);
            self.max[row] = max;
            self.sum[row] = self.sum[row].mul_add(factors[0], part.sum[row] * factors[1]);
            blend(isa, &mut self.out[span.clone()], &part.out[span], factors[0], factors[1]);
        }
    }

    /// One row's softmax-weighted mean of the values, cut to the length of `out` (heads narrower than a page's rows).
    pub fn finish(&self, row: usize, out: &mut [f32]) {
        let width = self.out.len() / self.max.len().max(1);
        for (out, &sum) in out.iter_mut().zip(&self.out[row * width..]) {
            *out = sum / self.sum[row];
        }
    }
}

dispatch! {
    /// `x = e^x`, each element, as [`Simd::exp`] computes it.
    fn exp_assign(x: &mut [f32; 2]) = exp_assign_body
}

#[inline(always)]
unsafe fn exp_assign_body<S: Simd>(x: &mut [f32; 2]) {
    let mut lanes = [0.0; LANES];
    lanes[..2].copy_from_slice(x);
    // SAFETY: `lanes` has sixteen elements; the features are the dispatcher's business.
    unsafe { S::store(lanes.as_mut_ptr(), S::exp(S::load(lanes.as_ptr()))) };
    x.copy_from_slice(&lanes[..2]);
}

dispatch! {
    /// `a = a * fa + b * fb`; lengths are equal multiples of sixteen.
    fn blend(a: &mut [f32], b: &[f32], fa: f32, fb: f32) = blend_body
}

#[inline(always)]
unsafe fn blend_body<S: Simd>(a: &mut [f32], b: &[f32], fa: f32, fb: f32) {
    for (a, b) in a.chunks_exact_mut(LANES).zip(b.chunks_exact(LANES)) {
        // SAFETY: the chunks have sixteen elements.
        unsafe {
            let scaled = S::mul(S::load(b.as_ptr()), S::splat(fb));
            S::store(a.as_mut_ptr(), S::fma(S::load(a.as_ptr()), S::splat(fa), scaled));
        }
    }
}
