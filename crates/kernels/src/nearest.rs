//! The words of a codebook that are nearest to some vectors.

mod leaves;

pub use leaves::{Leaves, nearest_in};

use crate::dispatch;
use crate::simd::{LANES, Simd};

/// Codewords, channel by channel: `[dims][stride]`, of which the first `count` of each row are meant.
#[derive(Clone, Copy)]
pub struct Codebook<'a> {
    /// The numbers.
    pub words: &'a [f32],
    /// Numbers of a word.
    pub dims: usize,
    /// From one channel to the next: a multiple of sixteen that holds `count`.
    pub stride: usize,
    /// How many words, at most 65536.
    pub count: usize,
}

impl Codebook<'_> {
    fn check(&self) {
        let Codebook { words, dims, stride, count } = *self;
        assert!(stride.is_multiple_of(LANES) && (1..=stride.min(1 << 16)).contains(&count));
        assert!(words.len() >= dims * stride);
    }
}

/// Channels after which is asked whether any of the words may still be the nearest.
const STRIDE: usize = 8;

/// Vectors looked at together: one after the other, each would wait for its own comparisons.
const AT_ONCE: usize = 4;

dispatch! {
    /// The word nearest to `x` by the sum of squares, the first of equals, and its distance (infinite where all are).
    ///
    /// # Panics
    /// If `x` is too short or the codebook breaks what its fields promise.
    pub fn nearest(x: &[f32], book: Codebook<'_>) -> (usize, f32) = one_body
}

#[inline(always)]
unsafe fn one_body<S: Simd>(x: &[f32], book: Codebook<'_>) -> (usize, f32) {
    book.check();
    assert!(x.len() >= book.dims);
    // SAFETY: lengths asserted above.
    let [found] = unsafe { search::<S, 1>([x.as_ptr()], book) };
    found
}

dispatch! {
    /// Of each vector, `x_stride` numbers from one to the next, the word that [`nearest`] finds.
    ///
    /// # Panics
    /// As [`nearest`].
    pub fn nearest_each(x: &[f32], x_stride: usize, book: Codebook<'_>, found: &mut [u16]) = each_body
}

#[inline(always)]
unsafe fn each_body<S: Simd>(x: &[f32], x_stride: usize, book: Codebook<'_>, found: &mut [u16]) {
    book.check();
    assert!(found.is_empty() || x.len() >= (found.len() - 1) * x_stride + book.dims);
    for (first, found) in (0..).step_by(AT_ONCE).zip(found.chunks_mut(AT_ONCE)) {
        // Of fewer the last is looked at several times.
        let last = found.len() - 1;
        let mut of = [x.as_ptr(); AT_ONCE];
        for (i, of) in of.iter_mut().enumerate() {
            *of = of.wrapping_add((first + i.min(last)) * x_stride);
        }
        // SAFETY: lengths asserted above.
        let words = unsafe { search::<S, AT_ONCE>(of, book) };
        found.iter_mut().zip(words).for_each(|(found, (word, _))| *found = word as u16);
    }
}

#[inline(always)]
unsafe fn search<S: Simd, const N: usize>(x: [*const f32; N], book: Codebook<'_>) -> [(usize, f32); N] {
    // SAFETY: the caller's promise: `dims` numbers lie at each `x`, and the codebook keeps its own.
    unsafe {
        let (mut least, mut at) = ([S::splat(f32::INFINITY); N], [S::splat(0.0); N]);
        // The least distances of all lanes: words behind it in number must be nearer.
        let mut bounds = least;
        'words: for w in (0..book.count).step_by(LANES) {
            let mut sums = [S::splat(0.0); N];
            let mut j = 0;
            while j < book.dims {
                let end = (j + STRIDE).min(book.dims);
                while j < end {
                    let words = S::load(book.words.as_ptr().add(j * book.stride + w));
                    for (sum, &x) in sums.iter_mut().zip(&x) {
                        let off = S::sub(S::splat(*x.add(j)), words);
                        *sum = S::fma(off, off, *sum);
                    }
                    j += 1;
                }
                if j == book.dims {
                    break;
                }
                // Sums of squares only grow: words that are too far away by now are not nearer in the end.
                let mut nearer = 0;
                for (&sum, &bound) in sums.iter().zip(&bounds) {
                    nearer |= S::lt(sum, bound);
                }
                if nearer == 0 {
                    continue 'words;
                }
            }
            let meant = if book.count - w >= LANES { u16::MAX } else { (1 << (book.count - w)) - 1 };
            for i in 0..N {
                let nearer = S::lt(sums[i], least[i]) & meant;
                least[i] = S::select(nearer, sums[i], least[i]);
                at[i] = S::select(nearer, S::splat(w as f32), at[i]);
                if nearer != 0 && book.dims > STRIDE {
                    bounds[i] = S::splat(-S::reduce_max(S::sub(S::splat(0.0), least[i])));
                }
            }
        }
        let mut lanes = [0.0; LANES];
        lanes.iter_mut().enumerate().for_each(|(i, lane)| *lane = i as f32);
        let mut found = [(0, 0.0); N];
        for i in 0..N {
            let (word, distance) = first_of_least::<S>(least[i], S::add(at[i], S::load(lanes.as_ptr())));
            found[i] = (word.min(book.count - 1), distance);
        }
        found
    }
}

/// The least distance and the lowest number of a word among the lanes that have it.
#[inline(always)]
unsafe fn first_of_least<S: Simd>(least: S::F, number: S::F) -> (usize, f32) {
    // SAFETY: the features are the dispatcher's business.
    unsafe {
        let minimum = -S::reduce_max(S::sub(S::splat(0.0), least));
        let others = S::lt(S::splat(minimum), least);
        let below = S::sub(S::splat(0.0), number);
        let word = -S::reduce_max(S::select(others, S::splat(f32::NEG_INFINITY), below));
        (word as usize, minimum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::lookup::tests::sample;

    #[test]
    fn the_nearest_word_is_the_first_of_the_nearest() {
        for (dims, count) in [(1usize, 5usize), (2, 256), (3, 40), (64, 130)] {
            let stride = count.next_multiple_of(LANES);
            let mut words = sample(dims * stride, 3);
            // Twice the same word, and zeros in the padding, which would be nearest to zero.
            words.chunks_exact_mut(stride).for_each(|row| {
                row[count - 1] = row[1];
                row[count..].fill(0.0);
            });
            // The last is too far from any word for a distance that is a number.
            let mut x = sample(20 * dims, 4);
            x.resize(21 * dims, 0.0);
            x.extend(words.chunks_exact(stride).map(|row| row[1]));
            x.resize(23 * dims, f32::MAX);
            let found = |x: &[f32]| {
                let distance = |w: usize| {
                    let pairs = x.iter().zip(words.chunks_exact(stride));
                    pairs.fold(0.0f32, |sum, (x, row)| (x - row[w]).mul_add(x - row[w], sum))
                };
                let at = (1..count).fold(0, |at, w| if distance(w) < distance(at) { w } else { at });
                (at, distance(at))
            };
            let expected: Vec<(usize, f32)> = x.chunks_exact(dims).map(found).collect();
            let book = Codebook { words: &words, dims, stride, count };
            for isa in Isa::available() {
                for (x, &expected) in x.chunks_exact(dims).zip(&expected) {
                    assert_eq!(nearest(isa, x, book), expected, "{isa} {dims} {count}");
                }
                // All of them, and every second one.
                for step in [1, 2] {
                    let mut found = vec![u16::MAX; 23usize.div_ceil(step)];
                    nearest_each(isa, &x, step * dims, book, &mut found);
                    let expected = expected.iter().step_by(step).map(|&(word, _)| word as u16);
                    assert!(found.iter().copied().eq(expected), "{isa} {dims} {count} {step}");
                }
            }
            assert_eq!(found(&vec![f32::MAX; dims]), (0, f32::INFINITY));
        }
    }
}
