//! Many short words in boxes: most of them are too far away to look into.

use super::first_of_least;
use crate::dispatch;
use crate::simd::{LANES, Simd};

/// Words of a box: a vector.
const LEAF: usize = LANES;

/// The words of a codebook in boxes of sixteen that lie near each other, by repeated halving of the widest channel.
#[derive(Clone, Debug)]
pub struct Leaves {
    dims: usize,
    /// Words, `[boxes][dims][LEAF]`.
    words: Vec<f32>,
    /// Their numbers in the codebook, `[boxes][LEAF]`.
    numbers: Vec<f32>,
    /// The least and the greatest of each channel of a box, `[boxes / 16][dims][2][16]`.
    ends: Vec<f32>,
}

impl Leaves {
    /// Of words `[count][dims]`, or nothing where it is not worth it: of few words or of many channels all boxes are near, and
    /// boxes must be full and fill vectors.
    pub fn new(words: &[f32], dims: usize) -> Option<Leaves> {
        let count = words.len() / dims;
        if dims > 8 || !(4 * LANES * LEAF..=1 << 16).contains(&count) || !count.is_multiple_of(LANES * LEAF) {
            return None;
        }
        let mut order: Vec<usize> = (0..count).collect();
        let number = |word: usize, j: usize| words[word * dims + j];
        halve(&mut order, dims, &number);
        let boxes = order.as_chunks::<LEAF>().0;
        let by_channel = |words: &[usize; LEAF]| {
            let words = *words;
            (0..dims).flat_map(move |j| words.map(|word| number(word, j)))
        };
        let ends = |boxes: &[[usize; LEAF]]| {
            let end = |j: usize, greatest: bool| -> Vec<f32> {
                let of = |words: &[usize; LEAF]| {
                    let channel = words.map(|word| number(word, j));
                    match greatest {
                        true => channel.into_iter().fold(f32::NEG_INFINITY, f32::max),
                        false => channel.into_iter().fold(f32::INFINITY, f32::min),
                    }
                };
                boxes.iter().map(of).collect()
            };
            (0..dims).flat_map(|j| [end(j, false), end(j, true)].concat()).collect::<Vec<_>>()
        };
        Some(Leaves {
            dims,
            words: boxes.iter().flat_map(by_channel).collect(),
            numbers: order.iter().map(|&word| word as f32).collect(),
            ends: boxes.chunks_exact(LANES).flat_map(ends).collect(),
        })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        4 * (self.words.len() + self.numbers.len() + self.ends.len())
    }

    fn boxes(&self) -> usize {
        self.numbers.len() / LEAF
    }
}

/// Orders words so that each box of them is a range: the half with the smaller numbers in the channel that is widest first.
fn halve(words: &mut [usize], dims: usize, number: &impl Fn(usize, usize) -> f32) {
    if words.len() <= LEAF {
        return;
    }
    let width = |j: usize| {
        let (least, greatest) = words.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, greatest), &word| {
            (least.min(number(word, j)), greatest.max(number(word, j)))
        });
        greatest - least
    };
    let widest = (0..dims).map(|j| (width(j), j)).max_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, j)| j);
    let middle = (words.len() / 2).next_multiple_of(LEAF);
    words.select_nth_unstable_by(middle, |&a, &b| number(a, widest).total_cmp(&number(b, widest)).then(a.cmp(&b)));
    let (low, high) = words.split_at_mut(middle);
    halve(low, dims, number);
    halve(high, dims, number);
}

dispatch! {
    /// Of each vector, `x_stride` numbers from one to the next, the word that [`super::nearest`] finds in the codebook.
    ///
    /// # Panics
    /// If `x` is too short.
    pub fn nearest_in(x: &[f32], x_stride: usize, leaves: &Leaves, found: &mut [u16]) = nearest_in_body
}

#[inline(always)]
unsafe fn nearest_in_body<S: Simd>(x: &[f32], x_stride: usize, leaves: &Leaves, found: &mut [u16]) {
    assert!(found.is_empty() || x.len() >= (found.len() - 1) * x_stride + leaves.dims);
    let mut bounds = vec![0.0; leaves.boxes()];
    for (i, found) in found.iter_mut().enumerate() {
        // SAFETY: `dims` numbers lie at each vector.
        *found = unsafe { search::<S>(x.as_ptr().add(i * x_stride), leaves, &mut bounds) } as u16;
    }
}

