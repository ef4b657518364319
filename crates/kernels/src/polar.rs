//! Pairs of channels as radius and angle, with at most sixteen angles: their products with queries by tables of sixteen
//! entries that fill one vector.

use crate::attention::PAGE_TOKENS;
use crate::columns::VECTORS;
use crate::dispatch;
use crate::simd::{LANES, Portable, Simd};

mod blocks;

pub use blocks::{Blocks, accumulate_blocks, score_blocks, write_block_rows, write_blocks};

/// Loads from a table of sixteen.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Permute: Simd {
    /// `table[index[i] % 16]`, sixteen indices.
    unsafe fn permute(table: Self::F, index: *const u16) -> Self::F;
    /// Sixteen numbers.
    unsafe fn load_u16(p: *const u16) -> Self::I;
}

impl Permute for Portable {
    #[inline(always)]
    unsafe fn permute(table: Self::F, index: *const u16) -> Self::F {
        // SAFETY: by the contract.
        std::array::from_fn(|i| table[usize::from(unsafe { *index.add(i) } & 15)])
    }
    #[inline(always)]
    unsafe fn load_u16(p: *const u16) -> Self::I {
        // SAFETY: by the contract.
        std::array::from_fn(|i| i32::from(unsafe { *p.add(i) }))
    }
}

#[cfg(target_arch = "x86_64")]
impl Permute for crate::simd::Avx2 {
    #[inline(always)]
    unsafe fn permute(table: Self::F, index: *const u16) -> Self::F {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe {
            let [a, b] = Self::load_u16(index);
            // Bit three says which half of the table; blending looks at the sign.
            let (high_a, high_b) = (_mm256_slli_epi32::<28>(a), _mm256_slli_epi32::<28>(b));
            let [low, high] = table;
            let (low_a, low_b) = (_mm256_permutevar8x32_ps(low, a), _mm256_permutevar8x32_ps(low, b));
            let (top_a, top_b) = (_mm256_permutevar8x32_ps(high, a), _mm256_permutevar8x32_ps(high, b));
            [
                _mm256_blendv_ps(low_a, top_a, _mm256_castsi256_ps(high_a)),
                _mm256_blendv_ps(low_b, top_b, _mm256_castsi256_ps(high_b)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_u16(p: *const u16) -> Self::I {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe {
            [_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())), _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(8).cast()))]
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Permute for crate::simd::Avx512 {
    #[inline(always)]
    unsafe fn permute(table: Self::F, index: *const u16) -> Self::F {
        // SAFETY: by the contract.
        unsafe { std::arch::x86_64::_mm512_permutexvar_ps(Self::load_u16(index), table) }
    }
    #[inline(always)]
    unsafe fn load_u16(p: *const u16) -> Self::I {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())) }
    }
}

/// Horner's scheme, the highest power first.
#[inline(always)]
unsafe fn polynomial<S: Simd>(x: S::F, factors: [f32; 5]) -> S::F {
    // SAFETY: the features are the dispatcher's business.
    unsafe {
        let mut sum = S::splat(factors[0]);
        for &factor in &factors[1..] {
            sum = S::fma(sum, x, S::splat(factor));
        }
        sum
    }
}

/// Sine and cosine of angles of a few turns, absolute error below 3e-7.
#[inline(always)]
unsafe fn sin_cos<S: Simd>(x: S::F) -> (S::F, S::F) {
    // SAFETY: the features are the dispatcher's business.
    unsafe {
        let quarter = S::round(S::mul(x, S::splat(std::f32::consts::FRAC_2_PI)));
        // π/2 in two parts, so that the difference keeps its low bits.
        let r = S::fma(quarter, S::splat(-1.570_796_4), x);
        let r = S::fma(quarter, S::splat(4.371_139e-8), r);
        let square = S::mul(r, r);
        let sin = polynomial::<S>(square, [2.755_731_9e-6, -1.984_127e-4, 8.333_333e-3, -1.666_666_7e-1, 1.0]);
        let sin = S::mul(sin, r);
        let cos = polynomial::<S>(square, [2.480_158_7e-5, -1.388_888_9e-3, 4.166_666_8e-2, -0.5, 1.0]);
        // The quarter turn, from -2 to 2.
        let turn = S::fma(S::round(S::mul(quarter, S::splat(0.25))), S::splat(-4.0), quarter);
        let half = S::lt(S::splat(1.5), S::abs(turn));
        let (left, right) = (S::lt(S::splat(0.5), turn), S::lt(turn, S::splat(-0.5)));
        let odd = (left | right) & !half;
        let zero = S::splat(0.0);
        let (a, b) = (S::select(odd, cos, sin), S::select(odd, sin, cos));
        let sin = S::select(half | right, S::sub(zero, a), a);
        let cos = S::select(half | left, S::sub(zero, b), b);
        (sin, cos)
    }
}

