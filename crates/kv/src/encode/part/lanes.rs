//! Products of vectors whose lengths are multiples of sixteen.

use super::super::codec::Shape;
use cachalot_kernels::attention::{Element, PAGE_TOKENS, Visible, accumulate_page};
use cachalot_kernels::simd::{LANES, Simd};
use cachalot_kernels::{Isa, dispatch};

dispatch! {
    /// `Σ a b`, in sixteen lanes over ascending index, then summed in the fixed tree.
    pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 = dot_body
}

#[inline(always)]
pub(super) unsafe fn dot_body<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the chunks have sixteen elements; the features are the dispatcher's business.
    unsafe {
        let mut sum = S::splat(0.0);
        for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
            sum = S::fma(S::load(a.as_ptr()), S::load(b.as_ptr()), sum);
        }
        S::reduce_add(sum)
    }
}

dispatch! {
    /// `y += a x`, fused.
    pub(super) fn add_scaled(a: f32, x: &[f32], y: &mut [f32]) = add_scaled_body
}

#[inline(always)]
unsafe fn add_scaled_body<S: Simd>(a: f32, x: &[f32], y: &mut [f32]) {
    for (x, y) in x.chunks_exact(LANES).zip(y.chunks_exact_mut(LANES)) {
        // SAFETY: the chunks have sixteen elements; the features are the dispatcher's business.
        unsafe { S::store(y.as_mut_ptr(), S::fma(S::splat(a), S::load(x.as_ptr()), S::load(y.as_ptr()))) };
    }
}

dispatch! {
    /// `y[row] += Σ_i (x[row] · a_i) b_i` for rows of `x` and `y` with the lengths of `a_i` and `b_i`; one chain of fused
    /// multiply-adds in order of `i`.
    pub(super) fn add_projections(x: &[f32], a: &[f32], a_len: usize, b: &[f32], y: &mut [f32], y_len: usize) =
        add_projections_body
}

#[inline(always)]
unsafe fn add_projections_body<S: Simd>(x: &[f32], a: &[f32], a_len: usize, b: &[f32], y: &mut [f32], y_len: usize) {
    /// Products taken at once.
    const AT_ONCE: usize = 8;
    for (x, y) in x.chunks_exact(a_len).zip(y.chunks_exact_mut(y_len)) {
        for (a, b) in a.chunks(AT_ONCE * a_len).zip(b.chunks(AT_ONCE * y_len)) {
            let count = a.len() / a_len;
            let mut products = [0.0; AT_ONCE];
            for (product, a) in products.iter_mut().zip(a.chunks_exact(a_len)) {
                // SAFETY: the features are the dispatcher's business.
                *product = unsafe { dot_body::<S>(x, a) };
            }
            // SAFETY: as above.
            unsafe { add_combination_body::<S>(&products[..count], b, y) };
        }
    }
}

dispatch! {
    /// As [`add_projections`] with `a` and `b` of half floats, to the same bits; what is not finite counts as zero, as in
    /// [`super::fields::read_halves`]. For few rows, since every row widens them again.
    pub(super) fn add_half_projections(x: &[f32], a: &[u8], a_len: usize, b: &[u8], y: &mut [f32], y_len: usize) =
        add_half_projections_body
}

#[inline(always)]
unsafe fn add_half_projections_body<S: Simd>(x: &[f32], a: &[u8], a_len: usize, b: &[u8], y: &mut [f32], y_len: usize) {
    assert!(a_len.is_multiple_of(LANES) && y_len.is_multiple_of(LANES));
    for (x, y) in x.chunks_exact(a_len).zip(y.chunks_exact_mut(y_len)) {
        for (a, b) in a.chunks_exact(2 * a_len).zip(b.chunks_exact(2 * y_len)) {
            // SAFETY: the chunks have sixteen elements; the features are the dispatcher's business.
            unsafe {
                let mut sum = S::splat(0.0);
                for (x, a) in x.chunks_exact(LANES).zip(a.chunks_exact(2 * LANES)) {
                    sum = S::fma(S::load(x.as_ptr()), finite_halves::<S>(a), sum);
                }
                let product = S::splat(S::reduce_add(sum));
                for (y, b) in y.chunks_exact_mut(LANES).zip(b.chunks_exact(2 * LANES)) {
                    S::store(y.as_mut_ptr(), S::fma(product, finite_halves::<S>(b), S::load(y.as_ptr())));
                }
            }
        }
    }
}

/// Sixteen half floats, those that are not finite as zero.
///
/// # Safety
/// There are 32 bytes; `S`'s instructions are present.
#[inline(always)]
unsafe fn finite_halves<S: Simd>(from: &[u8]) -> S::F {
    // SAFETY: the caller's promise.
    unsafe {
        let x = S::load_f16(from.as_ptr().cast());
        S::select(S::lt(S::abs(x), S::splat(f32::INFINITY)), x, S::splat(0.0))
    }
}

dispatch! {
    /// `y += Σ_i factors[i] rows[i]`, rows as long as `y`: one chain of fused multiply-adds in order.
    pub(super) fn add_combination(factors: &[f32], rows: &[f32], y: &mut [f32]) = add_combination_body
}

#[inline(always)]
unsafe fn add_combination_body<S: Simd>(factors: &[f32], rows: &[f32], y: &mut [f32]) {
    /// Sums held in registers.
    const AT_ONCE: usize = 4;
    let n = y.len();
    assert!(n.is_multiple_of(LANES) && rows.len() >= factors.len() * n);
    let mut first = 0;
    while first < n {
        let vectors = ((n - first) / LANES).min(AT_ONCE);
        // SAFETY: lengths asserted above.
        unsafe {
            let mut sums = [S::splat(0.0); AT_ONCE];
            for (v, sum) in sums.iter_mut().enumerate().take(vectors) {
                *sum = S::load(y.as_ptr().add(first + v * LANES));
            }
            for (i, &factor) in factors.iter().enumerate() {
                let row = rows.as_ptr().add(i * n + first);
                for (v, sum) in sums.iter_mut().enumerate().take(vectors) {
                    *sum = S::fma(S::splat(factor), S::load(row.add(v * LANES)), *sum);
                }
            }
            for (v, &sum) in sums.iter().enumerate().take(vectors) {
                S::store(y.as_mut_ptr().add(first + v * LANES), sum);
            }
        }
        first += vectors * LANES;
    }
}

/// Adds `Σ weight · value` of decoded values, `[PAGE_TOKENS][width]`, to `out`, `[rows][width]`: one chain of fused
/// multiply-adds over the tokens.
pub(super) fn accumulate_tile(isa: Isa, tile: &[f32], shape: Shape, weights: &[f32], rows: usize, out: &mut [f32]) {
    /// Rows whose (full) sight is said at once.
    const AT_ONCE: usize = 64;
    let visible = [Visible { from: 0, to: shape.tokens.min(PAGE_TOKENS) as u8 }; AT_ONCE];
    // SAFETY: any `f32` is four bytes.
    let tile = unsafe { std::slice::from_raw_parts(tile.as_ptr().cast::<u8>(), 4 * tile.len()) };
    let width = shape.width();
    let out = out[..rows * width].chunks_mut(AT_ONCE * width);
    for (weights, out) in weights.chunks(AT_ONCE * PAGE_TOKENS).zip(out) {
        accumulate_page(isa, weights, tile, Element::F32, width, &visible[..out.len() / width], out);
    }
}
