//! Triplets of channels as directions that are alike in all octants, read from the packed codes of a page: see
//! [`crate::triplets`], which has them unpacked and of any table.
//!
//! The two sides of a direction have `b` bits each, the upper half of their levels the lower one mirrored. A mirrored side
//! mirrors a coordinate, and exchanged sides exchange the first two. So there are `4^(b-1)` different first and third
//! coordinates, at most 256: few enough to be looked up within registers, in two halves of sixteen bits.

use crate::attention::PAGE_TOKENS;
use crate::columns::{DIRECT_ROWS, Scores, Sink, Tile, VECTORS};
use crate::dispatch;
use crate::planes::Planes;
use crate::simd::{LANES, Portable, Simd};

/// Directions by the codes of their sides.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Octants {
    /// High halves of the first coordinate where no side is mirrored, by `second << (bits - 1) | first`.
    first_high: [u16; 256],
    first_low: [u16; 256],
    third_high: [u16; 256],
    third_low: [u16; 256],
    bits: usize,
}

impl Octants {
    /// From directions by `second << bits | first`, if they are alike in all octants and have sides of three to five bits.
    pub fn new(directions: &[[f32; 4]], bits: usize) -> Option<Octants> {
        if !(3..=5).contains(&bits) || directions.len() != 1 << (2 * bits) {
            return None;
        }
        let half = 1usize << (bits - 1);
        let mut octants =
            Octants { first_high: [0; 256], first_low: [0; 256], third_high: [0; 256], third_low: [0; 256], bits };
        for second in 0..half {
            for first in 0..half {
                let [x, _, z, _] = directions[(half + second) << bits | (half + first)].map(f32::to_bits);
                let at = second << (bits - 1) | first;
                (octants.first_high[at], octants.first_low[at]) = ((x >> 16) as u16, x as u16);
                (octants.third_high[at], octants.third_low[at]) = ((z >> 16) as u16, z as u16);
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
        let whole = |high: &[u16; 256], low: &[u16; 256], at: usize| u32::from(high[at]) << 16 | u32::from(low[at]);
        let x = whole(&self.first_high, &self.first_low, one) ^ mirror_a;
        let y = whole(&self.first_high, &self.first_low, other) ^ mirror_b;
        [x, y, whole(&self.third_high, &self.third_low, one)].map(f32::from_bits)
    }
}

/// Coordinates of the directions of a page's tokens.
type Coordinates<S> = [[<S as Simd>::F; VECTORS]; 3];

/// Looks directions up.
#[allow(clippy::missing_safety_doc)]
trait Look: Planes {
    /// The directions with sides of `B` bits, bytes in order of tokens.
    unsafe fn look<const B: u32>(octants: &Octants, first: Self::I, second: Self::I) -> Coordinates<Self>;
}

/// [`Look::look`] in plain Rust.
#[inline(always)]
fn look<const B: u32>(
    octants: &Octants,
    first: &[u8; PAGE_TOKENS],
    second: &[u8; PAGE_TOKENS],
) -> [[f32; PAGE_TOKENS]; 3] {
    let mut found = [[0.0; PAGE_TOKENS]; 3];
    let within = (1usize << B) - 1;
    for (t, (&a, &b)) in first.iter().zip(second).enumerate() {
        let [x, y, z] = octants.direction(usize::from(a) & within, usize::from(b) & within);
        (found[0][t], found[1][t], found[2][t]) = (x, y, z);
    }
    found
}

impl Look for Portable {
    #[inline(always)]
    unsafe fn look<const B: u32>(octants: &Octants, first: Self::I, second: Self::I) -> Coordinates<Self> {
        let bytes = |x: Self::I| std::array::from_fn(|i: usize| x[i / 4].to_le_bytes()[i % 4]);
        let found = look::<B>(octants, &bytes(first), &bytes(second));
        found.map(|x| std::array::from_fn(|v| std::array::from_fn(|i| x[v * LANES + i])))
    }
}

#[cfg(target_arch = "x86_64")]
impl Look for crate::simd::Avx2 {
    #[inline(always)]
    unsafe fn look<const B: u32>(octants: &Octants, first: Self::I, second: Self::I) -> Coordinates<Self> {
        let mut bytes = [[0u8; PAGE_TOKENS]; 2];
        // SAFETY: both have 64 bytes; of each coordinate there are four vectors.
        unsafe {
            Self::istore(bytes[0].as_mut_ptr().cast(), first);
            Self::istore(bytes[1].as_mut_ptr().cast(), second);
            let found = look::<B>(octants, &bytes[0], &bytes[1]);
            let mut vectors = [[Self::splat(0.0); VECTORS]; 3];
            for (vectors, found) in vectors.iter_mut().zip(&found) {
                for (v, to) in vectors.iter_mut().enumerate() {
                    *to = Self::load(found.as_ptr().add(v * LANES));
                }
            }
            vectors
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{Coordinates, Look, Octants};
    use crate::simd::Avx512;
    use std::arch::x86_64::*;

    /// Words of a table by their numbers, in both halves of a page.
    #[inline(always)]
    unsafe fn words<const B: u32>(table: &[u16; 256], at: [__m512i; 2], bits: [[__mmask32; 2]; 2]) -> [__m512i; 2] {
        // SAFETY: there are eight vectors of words; the features are the caller's business.
        unsafe {
            // No closures: they would be compiled without the features.
            let table: *const __m512i = table.as_ptr().cast();
            let mut found = [_mm512_setzero_si512(); 2];
            match B {
                3 => {
                    let table = _mm512_load_si512(table);
                    for h in 0..2 {
                        found[h] = _mm512_permutexvar_epi16(at[h], table);
                    }
                }
                4 => {
                    let (low, high) = (_mm512_load_si512(table), _mm512_load_si512(table.add(1)));
                    for h in 0..2 {
                        found[h] = _mm512_permutex2var_epi16(low, at[h], high);
                    }
                }
                _ => {
                    let mut four = [found; 4];
                    for (i, four) in four.iter_mut().enumerate() {
                        let (low, high) =
                            (_mm512_load_si512(table.add(2 * i)), _mm512_load_si512(table.add(2 * i + 1)));
                        for h in 0..2 {
                            four[h] = _mm512_permutex2var_epi16(low, at[h], high);
                        }
                    }
                    for h in 0..2 {
                        let low = _mm512_mask_blend_epi16(bits[h][0], four[0][h], four[1][h]);
                        let high = _mm512_mask_blend_epi16(bits[h][0], four[2][h], four[3][h]);
                        found[h] = _mm512_mask_blend_epi16(bits[h][1], low, high);
                    }
                }
            }
            found
        }
    }

    impl Look for Avx512 {
        #[inline(always)]
        unsafe fn look<const B: u32>(octants: &Octants, first: __m512i, second: __m512i) -> Coordinates<Self> {
            // SAFETY: the features are the dispatcher's business.
            unsafe {
                let below = _mm512_set1_epi8((1 << (B - 1)) - 1);
                let half = _mm512_set1_epi8(1 << (B - 1));
                // In such an order that words of one half, unpacked, are sixteen tokens and the sixteen after them.
                let order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
                let (first, second) = (_mm512_permutexvar_epi32(order, first), _mm512_permutexvar_epi32(order, second));
                let mirrored = [_mm512_testn_epi8_mask(first, half), _mm512_testn_epi8_mask(second, half)];
                let mut folded = [_mm512_and_si512(first, below), _mm512_and_si512(second, below)];
                for (folded, &mirrored) in folded.iter_mut().zip(&mirrored) {
                    *folded = _mm512_mask_sub_epi8(*folded, mirrored, below, *folded);
                }
                let shift = _mm_cvtsi32_si128(B as i32 - 1);
                let one = _mm512_or_si512(folded[0], _mm512_sll_epi16(folded[1], shift));
                let other = _mm512_or_si512(folded[1], _mm512_sll_epi16(folded[0], shift));
                let mut at = [[_mm512_setzero_si512(); 2]; 2];
                let mut bits = [[[0; 2]; 2]; 2];
                for (i, x) in [one, other].into_iter().enumerate() {
                    at[i][0] = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(x));
                    at[i][1] = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64::<1>(x));
                    if B == 5 {
                        let six = _mm512_test_epi8_mask(x, _mm512_set1_epi8(64));
                        let seven = _mm512_movepi8_mask(x);
                        bits[i] = [[six as u32, seven as u32], [(six >> 32) as u32, (seven >> 32) as u32]];
                    }
                }
                let sign = _mm512_set1_epi16(i16::MIN);
                let mut found = [[_mm512_setzero_ps(); 4]; 3];
                let axes = [
                    (&octants.first_high, &octants.first_low, 0, mirrored[0]),
                    (&octants.first_high, &octants.first_low, 1, mirrored[1]),
                    (&octants.third_high, &octants.third_low, 0, 0),
                ];
                for (found, (high, low, i, mirrored)) in found.iter_mut().zip(axes) {
                    let (high, low) = (words::<B>(high, at[i], bits[i]), words::<B>(low, at[i], bits[i]));
                    for h in 0..2 {
                        let high = _mm512_mask_add_epi16(high[h], (mirrored >> (32 * h)) as u32, high[h], sign);
                        found[2 * h] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low[h], high));
                        found[2 * h + 1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low[h], high));
                    }
                }
                found
            }
        }
    }
}

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
    unsafe {
        match rows {
            0 => {}
            1 => score_rows::<S, 1>(packed, q, width, scores),
            2 => score_rows::<S, 2>(packed, q, width, scores),
            3 => score_rows::<S, 3>(packed, q, width, scores),
            _ => score_rows::<S, 4>(packed, q, width, scores),
        }
    }
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
mod tests {
    use super::*;
    use crate::Isa;
    use crate::columns;
    use crate::triplets::{Triplets, add_triplets};

