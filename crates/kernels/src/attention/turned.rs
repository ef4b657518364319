//! Keys that are kept before rotary position: turned page by page, and scored while they are turned.

use super::PAGE_TOKENS;
use super::score::KEY_VECTORS;
use crate::dispatch;
use crate::simd::{LANES, Simd};

/// Rows up to which every tile of rows turns the keys for itself: there is one then.
const FEW: usize = 4;

dispatch! {
    /// Turns the pairs of a tile of keys: channel `i` with channel `i + pairs` by cosines and sines,
    /// `[pairs][2][PAGE_TOKENS]`. `tile` is `[2 pairs][PAGE_TOKENS]`.
    ///
    /// # Panics
    /// If the slices do not have these lengths.
    pub fn turn(tile: &mut [f32], angles: &[f32]) = turn_body
}

#[inline(always)]
unsafe fn turn_body<S: Simd>(tile: &mut [f32], angles: &[f32]) {
    assert!(tile.len() == angles.len() && tile.len().is_multiple_of(2 * PAGE_TOKENS));
    let (low, high) = tile.split_at_mut(tile.len() / 2);
    let pairs = low.chunks_exact_mut(PAGE_TOKENS).zip(high.chunks_exact_mut(PAGE_TOKENS));
    for ((low, high), angles) in pairs.zip(angles.chunks_exact(2 * PAGE_TOKENS)) {
        let (low, high, angles) = (low.as_mut_ptr(), high.as_mut_ptr(), angles.as_ptr());
        for at in (0..PAGE_TOKENS).step_by(LANES) {
            // SAFETY: every slice has `PAGE_TOKENS` numbers, the angles twice as many.
            unsafe {
                let (a, b) = turned::<S>(S::load(low.add(at)), S::load(high.add(at)), angles.add(at));
                S::store(low.add(at), a);
                S::store(high.add(at), b);
            }
        }
    }
}

/// A pair of vectors turned by the cosines at `angles` and the sines a page further on.
///
/// # Safety
/// There are so many; `S`'s instructions are present.
#[inline(always)]
pub(crate) unsafe fn turned<S: Simd>(a: S::F, b: S::F, angles: *const f32) -> (S::F, S::F) {
    // SAFETY: the caller's promise.
    unsafe {
        let (cos, sin) = (S::load(angles), S::load(angles.add(PAGE_TOKENS)));
        (S::sub(S::mul(a, cos), S::mul(b, sin)), S::add(S::mul(b, cos), S::mul(a, sin)))
    }
}

dispatch! {
    /// Writes the scores of every row with the keys of one page, `[width][PAGE_TOKENS]`: one chain of fused multiply-adds
    /// over the pairs of channels `i`, `i + pairs`, and then over those that do not turn. Where there are `angles` (as for
    /// [`turn`]) the keys are turned first, to the bits of [`turn`]; for many rows in the tile itself, which is scratch then.
    ///
    /// `q` is `[rows][width]`, rotated and scaled; `scores` is `[rows][PAGE_TOKENS]`. A row's scores are the same bits
    /// whatever rows travel with it.
    ///
    /// # Panics
    /// If the slices are shorter than that, or there are more pairs than channels.
    pub fn score_turned(q: &[f32], width: usize, pairs: usize, k: &mut [f32], angles: Option<&[f32]>,
        scores: &mut [f32]) = score_turned_body
}

#[inline(always)]
unsafe fn score_turned_body<S: Simd>(
    q: &[f32],
    width: usize,
    pairs: usize,
    k: &mut [f32],
    angles: Option<&[f32]>,
    scores: &mut [f32],
) {
    assert!(width > 0 && 2 * pairs <= width && q.len().is_multiple_of(width) && k.len() >= width * PAGE_TOKENS);
    let rows = q.len() / width;
    assert!(scores.len() >= rows * PAGE_TOKENS);
    let mut angles = angles.map(|angles| &angles[..2 * pairs * PAGE_TOKENS]);
    // SAFETY: lengths asserted above; the features are the dispatcher's business.
    unsafe {
        if rows > FEW
            && let Some(angles) = angles.take()
        {
            turn_body::<S>(&mut k[..2 * pairs * PAGE_TOKENS], angles);
        }
        let page = Page { width, pairs, k: k.as_ptr(), angles: angles.map_or(std::ptr::null(), <[f32]>::as_ptr) };
        let mut row = 0;
        while row < rows {
            let (q, scores) = (q.as_ptr().add(row * width), scores.as_mut_ptr().add(row * PAGE_TOKENS));
            row += match rows - row {
                1 => page.rows::<S, 1>(q, scores),
                2 => page.rows::<S, 2>(q, scores),
                3 => page.rows::<S, 3>(q, scores),
                _ => page.rows::<S, 4>(q, scores),
            };
        }
    }
}

