//! Rows of words from codebooks (product quantization), sixteen channels of a token at a time, or a channel of a page's
//! tokens at a time where words are few: see [`crate::lookup`] for tables of products.

use crate::attention::PAGE_TOKENS;
use crate::columns::{DIRECT_ROWS, Scores, Sink, Tile, VECTORS, of_rows};
use crate::dispatch;
use crate::simd::{LANES, Portable};
use crate::transpose::Turn;
use half::f16;

mod halves;

pub use halves::{Halves, score_halves, write_halves};

/// Words of a sub-space whose numbers fill a byte.
const BYTE: usize = 256;

/// A page's words.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// Half floats, `[sub-spaces][each][dims]`.
    pub words: &'a [u16],
    /// Words of a sub-space.
    pub each: usize,
    /// Channels of a sub-space: two, four, eight or a multiple of sixteen.
    pub dims: usize,
    /// Which, `[sub-spaces][PAGE_TOKENS]`.
    pub codes: &'a [u16],
    /// Channels, a multiple of sixteen.
    pub channels: usize,
}

impl Words<'_> {
    /// Whether words of so many channels fill vectors side by side.
    pub fn fit(dims: usize, channels: usize) -> bool {
        let short = matches!(dims, 2 | 4 | 8) && channels.is_multiple_of(LANES);
        short || dims > 0 && dims.is_multiple_of(LANES) && channels.is_multiple_of(dims)
    }

    fn assert(&self, width: usize) {
        let subspaces = self.channels / self.dims;
        assert!(Self::fit(self.dims, self.channels) && self.channels <= width);
        assert!(self.words.len() >= self.each * self.channels && self.codes.len() == subspaces * PAGE_TOKENS);
        let last = self.codes.iter().fold(0, |last, &code| code.max(last));
        assert!(usize::from(last) < self.each, "word {last} of {}", self.each);
    }
}

/// Puts words side by side.
#[allow(clippy::missing_safety_doc)]
trait Row: Turn {
    /// Words of `D` channels, at most eight, sixteen in all, of sub-spaces `stride` elements apart, by numbers [`PAGE_TOKENS`] apart.
    unsafe fn row<const D: usize>(words: *const u16, stride: usize, codes: *const u16) -> Self::F;
}

/// The `i`-th word of a row.
#[inline(always)]
unsafe fn word<const D: usize>(words: *const u16, stride: usize, codes: *const u16, i: usize) -> *const u16 {
    // SAFETY: by the contract.
    unsafe { words.add(i * stride + D * usize::from(*codes.add(i * PAGE_TOKENS))) }
}

impl Row for Portable {
    #[inline(always)]
    unsafe fn row<const D: usize>(words: *const u16, stride: usize, codes: *const u16) -> Self::F {
        // SAFETY: by the contract.
        std::array::from_fn(|c| unsafe { f16::from_bits(*word::<D>(words, stride, codes, c / D).add(c % D)).to_f32() })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Row, word};
    use crate::simd::{Avx2, Avx512};
    use std::arch::x86_64::*;

    /// Eight channels.
    #[inline(always)]
    unsafe fn eight<const D: usize>(words: *const u16, stride: usize, codes: *const u16, i: usize) -> __m128i {
        // SAFETY: by the contract.
        unsafe {
            if D == 8 {
                return _mm_loadu_si128(word::<D>(words, stride, codes, i).cast());
            }
            if D == 4 {
                let low = _mm_loadl_epi64(word::<D>(words, stride, codes, 2 * i).cast());
                let high = _mm_loadl_epi64(word::<D>(words, stride, codes, 2 * i + 1).cast());
                return _mm_unpacklo_epi64(low, high);
            }
            let two = |j: usize| word::<D>(words, stride, codes, 4 * i + j).cast::<i32>().read_unaligned();
            _mm_setr_epi32(two(0), two(1), two(2), two(3))
        }
    }