#[inline(always)]
unsafe fn search<S: Simd>(x: *const f32, leaves: &Leaves, bounds: &mut [f32]) -> usize {
    let dims = leaves.dims;
    // SAFETY: the caller's promise; there are as many boxes as bounds, a multiple of sixteen.
    unsafe {
        let zero = S::splat(0.0);
        let mut ascending = [0.0; LANES];
        ascending.iter_mut().enumerate().for_each(|(i, lane)| *lane = i as f32);
        // No word of a box is nearer than the box. Rounding keeps the order, so that holds of the numbers computed, too.
        let (mut least, mut at) = (S::splat(f32::INFINITY), zero);
        for v in (0..bounds.len()).step_by(LANES) {
            let mut sum = zero;
            for j in 0..dims {
                let ends = leaves.ends.as_ptr().add((v * dims + j * LANES) * 2);
                let x = S::splat(*x.add(j));
                let (below, above) = (S::sub(S::load(ends), x), S::sub(x, S::load(ends.add(LANES))));
                let off = S::max(S::max(below, above), zero);
                sum = S::fma(off, off, sum);
            }
            S::store(bounds.as_mut_ptr().add(v), sum);
            let nearer = S::lt(sum, least);
            least = S::select(nearer, sum, least);
            at = S::select(nearer, S::splat(v as f32), at);
        }
        let (first, _) = first_of_least::<S>(least, S::add(at, S::load(ascending.as_ptr())));
        let mut best = Best { least: S::splat(f32::INFINITY), number: zero, bound: f32::INFINITY };
        best.look::<S>(x, leaves, first);
        for v in (0..bounds.len()).step_by(LANES) {
            // Also boxes that are as near: the first of equals is wanted.
            let mut near = !S::lt(S::splat(best.bound), S::load(bounds.as_ptr().add(v)));
            while near != 0 {
                let lane = near.trailing_zeros() as usize;
                near &= near - 1;
                if v + lane != first && bounds[v + lane] <= best.bound {
                    best.look::<S>(x, leaves, v + lane);
                }
            }
        }
        first_of_least::<S>(best.least, best.number).0
    }
}

/// The nearest words so far, one a lane.
struct Best<F> {
    least: F,
    number: F,
    /// The least of `least`.
    bound: f32,
}

impl<F: Copy> Best<F> {
    /// Compares with the words of a box.
    #[inline(always)]
    unsafe fn look<S: Simd<F = F>>(&mut self, x: *const f32, leaves: &Leaves, leaf: usize) {
        // SAFETY: the caller's promise: the box is there.
        unsafe {
            let words = leaves.words.as_ptr().add(leaf * leaves.dims * LEAF);
            let mut sum = S::splat(0.0);
            for j in 0..leaves.dims {
                let off = S::sub(S::splat(*x.add(j)), S::load(words.add(j * LEAF)));
                sum = S::fma(off, off, sum);
            }
            let number = S::load(leaves.numbers.as_ptr().add(leaf * LEAF));
            let nearer = S::lt(sum, self.least);
            let finite = S::lt(sum, S::splat(f32::INFINITY));
            let same = finite & !(nearer | S::lt(self.least, sum)) & S::lt(number, self.number);
            self.least = S::select(nearer, sum, self.least);
            self.number = S::select(nearer | same, number, self.number);
            if nearer != 0 {
                self.bound = -S::reduce_max(S::sub(S::splat(0.0), self.least));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Codebook, nearest};
    use super::*;
    use crate::Isa;
    use crate::lookup::tests::sample;

    #[test]
    fn boxes_find_what_looking_at_all_words_finds() {
        for (dims, count) in [(4usize, 4096usize), (2, 1024), (8, 1024), (3, 2048)] {
            let mut words = sample(dims * count, 5);
            // Equal words, near and far apart.
            words.copy_within(7 * dims..8 * dims, 900 * dims);
            words.copy_within(7 * dims..8 * dims, 8 * dims);
            let stride = count;
            let by_channel: Vec<f32> = (0..dims).flat_map(|j| words.iter().skip(j).step_by(dims).copied()).collect();
            let book = Codebook { words: &by_channel, dims, stride, count };
            let leaves = Leaves::new(&words, dims).expect("many short words");
            let mut x = sample(300 * dims, 6);
            x.extend_from_slice(&words[900 * dims..902 * dims]);
            x.extend(std::iter::repeat_n(0.0, dims));
            x.extend(std::iter::repeat_n(f32::MAX, dims));
            x.extend(std::iter::repeat_n(f32::NAN, dims));
            x.extend(sample(20 * dims, 7).iter().map(|x| x * 50.0));
            for isa in Isa::available() {
                let mut found = vec![0; x.len() / dims];
                nearest_in(isa, &x, dims, &leaves, &mut found);
                for (x, &found) in x.chunks_exact(dims).zip(&found) {
                    assert_eq!(usize::from(found), nearest(isa, x, book).0, "{isa} {dims} {count} {x:?}");
                }
            }
        }
        assert!(Leaves::new(&sample(4 * 256, 1), 4).is_none());
    }
}
