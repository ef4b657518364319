//! Scores of one page's keys.

use super::PAGE_TOKENS;
use super::element::{Element, Load, with_element};
use super::tiles::in_tiles;
use crate::dispatch;
use crate::simd::{LANES, Simd};

/// Vectors of scores of one row over a page.
pub(super) const KEY_VECTORS: usize = PAGE_TOKENS / LANES;
/// As many of them as fit fewer registers beside the sums of three rows.
const NARROW: usize = 2;

dispatch! {
    /// Writes the scores of every row with the tokens of one page: `scores[row][token] = Σ q[row][c] * k[c][token]`,
    /// one chain of fused multiply-adds over the channels.
    ///
    /// `q` is `[rows][width]`, already rotated and scaled; `k` is `[width][PAGE_TOKENS]`; `scores` is
    /// `[rows][PAGE_TOKENS]`. Tokens not yet written get scores too: [`super::soften`] hides them.
    ///
    /// # Panics
    /// If the slices are shorter than that, or `width` is no multiple of sixteen.
    pub fn score_page(q: &[f32], width: usize, k: &[u8], k_element: Element, scores: &mut [f32]) = score_page_body
}

#[inline(always)]
unsafe fn score_page_body<S: Simd>(q: &[f32], width: usize, k: &[u8], k_element: Element, scores: &mut [f32]) {
    assert!(width > 0 && width.is_multiple_of(LANES) && q.len().is_multiple_of(width));
    assert!(scores.len() >= q.len() / width * PAGE_TOKENS);
    assert!(k.len() >= width * PAGE_TOKENS * k_element.bytes());
    // SAFETY: lengths asserted above; the features are the dispatcher's business.
    unsafe { with_element!(k_element, E => score::<S, E>(q, width, k, scores)) }
}

#[inline(always)]
unsafe fn score<S: Simd, E: Load>(q: &[f32], width: usize, k: &[u8], scores: &mut [f32]) {
    in_tiles!(
        q.len() / width,
        at,
        score_tile,
        E,
        (q.as_ptr().add(at * width), width, k.as_ptr(), scores.as_mut_ptr().add(at * PAGE_TOKENS))
    );
}

#[inline(always)]
unsafe fn score_tile<S: Simd, E: Load, const R: usize>(q: *const f32, width: usize, k: *const u8, scores: *mut f32) {
    // SAFETY: `q` has R rows of `width`, `k` has `width * PAGE_TOKENS` elements, `scores` R rows of PAGE_TOKENS.
    unsafe {
        match (S::REGISTERS >= 32, R <= 3) {
            (true, _) => tokens::<S, E, R, KEY_VECTORS>(q, width, k, scores),
            (false, true) => tokens::<S, E, R, NARROW>(q, width, k, scores),
            (false, false) => tokens::<S, E, R, 1>(q, width, k, scores),
        }
    }
}

/// `V` vectors of tokens at a time.
#[inline(always)]
unsafe fn tokens<S: Simd, E: Load, const R: usize, const V: usize>(
    q: *const f32,
    width: usize,
    k: *const u8,
    scores: *mut f32,
) {
    for first in (0..PAGE_TOKENS).step_by(V * LANES) {
        // SAFETY: as for `score_tile`.
        unsafe { some_tokens::<S, E, R, V>(q, width, k, first, scores) };
    }
}

/// `V` vectors of tokens from `first` on.
#[inline(always)]
unsafe fn some_tokens<S: Simd, E: Load, const R: usize, const V: usize>(
    q: *const f32,
    width: usize,
    k: *const u8,
    first: usize,
    scores: *mut f32,
) {
    // SAFETY: as for `score_tile`.
    unsafe {
        let mut acc = [[S::splat(0.0); V]; R];
        for channel in 0..width {
            // A loop and no closure, which would be a function of its own without the instruction set's features.
            let mut keys = [S::splat(0.0); V];
            for (v, keys) in keys.iter_mut().enumerate() {
                *keys = E::load::<S>(k, channel * PAGE_TOKENS + first + v * LANES);
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                let q = S::splat(*q.add(r * width + channel));
                for (acc, &keys) in acc.iter_mut().zip(&keys) {
                    *acc = S::fma(q, keys, *acc);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                S::store(scores.add(r * PAGE_TOKENS + first + v * LANES), acc);
            }
        }
    }
}
