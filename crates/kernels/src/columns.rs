//! What becomes of decoded channels, sixteen tokens of some channels at a time, while they are in registers: scores, a
//! tile, or weighted sums.

use crate::attention::PAGE_TOKENS;
use crate::dispatch;
use crate::simd::{LANES, Simd};
use crate::transpose::Turn;

/// Vectors of a page's tokens.
pub(crate) const VECTORS: usize = PAGE_TOKENS / LANES;
/// Query rows that are taken from registers at once. Where more read a page, it is decoded to a tile.
pub const DIRECT_ROWS: usize = 4;

/// Does something with as many rows as a constant says, at most [`DIRECT_ROWS`]: their sums stay in registers.
macro_rules! of_rows {
    ($rows:expr, $count:ident => $call:expr) => {
        match $rows {
            0 => {}
            1 => {
                const $count: usize = 1;
                $call
            }
            2 => {
                const $count: usize = 2;
                $call
            }
            3 => {
                const $count: usize = 3;
                $call
            }
            _ => {
                const $count: usize = $crate::columns::DIRECT_ROWS;
                $call
            }
        }
    };
}

pub(crate) use of_rows;

/// Takes channels.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Sink<S: Simd> {
    /// Sixteen tokens, the `v`-th, of `N` channels from `channel`. Of all vectors of tokens channels come ascending, and of
    /// all channels vectors.
    unsafe fn take<const N: usize>(&mut self, v: usize, channel: usize, x: &[S::F; N]);
}

/// Products with `R` queries: one chain of fused multiply-adds over the channels, from zero.
pub(crate) struct Scores<S: Simd, const R: usize> {
    q: *const f32,
    width: usize,
    sums: [[S::F; R]; VECTORS],
}

impl<S: Simd, const R: usize> Scores<S, R> {
    /// `q` is `[R][width]`.
    #[inline(always)]
    pub(crate) unsafe fn new(q: *const f32, width: usize) -> Self {
        // SAFETY: the features are the dispatcher's business.
        unsafe { Scores { q, width, sums: [[S::splat(0.0); R]; VECTORS] } }
    }

    /// Adds them to `[R][PAGE_TOKENS]`.
    #[inline(always)]
    pub(crate) unsafe fn add_to(&self, scores: *mut f32) {
        for (v, sums) in self.sums.iter().enumerate() {
            for (r, &sum) in sums.iter().enumerate() {
                // SAFETY: by the contract.
                unsafe {
                    let to = scores.add(r * PAGE_TOKENS + v * LANES);
                    S::store(to, S::add(S::load(to), sum));
                }
            }
        }
    }
}

impl<S: Simd, const R: usize> Sink<S> for Scores<S, R> {
    #[inline(always)]
    unsafe fn take<const N: usize>(&mut self, v: usize, channel: usize, x: &[S::F; N]) {
        let sums = &mut self.sums[v];
        for (r, sum) in sums.iter_mut().enumerate() {
            for (i, &x) in x.iter().enumerate() {
                // SAFETY: a query has all channels.
                *sum = unsafe { S::fma(S::splat(*self.q.add(r * self.width + channel + i)), x, *sum) };
            }
        }
    }
}

/// Writes `[channels][PAGE_TOKENS]`, as sums that begin with zero: none is a negative zero.
pub(crate) struct Tile(pub *mut f32);

impl<S: Simd> Sink<S> for Tile {
    #[inline(always)]
    unsafe fn take<const N: usize>(&mut self, v: usize, channel: usize, x: &[S::F; N]) {
        for (i, &x) in x.iter().enumerate() {
            // SAFETY: there is room for all channels.
            unsafe {
                let x = S::add(x, S::splat(0.0));
                S::store(self.0.add((channel + i) * PAGE_TOKENS + v * LANES), x);
            }
        }
    }
}

dispatch! {
    /// **Adds** to `scores`, `[rows][PAGE_TOKENS]`, the products of queries `[rows][width]` with decoded keys,
    /// `[channels][PAGE_TOKENS]`: one chain of fused multiply-adds over the channels, from zero.
    ///
    /// # Panics
    /// If the slices are too short.
    pub fn score(q: &[f32], width: usize, keys: &[f32], channels: usize, scores: &mut [f32]) = score_body
}