dispatch! {
    /// `out[i] = scale[i] * table[codes[i] % 16]`, a multiple of sixteen.
    ///
    /// # Panics
    /// If the lengths are not equal multiples of sixteen.
    pub fn spread(table: &[f32; 16], codes: &[u16], scale: &[f32], out: &mut [f32]) = spread_body
}

#[inline(always)]
unsafe fn spread_body<S: Permute>(table: &[f32; 16], codes: &[u16], scale: &[f32], out: &mut [f32]) {
    assert!(codes.len() == out.len() && scale.len() == out.len() && out.len().is_multiple_of(LANES));
    // SAFETY: lengths asserted above.
    unsafe {
        let table = S::load(table.as_ptr());
        for i in (0..out.len()).step_by(LANES) {
            let found = S::permute(table, codes.as_ptr().add(i));
            S::store(out.as_mut_ptr().add(i), S::mul(S::load(scale.as_ptr().add(i)), found));
        }
    }
}

dispatch! {
    /// **Adds** blocks of sixteen channels in recursive polar coordinates to `[16][PAGE_TOKENS]`: from a radius, by the
    /// cosine and sine of an angle, two, and so on for four levels. `tables` are cosines and sines by code, those between
    /// single coordinates first; `codes` the eight, four, two and one angles, `[15][tokens]`; `radii` is `[tokens]`, a
    /// multiple of sixteen.
    ///
    /// # Panics
    /// If the slices are too short.
    pub fn add_block(tables: &[[[f32; 16]; 2]; 4], codes: &[u16], radii: &[f32], to: &mut [f32]) = add_block_body
}

#[inline(always)]
unsafe fn add_block_body<S: Permute>(tables: &[[[f32; 16]; 2]; 4], codes: &[u16], radii: &[f32], to: &mut [f32]) {
    let tokens = radii.len();
    assert!(tokens.is_multiple_of(LANES) && tokens <= PAGE_TOKENS && codes.len() >= 15 * tokens);
    assert!(to.len() >= 16 * PAGE_TOKENS);
    for v in (0..tokens).step_by(LANES) {
        // SAFETY: lengths asserted above.
        unsafe {
            let mut rows = [S::load(radii.as_ptr().add(v)); 16];
            for (level, first) in [(3, 14), (2, 12), (1, 8), (0, 0)] {
                let [cos, sin] = &tables[level];
                let (cos, sin) = (S::load(cos.as_ptr()), S::load(sin.as_ptr()));
                // From the last, so that a parent is read before its place is taken.
                for node in (0..8usize >> level).rev() {
                    let (radius, code) = (rows[node], codes.as_ptr().add((first + node) * tokens + v));
                    rows[2 * node] = S::mul(radius, S::permute(cos, code));
                    rows[2 * node + 1] = S::mul(radius, S::permute(sin, code));
                }
            }
            for (c, &row) in rows.iter().enumerate() {
                let to = to.as_mut_ptr().add(c * PAGE_TOKENS + v);
                S::store(to, S::add(S::load(to), row));
            }
        }
    }
}

/// Pairs of channels of a page's keys.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// The two channels of each pair.
    pub channels: &'a [[usize; 2]],
    /// Cosines, then sines of the sixteen angles of each pair, `[pairs][2][16]`: see [`tables`].
    pub tables: &'a [f32],
    /// `[pairs][PAGE_TOKENS]`.
    pub radii: &'a [f32],
    /// Which of the sixteen, `[pairs][PAGE_TOKENS]`.
    pub angles: &'a [u16],
}

dispatch! {
    /// Cosines and sines of the sixteen angles `(i + 1/2) step + first`, `[pairs][2][16]`, for `grid` of `[pairs]` of
    /// first and step.
    ///
    /// # Panics
    /// If `tables` is too short.
    pub fn tables(grid: &[[f32; 2]], tables: &mut [f32]) = tables_body
}

