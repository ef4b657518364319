//! Words of two channels, as many as a byte can name: looked up in registers.

use super::BYTE;
use crate::attention::PAGE_TOKENS;
use crate::columns::{DIRECT_ROWS, Scores, Sink, Tile, VECTORS, of_rows};
use crate::dispatch;
use crate::planes::Planes;
use crate::simd::{LANES, Portable, Simd};
use half::f16;

/// Elements of 256 words, channel by channel, as half floats that are looked up within registers.
#[derive(Clone, Debug)]
pub struct Halves {
    /// `[channels][256]`.
    halves: Vec<[u16; BYTE]>,
    dims: usize,
}

impl Halves {
    /// From words `[sub-spaces][256][dims]`.
    pub fn new(words: &[u16], dims: usize) -> Halves {
        let of = |share: &[u16], j: usize| std::array::from_fn(|i| share[i * dims + j]);
        let halves = words.chunks_exact(BYTE * dims).flat_map(|share| (0..dims).map(move |j| of(share, j))).collect();
        Halves { halves, dims }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        2 * BYTE * self.halves.len()
    }

    fn channels(&self) -> usize {
        self.halves.len()
    }
}

/// Looks elements up.
#[allow(clippy::missing_safety_doc)]
trait Look: Planes {
    /// What [`Look::look`] makes of numbers once.
    type At: Copy;
    /// The numbers of a page's tokens.
    unsafe fn at(codes: *const u8) -> Self::At;
    /// Elements of a page's tokens.
    unsafe fn look(halves: &[u16; BYTE], at: Self::At) -> [Self::F; VECTORS];
}

