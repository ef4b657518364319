//! Rows read from elements with scales where they lie: the very operations of a tile that is decoded first, so the same bits.

use super::{BLOCK, Floats, load};
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::dispatch;
use cachalot_kernels::simd::{LANES, Simd};

/// Vectors of scores of one row over a page, and of channels that are summed up at once.
const VECTORS: usize = 4;

/// Calls a function for one to four rows at a time.
macro_rules! in_fours {
    ($rows:expr, $at:ident, $f:ident::<$s:ident, $e4m3:ident>($($arg:expr),*)) => {{
        let mut $at = 0;
        while $at < $rows {
            match $rows - $at {
                1 => { $f::<$s, $e4m3, 1>($($arg),*); $at += 1 }
                2 => { $f::<$s, $e4m3, 2>($($arg),*); $at += 2 }
                3 => { $f::<$s, $e4m3, 3>($($arg),*); $at += 3 }
                _ => { $f::<$s, $e4m3, 4>($($arg),*); $at += 4 }
            }
        }
    }};
}

dispatch! {
    /// Adds to `[rows][PAGE_TOKENS]` the products of `[rows][channels]` with the keys of a whole page.
    pub(super) fn score(e4m3: bool, page: Floats<'_>, q: &[f32], scores: &mut [f32]) = score_body
}

#[inline(always)]
unsafe fn score_body<S: Simd>(e4m3: bool, page: Floats<'_>, q: &[f32], scores: &mut [f32]) {
    let rows = q.len() / page.channels;
    page.check();
    assert!(scores.len() >= rows * PAGE_TOKENS);
    // SAFETY: the page is whole, and so are the rows.
    unsafe {
        if e4m3 { scores_of::<S, true>(page, q, rows, scores) } else { scores_of::<S, false>(page, q, rows, scores) }
    }
}

#[inline(always)]
unsafe fn scores_of<S: Simd, const E4M3: bool>(page: Floats<'_>, q: &[f32], rows: usize, scores: &mut [f32]) {
    let (q, scores, channels) = (q.as_ptr(), scores.as_mut_ptr(), page.channels);
    // SAFETY: the caller's promise.
    unsafe {
        in_fours!(rows, at, score_tile::<S, E4M3>(page, q.add(at * channels), scores.add(at * PAGE_TOKENS)));
    }
}

#[inline(always)]
unsafe fn score_tile<S: Simd, const E4M3: bool, const R: usize>(page: Floats<'_>, q: *const f32, scores: *mut f32) {
    let (codes, scales) = (page.codes.as_ptr(), page.scales.as_ptr());
    // SAFETY: `q` has R rows of channels, `scores` R of tokens, and the page all of both.
    unsafe {
        let mut acc = [[S::splat(0.0); VECTORS]; R];
        for block in 0..page.channels.div_ceil(BLOCK) {
            let mut scale = [S::splat(0.0); VECTORS];
            for (v, scale) in scale.iter_mut().enumerate() {
                *scale = S::load(scales.add(block * PAGE_TOKENS + v * LANES));
            }
            for channel in block * BLOCK..page.channels.min((block + 1) * BLOCK) {
                let mut keys = [S::splat(0.0); VECTORS];
                for (v, keys) in keys.iter_mut().enumerate() {
                    *keys = S::mul(load::<S, E4M3>(codes.add(channel * PAGE_TOKENS + v * LANES)), scale[v]);
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let q = S::splat(*q.add(r * page.channels + channel));
                    for (acc, &keys) in acc.iter_mut().zip(&keys) {
                        *acc = S::fma(q, keys, *acc);
                    }
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                let to = scores.add(r * PAGE_TOKENS + v * LANES);
                S::store(to, S::add(S::load(to), acc));
            }
        }
    }
}

dispatch! {
    /// Adds to `[rows][channels]` the values of a whole page by weights `[rows][PAGE_TOKENS]`.
    pub(super) fn accumulate(e4m3: bool, page: Floats<'_>, weights: &[f32], rows: usize, out: &mut [f32]) = accumulate_body
}

#[inline(always)]
unsafe fn accumulate_body<S: Simd>(e4m3: bool, page: Floats<'_>, weights: &[f32], rows: usize, out: &mut [f32]) {
    page.check();
    assert!(weights.len() >= rows * PAGE_TOKENS && out.len() >= rows * page.channels);
    // SAFETY: the page is whole, and so are the rows.
    unsafe {
        match e4m3 {
            true => sums_of::<S, true>(page, weights, rows, out),
            false => sums_of::<S, false>(page, weights, rows, out),
        }
    }
}

#[inline(always)]
unsafe fn sums_of<S: Simd, const E4M3: bool>(page: Floats<'_>, weights: &[f32], rows: usize, out: &mut [f32]) {
    let (weights, out, channels) = (weights.as_ptr(), out.as_mut_ptr(), page.channels);
    // SAFETY: the caller's promise.
    unsafe {
        in_fours!(rows, at, sum_tile::<S, E4M3>(page, weights.add(at * PAGE_TOKENS), out.add(at * channels)));
    }
}

#[inline(always)]
unsafe fn sum_tile<S: Simd, const E4M3: bool, const R: usize>(page: Floats<'_>, weights: *const f32, out: *mut f32) {
    let vectors = page.channels / LANES;
    // SAFETY: the caller's promise; columns lie within the channels.
    unsafe {
        let mut first = 0;
        while first + VECTORS <= vectors {
            columns::<S, E4M3, R, VECTORS>(page, weights, first, out);
            first += VECTORS;
        }
        while first < vectors {
            columns::<S, E4M3, R, 1>(page, weights, first, out);
            first += 1;
        }
    }
}

#[inline(always)]
unsafe fn columns<S: Simd, const E4M3: bool, const R: usize, const C: usize>(
    page: Floats<'_>,
    weights: *const f32,
    first: usize,
    out: *mut f32,
) {
    let (codes, scales, blocks) = (page.codes.as_ptr(), page.scales.as_ptr(), page.channels.div_ceil(BLOCK));
    // SAFETY: the caller's promise.
    unsafe {
        let at = |r: usize, c: usize| out.add(r * page.channels + (first + c) * LANES);
        // A loop and no closure, which would be a function of its own without the instruction set's features.
        let mut acc = [[S::splat(0.0); C]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (c, acc) in acc.iter_mut().enumerate() {
                *acc = S::load(at(r, c));
            }
        }
        for token in 0..PAGE_TOKENS {
            let mut values = [S::splat(0.0); C];
            for (c, values) in values.iter_mut().enumerate() {
                let scale = S::splat(*scales.add(token * blocks + (first + c) * LANES / BLOCK));
                *values = S::mul(load::<S, E4M3>(codes.add(token * page.channels + (first + c) * LANES)), scale);
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                let weight = S::splat(*weights.add(r * PAGE_TOKENS + token));
                for (acc, &values) in acc.iter_mut().zip(&values) {
                    *acc = S::fma(weight, values, *acc);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (c, &acc) in acc.iter().enumerate() {
                S::store(at(r, c), acc);
            }
        }
    }
}