    /// Directions as numbers that are alike in all octants, exactly.
    fn directions(bits: usize) -> Vec<[f32; 4]> {
        let half = 1i32 << (bits - 1);
        let side = |code: i32| if code < half { code - half } else { code - half + 1 };
        let at = |a: i32, b: i32| a as f32 / 7.0 + (b * b) as f32 / 300.0 * a.signum() as f32;
        let all = (0..1 << (2 * bits)).map(|i| (side(i & (2 * half - 1)), side(i >> bits)));
        all.map(|(a, b)| [at(a, b), at(b, a), 1.0 - (a * a + b * b) as f32 / 90.0, 0.0]).collect()
    }

    #[test]
    fn octants_need_directions_that_are_alike() {
        let mut all = directions(4);
        assert!(Octants::new(&all, 4).is_some() && Octants::new(&all, 5).is_none());
        all[77][1] += 1e-3;
        assert!(Octants::new(&all, 4).is_none());
    }

    /// What is read from the codes is what the unpacked triplets say, to the bit, and so are products with it.
    #[test]
    fn packed_triplets_are_the_unpacked_ones() {
        for (bits, channels) in [(3usize, 64usize), (4, 80), (5, 64), (5, 21)] {
            let directions = directions(bits);
            let octants = Octants::new(&directions, bits).unwrap();
            let (n, stride, each) = (channels.div_ceil(3), 8 * (3 * bits - 2), PAGE_TOKENS);
            let codes: Vec<u8> = (0..n * stride).map(|i| (i * i * 7 + i * 131 + i / 9) as u8).collect();
            let (mut direction, mut part) = (vec![0u16; n * each], vec![0u16; n * each]);
            let field = |run: &[u8], bits: usize, t: usize| {
                let (mut at, mut shift, mut field) = (0, 0, 0);
                for plane in [4, 2, 1].into_iter().filter(|plane| bits & plane != 0) {
                    let byte = run[at + t % (8 * plane)] >> (t / (8 * plane) * plane);
                    field |= u16::from(byte & ((1 << plane) - 1)) << shift;
                    (at, shift) = (at + 8 * plane, shift + plane);
                }
                field
            };
            for (i, run) in codes.chunks_exact(stride).enumerate() {
                for t in 0..each {
                    let sides = [field(run, bits, t), field(&run[8 * bits..], bits, t)];
                    direction[i * each + t] = sides[1] << bits | sides[0];
                    part[i * each + t] = field(&run[16 * bits..], bits - 2, t);
                }
            }
            let parts = std::array::from_fn(|i| i as f32 * 0.5 + 0.25);
            let lengths: [f32; PAGE_TOKENS] = std::array::from_fn(|t| if t % 9 == 0 { 0.0 } else { t as f32 - 3.5 });
            let of = Triplets {
                directions: &directions,
                parts: &parts,
                lengths: &lengths,
                direction: &direction,
                part: &part,
            };
            let mut expected = vec![0.0; channels * each];
            add_triplets(Isa::Portable, of, channels, &mut expected);
            let q: Vec<f32> = (0..4 * channels).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
            let mut products = vec![0.5; 4 * each];
            columns::score(Isa::Portable, &q, channels, &expected, channels, &mut products);
            let packed = Packed { octants: &octants, parts: &parts, lengths: &lengths, codes: &codes, channels };
            let bits_of = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            for isa in Isa::available() {
                let mut to = vec![f32::NAN; channels * each];
                write(isa, packed, &mut to);
                assert_eq!(bits_of(&to), bits_of(&expected), "{isa} {bits} {channels}");
                for rows in 1..=4 {
                    let mut scores = vec![0.5; rows * each];
                    score(isa, packed, &q[..rows * channels], channels, &mut scores);
                    assert_eq!(bits_of(&scores), bits_of(&products[..rows * each]), "{isa} {bits} {channels} {rows}");
                }
            }
        }
    }
}