#[inline(always)]
unsafe fn tables_body<S: Simd>(grid: &[[f32; 2]], tables: &mut [f32]) {
    assert!(tables.len() >= grid.len() * 2 * LANES);
    let middles: [f32; LANES] = std::array::from_fn(|i| i as f32 + 0.5);
    for (&[first, step], table) in grid.iter().zip(tables.chunks_exact_mut(2 * LANES)) {
        // SAFETY: the chunk has twice sixteen elements.
        unsafe {
            let angles = S::fma(S::load(middles.as_ptr()), S::splat(step), S::splat(first));
            let (sin, cos) = sin_cos::<S>(angles);
            S::store(table.as_mut_ptr(), cos);
            S::store(table.as_mut_ptr().add(LANES), sin);
        }
    }
}

dispatch! {
    /// `out[i] = (codes[i] + 1/2) step + first`, a multiple of sixteen.
    ///
    /// # Panics
    /// If the lengths are not equal multiples of sixteen.
    pub fn middles(codes: &[u16], first: f32, step: f32, out: &mut [f32]) = middles_body
}

#[inline(always)]
unsafe fn middles_body<S: Permute>(codes: &[u16], first: f32, step: f32, out: &mut [f32]) {
    assert!(codes.len() == out.len() && out.len().is_multiple_of(LANES));
    for i in (0..out.len()).step_by(LANES) {
        // SAFETY: lengths asserted above.
        unsafe {
            let code = S::add(S::to_f32(S::load_u16(codes.as_ptr().add(i))), S::splat(0.5));
            S::store(out.as_mut_ptr().add(i), S::fma(code, S::splat(step), S::splat(first)));
        }
    }
}

dispatch! {
    /// **Adds** to `scores`, `[rows][PAGE_TOKENS]`, the products of queries `[rows][width]` with the pairs, in order:
    /// `radius * (q[a] cos + q[b] sin)`, the sum in brackets from a table of sixteen.
    ///
    /// # Panics
    /// If the slices are too short.
    pub fn score_pairs(q: &[f32], width: usize, pairs: Pairs<'_>, scores: &mut [f32]) = score_pairs_body
}

#[inline(always)]
unsafe fn score_pairs_body<S: Permute>(q: &[f32], width: usize, pairs: Pairs<'_>, scores: &mut [f32]) {
    let (n, rows) = (pairs.channels.len(), q.len() / width);
    assert!(pairs.channels.iter().flatten().all(|&c| c < width) && pairs.tables.len() >= n * 2 * LANES);
    assert!(pairs.radii.len() >= n * PAGE_TOKENS && pairs.angles.len() >= n * PAGE_TOKENS);
    assert!(scores.len() >= rows * PAGE_TOKENS);
    let mut at = 0;
    while at < rows {
        let (q, scores) = (&q[at * width..], &mut scores[at * PAGE_TOKENS..]);
        // SAFETY: lengths asserted above; `rows - at` rows are left.
        unsafe {
            if S::REGISTERS >= 32 && rows - at >= 3 {
                pair_rows::<S, 3>(q, width, pairs, scores);
                at += 3;
            } else {
                pair_rows::<S, 1>(q, width, pairs, scores);
                at += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn pair_rows<S: Permute, const R: usize>(q: &[f32], width: usize, pairs: Pairs<'_>, scores: &mut [f32]) {
    // SAFETY: there are R rows and as many pairs as the caller checked.
    unsafe {
        let mut sums = [[S::splat(0.0); VECTORS]; R];
        for (p, &[a, b]) in pairs.channels.iter().enumerate() {
            let table = pairs.tables.as_ptr().add(p * 2 * LANES);
            let (cos, sin) = (S::load(table), S::load(table.add(LANES)));
            let at = p * PAGE_TOKENS;
            for (r, sums) in sums.iter_mut().enumerate() {
                let q = q.as_ptr().add(r * width);
                let table = S::fma(S::splat(*q.add(a)), cos, S::mul(S::splat(*q.add(b)), sin));
                for (v, sum) in sums.iter_mut().enumerate() {
                    let found = S::permute(table, pairs.angles.as_ptr().add(at + v * LANES));
                    *sum = S::fma(S::load(pairs.radii.as_ptr().add(at + v * LANES)), found, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let to = scores.as_mut_ptr().add(r * PAGE_TOKENS + v * LANES);
                S::store(to, S::add(S::load(to), sum));
            }
        }
    }
}

#[cfg(test)]
mod tests;