    impl Row for Avx2 {
        #[inline(always)]
        unsafe fn row<const D: usize>(words: *const u16, stride: usize, codes: *const u16) -> Self::F {
            // SAFETY: by the contract.
            unsafe {
                [
                    _mm256_cvtph_ps(eight::<D>(words, stride, codes, 0)),
                    _mm256_cvtph_ps(eight::<D>(words, stride, codes, 1)),
                ]
            }
        }
    }

    impl Row for Avx512 {
        #[inline(always)]
        unsafe fn row<const D: usize>(words: *const u16, stride: usize, codes: *const u16) -> Self::F {
            // SAFETY: by the contract.
            unsafe {
                let low = _mm256_castsi128_si256(eight::<D>(words, stride, codes, 0));
                _mm512_cvtph_ps(_mm256_inserti128_si256::<1>(low, eight::<D>(words, stride, codes, 1)))
            }
        }
    }
}

/// Sixteen channels of the token `t`, from the channel `c`, as sums that begin with zero.
#[inline(always)]
unsafe fn row<S: Row, const D: usize>(words: &Words<'_>, c: usize, t: usize) -> S::F {
    // SAFETY: `Words::assert` says that all words are there.
    unsafe {
        if D == LANES {
            let subspace = c / words.dims;
            let word = subspace * words.each + usize::from(*words.codes.as_ptr().add(subspace * PAGE_TOKENS + t));
            let x = S::load_f16(words.words.as_ptr().add(word * words.dims + c % words.dims));
            return S::add(x, S::splat(0.0));
        }
        let codes = words.codes.as_ptr().add(c / D * PAGE_TOKENS + t);
        S::add(S::row::<D>(words.words.as_ptr().add(c * words.each), D * words.each, codes), S::splat(0.0))
    }
}

/// Calls a function of `D`.
macro_rules! of_dims {
    ($words:expr, $f:ident::<S $(, $r:tt)?>($($arg:expr),*)) => {
        // SAFETY: lengths were asserted.
        unsafe {
            match $words.dims {
                2 => $f::<S, 2 $(, $r)?>($($arg),*),
                4 => $f::<S, 4 $(, $r)?>($($arg),*),
                8 => $f::<S, 8 $(, $r)?>($($arg),*),
                _ => $f::<S, 16 $(, $r)?>($($arg),*),
            }
        }
    };
}

dispatch! {
    /// **Adds** `Σ weight · value` to `out`, `[rows][width]`, for at most [`DIRECT_ROWS`] rows of `weights`,
    /// `[rows][PAGE_TOKENS]`: the sums of [`crate::attention::accumulate_page`] over what [`write_rows`] writes.
    ///
    /// # Panics
    /// If the slices are too short, the rows too many or a number is beyond the words.
    pub fn accumulate(words: Words<'_>, weights: &[f32], rows: usize, width: usize, out: &mut [f32]) = accumulate_body
}

#[inline(always)]
unsafe fn accumulate_body<S: Row>(words: Words<'_>, weights: &[f32], rows: usize, width: usize, out: &mut [f32]) {
    words.assert(width);
    assert!(rows <= DIRECT_ROWS && weights.len() >= rows * PAGE_TOKENS && out.len() >= rows * width);
    of_rows!(rows, R => of_dims!(words, accumulate_rows::<S, R>(&words, weights, width, out)))
}

#[inline(always)]
unsafe fn accumulate_rows<S: Row, const D: usize, const R: usize>(
    words: &Words<'_>,
    weights: &[f32],
    width: usize,
    out: &mut [f32],
) {
    for c in (0..words.channels).step_by(LANES) {
        // SAFETY: there are R rows.
        unsafe {
            let mut sums = [S::splat(0.0); R];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(out.as_ptr().add(r * width + c));
            }
            for t in 0..PAGE_TOKENS {
                let x = row::<S, D>(words, c, t);
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(S::splat(*weights.as_ptr().add(r * PAGE_TOKENS + t)), x, *sum);
                }
            }
            for (r, &sum) in sums.iter().enumerate() {
                S::store(out.as_mut_ptr().add(r * width + c), sum);
            }
        }
    }
}

