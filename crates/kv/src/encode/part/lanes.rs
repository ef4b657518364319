//! Products of vectors whose lengths are multiples of sixteen.

use super::super::codec::{Shape, bytes_of};
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
    let n = y.len();
    assert!(n.is_multiple_of(LANES) && rows.len() >= factors.len() * n);
    let mut first = 0;
    while first < n {
        // SAFETY: lengths asserted above; there are so many vectors from `first` on.
        unsafe {
            let (rows, y) = (rows.as_ptr().add(first), y.as_mut_ptr().add(first));
            first += LANES
                * match (n - first) / LANES {
                    1 => add_vectors::<S, 1>(factors, rows, n, y),
                    2 => add_vectors::<S, 2>(factors, rows, n, y),
                    3 => add_vectors::<S, 3>(factors, rows, n, y),
                    _ => add_vectors::<S, 4>(factors, rows, n, y),
                };
        }
    }
}

/// `V` vectors of [`add_combination`], whose sums are held in registers; returns `V`.
///
/// # Safety
/// There are so many from `y` on, and from every one of the rows, `stride` numbers from one to the next.
#[inline(always)]
unsafe fn add_vectors<S: Simd, const V: usize>(factors: &[f32], rows: *const f32, stride: usize, y: *mut f32) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [S::splat(0.0); V];
        for (v, sum) in sums.iter_mut().enumerate() {
            *sum = S::load(y.add(v * LANES));
        }
        for (i, &factor) in factors.iter().enumerate() {
            let row = rows.add(i * stride);
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = S::fma(S::splat(factor), S::load(row.add(v * LANES)), *sum);
            }
        }
        for (v, &sum) in sums.iter().enumerate() {
            S::store(y.add(v * LANES), sum);
        }
    }
    V
}

dispatch! {
    /// `part = Σ_i factors[i] columns[i]`, one chain of fused multiply-adds in order, and `rest = all - part`; as long as `all`.
    ///
    /// # Panics
    /// If a slice is shorter, or the length is no multiple of sixteen.
    pub(super) fn take_apart(all: &[f32], factors: &[f32], columns: &[&[f32]], part: &mut [f32], rest: &mut [f32]) =
        take_apart_body
}

#[inline(always)]
unsafe fn take_apart_body<S: Simd>(
    all: &[f32],
    factors: &[f32],
    columns: &[&[f32]],
    part: &mut [f32],
    rest: &mut [f32],
) {
    let n = all.len();
    assert!(n.is_multiple_of(LANES) && part.len() >= n && rest.len() >= n && factors.len() >= columns.len());
    assert!(columns.iter().all(|column| column.len() >= n));
    let mut first = 0;
    while first < n {
        // SAFETY: lengths asserted above; there are so many vectors from `first` on.
        unsafe {
            let (all, part, rest) =
                (all.as_ptr().add(first), part.as_mut_ptr().add(first), rest.as_mut_ptr().add(first));
            first += LANES
                * match (n - first) / LANES {
                    1..4 => take_vectors::<S, 1>(all, factors, columns, first, part, rest),
                    _ => take_vectors::<S, 4>(all, factors, columns, first, part, rest),
                };
        }
    }
}

/// `V` vectors of [`take_apart`], whose sums are held in registers; returns `V`.
///
/// # Safety
/// There are so many from all pointers on, and from `first` of every column.
#[inline(always)]
unsafe fn take_vectors<S: Simd, const V: usize>(
    all: *const f32,
    factors: &[f32],
    columns: &[&[f32]],
    first: usize,
    part: *mut f32,
    rest: *mut f32,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [S::splat(0.0); V];
        for (&factor, column) in factors.iter().zip(columns) {
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = S::fma(S::splat(factor), S::load(column.as_ptr().add(first + v * LANES)), *sum);
            }
        }
        for (v, &sum) in sums.iter().enumerate() {
            S::store(part.add(v * LANES), sum);
            S::store(rest.add(v * LANES), S::sub(S::load(all.add(v * LANES)), sum));
        }
    }
    V
}

/// Adds `Σ weight · value` of decoded values, `[PAGE_TOKENS][width]`, to `out`, `[rows][width]`: one chain of fused
/// multiply-adds over the tokens.
pub(super) fn accumulate_tile(isa: Isa, tile: &[f32], shape: Shape, weights: &[f32], rows: usize, out: &mut [f32]) {
    accumulate_elements(isa, bytes_of(tile), Element::F32, shape, weights, rows, out);
}

/// The same of values of any type.
pub(crate) fn accumulate_elements(
    isa: Isa,
    values: &[u8],
    element: Element,
    shape: Shape,
    weights: &[f32],
    rows: usize,
    out: &mut [f32],
) {
    /// Rows whose (full) sight is said at once.
    const AT_ONCE: usize = 64;
    let visible = [Visible { from: 0, to: shape.tokens.min(PAGE_TOKENS) as u8 }; AT_ONCE];
    let width = shape.width();
    let out = out[..rows * width].chunks_mut(AT_ONCE * width);
    for (weights, out) in weights.chunks(AT_ONCE * PAGE_TOKENS).zip(out) {
        accumulate_page(isa, weights, values, element, width, &visible[..out.len() / width], out);
    }
}