#[inline(always)]
unsafe fn score_body<S: Simd>(q: &[f32], width: usize, keys: &[f32], channels: usize, scores: &mut [f32]) {
    let rows = q.len() / width;
    assert!(channels <= width && keys.len() >= channels * PAGE_TOKENS && scores.len() >= rows * PAGE_TOKENS);
    let mut at = 0;
    while at < rows {
        // SAFETY: lengths asserted above; `rows - at` rows are left.
        unsafe {
            let (q, scores) = (q.as_ptr().add(at * width), scores.as_mut_ptr().add(at * PAGE_TOKENS));
            if S::REGISTERS >= 32 && rows - at >= 6 {
                score_rows::<S, 6>(q, width, keys, channels, scores);
                at += 6;
            } else if S::REGISTERS >= 32 && rows - at >= 3 {
                score_rows::<S, 3>(q, width, keys, channels, scores);
                at += 3;
            } else {
                score_rows::<S, 1>(q, width, keys, channels, scores);
                at += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn score_rows<S: Simd, const R: usize>(
    q: *const f32,
    width: usize,
    keys: &[f32],
    channels: usize,
    scores: *mut f32,
) {
    // SAFETY: there are R rows and as many keys as channels.
    unsafe {
        let mut sums = [[S::splat(0.0); VECTORS]; R];
        for c in 0..channels {
            let mut x = [S::splat(0.0); VECTORS];
            for (v, x) in x.iter_mut().enumerate() {
                *x = S::load(keys.as_ptr().add(c * PAGE_TOKENS + v * LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let q = S::splat(*q.add(r * width + c));
                for (sum, &x) in sums.iter_mut().zip(&x) {
                    *sum = S::fma(q, x, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let to = scores.add(r * PAGE_TOKENS + v * LANES);
                S::store(to, S::add(S::load(to), sum));
            }
        }
    }
}

dispatch! {
    /// **Adds** `Σ weight · value` of values that lie channel by channel, `[width][PAGE_TOKENS]`, to `out`, `[rows][width]`,
    /// for at most [`DIRECT_ROWS`] rows of `weights`, `[rows][PAGE_TOKENS]`: one chain of fused multiply-adds over the tokens, as
    /// [`crate::attention::accumulate_page`] has it.
    ///
    /// # Panics
    /// If the slices are too short, or `width` is no multiple of sixteen.
    pub fn accumulate(values: &[f32], weights: &[f32], rows: usize, width: usize, out: &mut [f32]) = accumulate_body
}

#[inline(always)]
unsafe fn accumulate_body<S: Turn>(values: &[f32], weights: &[f32], rows: usize, width: usize, out: &mut [f32]) {
    assert!(width.is_multiple_of(LANES) && values.len() >= width * PAGE_TOKENS);
    assert!(weights.len() >= rows * PAGE_TOKENS && out.len() >= rows * width && rows <= DIRECT_ROWS);
    // SAFETY: lengths asserted above.
    unsafe { of_rows!(rows, R => accumulate_rows::<S, R>(values, weights, width, out)) }
}

#[inline(always)]
unsafe fn accumulate_rows<S: Turn, const R: usize>(values: &[f32], weights: &[f32], width: usize, out: &mut [f32]) {
    for c in (0..width).step_by(LANES) {
        for v in 0..VECTORS {
            // SAFETY: there are R rows of weights and outputs, and values of the width.
            unsafe {
                let from = values.as_ptr().add(c * PAGE_TOKENS + v * LANES);
                let mut square = [S::splat(0.0); LANES];
                for (i, x) in square.iter_mut().enumerate() {
                    *x = S::load(from.add(i * PAGE_TOKENS));
                }
                add_square::<S, R>(square, weights.as_ptr().add(v * LANES), out.as_mut_ptr().add(c), width);
            }
        }
    }
}

/// Adds sixteen tokens of sixteen channels, in order, by the weights `[R][PAGE_TOKENS]` to `[R][width]`.
#[inline(always)]
unsafe fn add_square<S: Turn, const R: usize>(square: [S::F; LANES], weights: *const f32, out: *mut f32, width: usize) {
    // SAFETY: by the contract.
    unsafe {
        let tokens = S::turn(square);
        let mut sums = [S::splat(0.0); R];
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = S::load(out.add(r * width));
        }
        for (t, &x) in tokens.iter().enumerate() {
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = S::fma(S::splat(*weights.add(r * PAGE_TOKENS + t)), x, *sum);
            }
        }
        for (r, &sum) in sums.iter().enumerate() {
            S::store(out.add(r * width), sum);
        }
    }
}

/// Sixteen channels as a square of sums that begin with zero.
#[inline(always)]
unsafe fn square<S: Simd, const N: usize>(x: &[S::F; N]) -> [S::F; LANES] {
    // SAFETY: the features are the dispatcher's business.
    unsafe {
        let mut square = [S::splat(0.0); LANES];
        for (to, &x) in square.iter_mut().zip(x) {
            *to = S::add(x, S::splat(0.0));
        }
        square
    }
}

/// Values that come sixteen channels at a time, by the weights `[R][PAGE_TOKENS]` added to `out`, `[R][width]`: the sums of
/// [`accumulate`].
pub(crate) struct Sums<const R: usize> {
    pub weights: *const f32,
    pub out: *mut f32,
    pub width: usize,
}

impl<S: Turn, const R: usize> Sink<S> for Sums<R> {
    #[inline(always)]
    unsafe fn take<const N: usize>(&mut self, v: usize, channel: usize, x: &[S::F; N]) {
        const { assert!(N == LANES) };
        // SAFETY: by the contract.
        unsafe {
            let (weights, out) = (self.weights.add(v * LANES), self.out.add(channel));
            add_square::<S, R>(square::<S, N>(x), weights, out, self.width);
        }
    }
}

/// Values that come sixteen channels at a time, written as `[PAGE_TOKENS][width]`, as sums that begin with zero.
pub(crate) struct Rows {
    pub to: *mut f32,
    pub width: usize,
}

impl<S: Turn> Sink<S> for Rows {
    #[inline(always)]
    unsafe fn take<const N: usize>(&mut self, v: usize, channel: usize, x: &[S::F; N]) {
        const { assert!(N == LANES) };
        // SAFETY: by the contract.
        unsafe {
            let tokens = S::turn(square::<S, N>(x));
            for (t, &x) in tokens.iter().enumerate() {
                S::store(self.to.add((v * LANES + t) * self.width + channel), x);
            }
        }
    }
}