dispatch! {
    /// Writes `[PAGE_TOKENS][width]`, zeros and the words.
    ///
    /// # Panics
    /// As [`accumulate`].
    pub fn write_rows(words: Words<'_>, to: &mut [f32], width: usize) = write_rows_body
}

#[inline(always)]
unsafe fn write_rows_body<S: Row>(words: Words<'_>, to: &mut [f32], width: usize) {
    words.assert(width);
    assert!(to.len() >= PAGE_TOKENS * width);
    of_dims!(words, write_rows_of::<S>(&words, to, width));
}

#[inline(always)]
unsafe fn write_rows_of<S: Row, const D: usize>(words: &Words<'_>, to: &mut [f32], width: usize) {
    for c in (0..words.channels).step_by(LANES) {
        for t in 0..PAGE_TOKENS {
            // SAFETY: there is room for all tokens.
            unsafe { S::store(to.as_mut_ptr().add(t * width + c), row::<S, D>(words, c, t)) };
        }
    }
}

/// Gives every channel.
#[inline(always)]
unsafe fn each<S: Row, const D: usize, K: Sink<S>>(words: &Words<'_>, sink: &mut K) {
    for c in (0..words.channels).step_by(LANES) {
        for v in 0..VECTORS {
            // SAFETY: by the contract.
            unsafe {
                let mut square = [S::splat(0.0); LANES];
                for (i, x) in square.iter_mut().enumerate() {
                    *x = row::<S, D>(words, c, v * LANES + i);
                }
                sink.take(v, c, &S::turn(square));
            }
        }
    }
}

dispatch! {
    /// **Adds** to `scores`, `[rows][PAGE_TOKENS]`, the products with queries `[rows][width]`, at most [`DIRECT_ROWS`]: those of
    /// [`crate::columns::score`] with what [`write`] writes.
    ///
    /// # Panics
    /// As [`accumulate`].
    pub fn score(words: Words<'_>, q: &[f32], width: usize, scores: &mut [f32]) = score_body
}

#[inline(always)]
unsafe fn score_body<S: Row>(words: Words<'_>, q: &[f32], width: usize, scores: &mut [f32]) {
    let rows = q.len() / width;
    words.assert(width);
    assert!(rows <= DIRECT_ROWS && scores.len() >= rows * PAGE_TOKENS);
    of_rows!(rows, R => of_dims!(words, score_rows::<S, R>(&words, q, width, scores)))
}

#[inline(always)]
unsafe fn score_rows<S: Row, const D: usize, const R: usize>(
    words: &Words<'_>,
    q: &[f32],
    width: usize,
    scores: &mut [f32],
) {
    // SAFETY: there are R rows.
    unsafe {
        let mut sink = Scores::<S, R>::new(q.as_ptr(), width);
        each::<S, D, _>(words, &mut sink);
        sink.add_to(scores.as_mut_ptr());
    }
}

dispatch! {
    /// Writes `[channels][PAGE_TOKENS]`, zeros and the words.
    ///
    /// # Panics
    /// As [`accumulate`].
    pub fn write(words: Words<'_>, to: &mut [f32]) = write_body
}

#[inline(always)]
unsafe fn write_body<S: Row>(words: Words<'_>, to: &mut [f32]) {
    words.assert(to.len() / PAGE_TOKENS);
    of_dims!(words, write_of::<S>(&words, to));
}

#[inline(always)]
unsafe fn write_of<S: Row, const D: usize>(words: &Words<'_>, to: &mut [f32]) {
    // SAFETY: there is room for all channels.
    unsafe { each::<S, D, _>(words, &mut Tile(to.as_mut_ptr())) }
}

#[cfg(test)]
mod tests;
