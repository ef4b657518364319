//! Triplets of channels as directions that are alike in all octants, read from the packed codes of a page: see
//! [`crate::triplets`], which has them unpacked and of any table.
//!
//! The two sides of a direction have `b` bits each, the upper half of their levels the lower one mirrored. A mirrored side
//! mirrors a coordinate, and exchanged sides exchange the first two. So there are `4^(b-1)` different first and third
//! coordinates, at most 256: few enough to be looked up within registers, in two halves of sixteen bits.

use crate::attention::PAGE_TOKENS;
use crate::columns::{DIRECT_ROWS, Scores, Sink, Tile, VECTORS, of_rows};
use crate::dispatch;
use crate::simd::{LANES, Simd};
use look::Look;

mod look;

/// Directions by the codes of their sides.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Octants {
    /// High halves of the first coordinate where no side is mirrored, by `second << (bits - 1) | first`.
    first_high: [u16; 256],
    first_low: [u16; 256],
    third_high: [u16; 256],
    third_low: [u16; 256],
    /// Both halves at once: the first and the third coordinates.
    whole: [[f32; 256]; 2],
    bits: usize,
}

impl Octants {
    /// From directions by `second << bits | first`, if they are alike in all octants and have sides of three to five bits.
    pub fn new(directions: &[[f32; 4]], bits: usize) -> Option<Octants> {
        if !(3..=5).contains(&bits) || directions.len() != 1 << (2 * bits) {
            return None;
        }
        let half = 1usize << (bits - 1);
        let (halves, whole) = ([0; 256], [[0.0; 256]; 2]);
        let mut octants =
            Octants { first_high: halves, first_low: halves, third_high: halves, third_low: halves, whole, bits };
        for second in 0..half {
            for first in 0..half {
                let [x, _, z, _] = directions[(half + second) << bits | (half + first)].map(f32::to_bits);
                let at = second << (bits - 1) | first;
                (octants.first_high[at], octants.first_low[at]) = ((x >> 16) as u16, x as u16);
                (octants.third_high[at], octants.third_low[at]) = ((z >> 16) as u16, z as u16);
                (octants.whole[0][at], octants.whole[1][at]) = (f32::from_bits(x), f32::from_bits(z));
            }
        }
        let alike = directions.iter().enumerate().all(|(i, direction)| {
            let found = octants.direction(i & (2 * half - 1), i >> bits);
            found.iter().zip(direction).all(|(a, b)| a.to_bits() == b.to_bits())
        });
        alike.then_some(octants)
    }

    /// The coordinates of a direction.
    #[inline(always)]
    fn direction(&self, first: usize, second: usize) -> [f32; 3] {
        let half = 1usize << (self.bits - 1);
        // Below the middle a level counts from it, too.
        let fold =
            |code: usize| if code & half == 0 { (!code & (half - 1), 1u32 << 31) } else { (code & (half - 1), 0) };
        let ((a, mirror_a), (b, mirror_b)) = (fold(first), fold(second));
        let (one, other) = (b << (self.bits - 1) | a, a << (self.bits - 1) | b);
        let [x, y] = [(one, mirror_a), (other, mirror_b)].map(|(at, mirror)| self.whole[0][at].to_bits() ^ mirror);
        [f32::from_bits(x), f32::from_bits(y), self.whole[1][one]]
    }
}

/// Coordinates of the directions of a page's tokens.
type Coordinates<S> = [[<S as Simd>::F; VECTORS]; 3];

/// Encoded triplets of a page of [`PAGE_TOKENS`].
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// Directions.
    pub octants: &'a Octants,
    /// Parts of the length of a row; the numbers have two bits less than those of a side.
    pub parts: &'a [f32; 16],
    /// The lengths of the rows.
    pub lengths: &'a [f32; PAGE_TOKENS],
    /// Per triplet: numbers of the first and the second sides and of parts, packed in planes.
    pub codes: &'a [u8],
    /// Channels of a row: three a triplet, in the last as many as there are.
    pub channels: usize,
}

impl Packed<'_> {
    /// Bytes of a triplet.
    fn stride(&self) -> usize {
        8 * (3 * self.octants.bits - 2)
    }

    fn assert(&self) {
        assert!(self.codes.len() >= self.channels.div_ceil(3) * self.stride());
    }
}

#[inline(always)]
unsafe fn each<S: Look, K: Sink<S>>(packed: Packed<'_>, sink: &mut K) {
    // SAFETY: by the contract.
    unsafe {
        match packed.octants.bits {
            3 => each_of::<S, K, 3, 1>(packed, sink),
            4 => each_of::<S, K, 4, 2>(packed, sink),
            _ => each_of::<S, K, 5, 3>(packed, sink),
        }
    }
}