/// The keys of a page; no angles where they are turned already.
struct Page {
    width: usize,
    pairs: usize,
    k: *const f32,
    angles: *const f32,
}

impl Page {
    /// Scores of `R` rows; returns `R`.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(&self, q: *const f32, scores: *mut f32) -> usize {
        // SAFETY: the caller's promise. As many vectors of tokens at once as leave every sum in a register.
        unsafe {
            match (S::REGISTERS >= 32, self.angles.is_null()) {
                (true, true) => self.tokens::<S, R, KEY_VECTORS, false>(q, scores),
                (true, false) => self.tokens::<S, R, KEY_VECTORS, true>(q, scores),
                (false, true) => self.tokens::<S, R, 1, false>(q, scores),
                (false, false) => self.tokens::<S, R, 1, true>(q, scores),
            }
        }
        R
    }

    #[inline(always)]
    unsafe fn tokens<S: Simd, const R: usize, const V: usize, const TURN: bool>(
        &self,
        q: *const f32,
        scores: *mut f32,
    ) {
        let half = self.pairs * PAGE_TOKENS;
        for first in (0..PAGE_TOKENS).step_by(V * LANES) {
            // SAFETY: `q` has R rows of `width`, `k` has `width` rows of PAGE_TOKENS, the angles as many as turn, and
            // `scores` R rows of PAGE_TOKENS.
            unsafe {
                let mut acc = [[S::splat(0.0); V]; R];
                for i in 0..self.pairs {
                    let k = self.k.add(i * PAGE_TOKENS + first);
                    let angles = self.angles.wrapping_add(2 * i * PAGE_TOKENS + first);
                    let mut keys = [[S::splat(0.0); 2]; V];
                    for (v, keys) in keys.iter_mut().enumerate() {
                        let (a, b) = (S::load(k.add(v * LANES)), S::load(k.add(half + v * LANES)));
                        let (a, b) = if TURN { turned::<S>(a, b, angles.add(v * LANES)) } else { (a, b) };
                        *keys = [a, b];
                    }
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let q = q.add(r * self.width + i);
                        let (a, b) = (S::splat(*q), S::splat(*q.add(self.pairs)));
                        for (acc, keys) in acc.iter_mut().zip(&keys) {
                            *acc = S::fma(b, keys[1], S::fma(a, keys[0], *acc));
                        }
                    }
                }
                for channel in 2 * self.pairs..self.width {
                    let k = self.k.add(channel * PAGE_TOKENS + first);
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let q = S::splat(*q.add(r * self.width + channel));
                        for (v, acc) in acc.iter_mut().enumerate() {
                            *acc = S::fma(q, S::load(k.add(v * LANES)), *acc);
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    fn numbers(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin()).collect()
    }

    #[test]
    fn scores_are_those_of_turned_keys_in_any_company_on_every_isa() {
        const ROWS: usize = 11;
        for (width, pairs) in [(64, 32), (80, 40), (32, 12), (16, 0)] {
            let (q, k) = (numbers(ROWS * width, 0.37), numbers(width * PAGE_TOKENS, 0.71));
            let angles = numbers(2 * pairs * PAGE_TOKENS, 0.13);
            let mut turned = k.clone();
            turn(Isa::Portable, &mut turned[..2 * pairs * PAGE_TOKENS], &angles);
            let mut expected = vec![0.0; ROWS * PAGE_TOKENS];
            score_turned(Isa::Portable, &q, width, pairs, &mut turned.clone(), None, &mut expected);
            for (i, score) in expected.iter().enumerate() {
                let (row, token) = (i / PAGE_TOKENS, i % PAGE_TOKENS);
                let products =
                    (0..width).map(|c| f64::from(q[row * width + c]) * f64::from(turned[c * PAGE_TOKENS + token]));
                assert!((f64::from(*score) - products.sum::<f64>()).abs() < 1e-5, "{width} {row} {token}");
            }
            for isa in Isa::available() {
                for rows in 1..=ROWS {
                    for angles in [Some(&angles[..]), None] {
                        let mut k = if angles.is_some() { k.clone() } else { turned.clone() };
                        let mut scores = vec![f32::NAN; rows * PAGE_TOKENS];
                        score_turned(isa, &q[..rows * width], width, pairs, &mut k, angles, &mut scores);
                        assert_eq!(scores, expected[..rows * PAGE_TOKENS], "{isa} {width} {pairs} {rows}");
                    }
                }
            }
        }
    }
}
