//! Directions looked up by their codes, in the way of each instruction set.

use super::{Coordinates, Octants};
use crate::attention::PAGE_TOKENS;
use crate::columns::VECTORS;
use crate::planes::Planes;
use crate::simd::{LANES, Portable, Simd};

/// Looks directions up.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Look: Planes {
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