impl Look for Portable {
    type At = [u8; PAGE_TOKENS];
    #[inline(always)]
    unsafe fn at(codes: *const u8) -> Self::At {
        // SAFETY: by the contract.
        unsafe { codes.cast::<Self::At>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn look(halves: &[u16; BYTE], at: Self::At) -> [Self::F; VECTORS] {
        let element = |code: u8| f16::from_bits(halves[usize::from(code)]).to_f32();
        std::array::from_fn(|v| std::array::from_fn(|i| element(at[v * LANES + i])))
    }
}

#[cfg(target_arch = "x86_64")]
impl Look for crate::simd::Avx2 {
    type At = [u8; PAGE_TOKENS];
    #[inline(always)]
    unsafe fn at(codes: *const u8) -> Self::At {
        // SAFETY: by the contract.
        unsafe { codes.cast::<Self::At>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn look(halves: &[u16; BYTE], at: Self::At) -> [Self::F; VECTORS] {
        let mut whole = [0u16; PAGE_TOKENS];
        for (to, &code) in whole.iter_mut().zip(&at) {
            *to = halves[usize::from(code)];
        }
        // SAFETY: there are four vectors of elements.
        unsafe {
            let mut vectors = [Self::splat(0.0); VECTORS];
            for (v, to) in vectors.iter_mut().enumerate() {
                *to = Self::load_f16(whole.as_ptr().add(v * LANES));
            }
            vectors
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{BYTE, Look};
    use crate::simd::Avx512;
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub struct At {
        /// Numbers as words, of which six bits are looked at.
        words: [__m512i; 2],
        /// The two bits above them.
        bits: [[__mmask32; 2]; 2],
    }

    impl Look for Avx512 {
        type At = At;
        #[inline(always)]
        unsafe fn at(codes: *const u8) -> At {
            // SAFETY: by the contract.
            unsafe {
                let codes = _mm512_loadu_si512(codes.cast());
                let low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(codes));
                let high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64::<1>(codes));
                let six = _mm512_test_epi8_mask(codes, _mm512_set1_epi8(64));
                let seven = _mm512_movepi8_mask(codes);
                let bits = [[six as u32, seven as u32], [(six >> 32) as u32, (seven >> 32) as u32]];
                At { words: [low, high], bits }
            }
        }
        #[inline(always)]
        unsafe fn look(halves: &[u16; BYTE], at: At) -> [__m512; 4] {
            // SAFETY: there are eight vectors of words.
            unsafe {
                let mut four = [[_mm512_setzero_si512(); 2]; 4];
                for (i, four) in four.iter_mut().enumerate() {
                    let low = _mm512_loadu_si512(halves.as_ptr().add(64 * i).cast());
                    let high = _mm512_loadu_si512(halves.as_ptr().add(64 * i + 32).cast());
                    *four = [
                        _mm512_permutex2var_epi16(low, at.words[0], high),
                        _mm512_permutex2var_epi16(low, at.words[1], high),
                    ];
                }
                let mut whole = [_mm512_setzero_ps(); 4];
                for h in 0..2 {
                    let low = _mm512_mask_blend_epi16(at.bits[h][0], four[0][h], four[1][h]);
                    let high = _mm512_mask_blend_epi16(at.bits[h][0], four[2][h], four[3][h]);
                    let found = _mm512_mask_blend_epi16(at.bits[h][1], low, high);
                    whole[2 * h] = _mm512_cvtph_ps(_mm512_castsi512_si256(found));
                    whole[2 * h + 1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(found));
                }
                whole
            }
        }
    }
}

/// Gives every channel of numbers `[sub-spaces][PAGE_TOKENS]`.
#[inline(always)]
unsafe fn each_half<S: Look, K: Sink<S>>(halves: &Halves, codes: &[u8], sink: &mut K) {
    assert!(codes.len() >= halves.channels() / halves.dims * PAGE_TOKENS);
    for (m, share) in halves.halves.chunks_exact(halves.dims).enumerate() {
        // SAFETY: there are numbers of all sub-spaces.
        unsafe {
            let at = S::at(codes.as_ptr().add(m * PAGE_TOKENS));
            for (j, halves) in share.iter().enumerate() {
                let found = S::look(halves, at);
                let (zero, c) = (S::splat(0.0), m * share.len() + j);
                // One by one: where sums are kept in registers depends on it.
                sink.take(0, c, &[S::add(found[0], zero)]);
                sink.take(1, c, &[S::add(found[1], zero)]);
                sink.take(2, c, &[S::add(found[2], zero)]);
                sink.take(3, c, &[S::add(found[3], zero)]);
            }
        }
    }
}

dispatch! {
    /// As [`score`], by numbers of a byte, `[sub-spaces][PAGE_TOKENS]`.
    ///
    /// # Panics
    /// If the slices are too short or the rows too many.
    pub fn score_halves(halves: &Halves, codes: &[u8], q: &[f32], width: usize, scores: &mut [f32]) = score_halves_body
}

#[inline(always)]
unsafe fn score_halves_body<S: Look>(halves: &Halves, codes: &[u8], q: &[f32], width: usize, scores: &mut [f32]) {
    let rows = q.len() / width;
    assert!(halves.channels() <= width && rows <= DIRECT_ROWS && scores.len() >= rows * PAGE_TOKENS);
    // SAFETY: lengths asserted above.
    unsafe { of_rows!(rows, R => score_half_rows::<S, R>(halves, codes, q, width, scores)) }
}

#[inline(always)]
unsafe fn score_half_rows<S: Look, const R: usize>(
    halves: &Halves,
    codes: &[u8],
    q: &[f32],
    width: usize,
    scores: &mut [f32],
) {
    // SAFETY: there are R rows.
    unsafe {
        let mut sink = Scores::<S, R>::new(q.as_ptr(), width);
        each_half::<S, _>(halves, codes, &mut sink);
        sink.add_to(scores.as_mut_ptr());
    }
}

dispatch! {
    /// As [`write`], by numbers of a byte, `[sub-spaces][PAGE_TOKENS]`.
    ///
    /// # Panics
    /// If the slices are too short.
    pub fn write_halves(halves: &Halves, codes: &[u8], to: &mut [f32]) = write_halves_body
}

#[inline(always)]
unsafe fn write_halves_body<S: Look>(halves: &Halves, codes: &[u8], to: &mut [f32]) {
    assert!(to.len() >= halves.channels() * PAGE_TOKENS);
    // SAFETY: lengths asserted above.
    unsafe { each_half::<S, _>(halves, codes, &mut Tile(to.as_mut_ptr())) }
}