#[inline(always)]
unsafe fn each_of<S: Look, K: Sink<S>, const B: usize, const P: usize>(packed: Packed<'_>, sink: &mut K) {
    let (channels, stride) = (packed.channels, packed.stride());
    // SAFETY: there are as many bytes as `Packed::assert` says.
    unsafe {
        let parts = S::load(packed.parts.as_ptr());
        for i in 0..channels.div_ceil(3) {
            let codes = packed.codes.as_ptr().add(i * stride);
            let (first, second) = (S::fields::<B>(codes), S::fields::<B>(codes.add(8 * B)));
            let part = S::fields::<P>(codes.add(16 * B));
            let found = match B {
                3 => S::look::<3>(packed.octants, first, second),
                4 => S::look::<4>(packed.octants, first, second),
                _ => S::look::<5>(packed.octants, first, second),
            };
            let triplet = Triplet::<S> { found, part, parts, lengths: packed.lengths, channel: 3 * i };
            match channels - 3 * i {
                1 => triplet.give::<K, 1>(sink),
                2 => triplet.give::<K, 2>(sink),
                _ => triplet.give::<K, 3>(sink),
            }
        }
    }
}

/// Directions and parts of a page's tokens.
struct Triplet<'a, S: Look> {
    found: Coordinates<S>,
    part: S::I,
    parts: S::F,
    lengths: &'a [f32; PAGE_TOKENS],
    channel: usize,
}

impl<S: Look> Triplet<'_, S> {
    /// The first `N` channels.
    #[inline(always)]
    unsafe fn give<K: Sink<S>, const N: usize>(&self, sink: &mut K) {
        // SAFETY: the features are the dispatcher's business. One by one: where sums are kept in registers depends on it.
        unsafe {
            self.vector::<K, N>(0, sink);
            self.vector::<K, N>(1, sink);
            self.vector::<K, N>(2, sink);
            self.vector::<K, N>(3, sink);
        }
    }

    #[inline(always)]
    unsafe fn vector<K: Sink<S>, const N: usize>(&self, v: usize, sink: &mut K) {
        // SAFETY: there are lengths of all tokens.
        unsafe {
            let part = S::pick(self.parts, S::spread(self.part, v));
            let length = S::mul(S::load(self.lengths.as_ptr().add(v * LANES)), part);
            let mut scaled = [length; N];
            for (scaled, found) in scaled.iter_mut().zip(&self.found) {
                *scaled = S::mul(found[v], length);
            }
            sink.take(v, self.channel, &scaled);
        }
    }
}

dispatch! {
    /// **Adds** to `scores`, `[rows][PAGE_TOKENS]`, the products with queries `[rows][width]`, at most [`DIRECT_ROWS`]: those of
    /// [`crate::columns::score`] with what [`write`] decodes.
    ///
    /// # Panics
    /// If the slices are too short or the rows too many.
    pub fn score(packed: Packed<'_>, q: &[f32], width: usize, scores: &mut [f32]) = score_body
}

#[inline(always)]
unsafe fn score_body<S: Look>(packed: Packed<'_>, q: &[f32], width: usize, scores: &mut [f32]) {
    let rows = q.len() / width;
    packed.assert();
    assert!(packed.channels <= width && rows <= DIRECT_ROWS && scores.len() >= rows * PAGE_TOKENS);
    // SAFETY: lengths asserted above.
    unsafe { of_rows!(rows, R => score_rows::<S, R>(packed, q, width, scores)) }
}

#[inline(always)]
unsafe fn score_rows<S: Look, const R: usize>(packed: Packed<'_>, q: &[f32], width: usize, scores: &mut [f32]) {
    // SAFETY: there are R rows.
    unsafe {
        let mut sink = Scores::<S, R>::new(q.as_ptr(), width);
        each::<S, _>(packed, &mut sink);
        sink.add_to(scores.as_mut_ptr());
    }
}

dispatch! {
    /// Writes rows of `[channels][PAGE_TOKENS]`: `0 + direction (length part)`.
    ///
    /// # Panics
    /// If the slices are too short.
    pub fn write(packed: Packed<'_>, to: &mut [f32]) = write_body
}

#[inline(always)]
unsafe fn write_body<S: Look>(packed: Packed<'_>, to: &mut [f32]) {
    packed.assert();
    assert!(to.len() >= packed.channels * PAGE_TOKENS);
    // SAFETY: lengths asserted above.
    unsafe { each::<S, _>(packed, &mut Tile(to.as_mut_ptr())) }
}

#[cfg(test)]
mod tests;
