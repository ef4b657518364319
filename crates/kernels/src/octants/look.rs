//! Directions looked up by their codes, in the way of each instruction set.

use super::{Coordinates, Octants};
use crate::attention::PAGE_TOKENS;
use crate::planes::Planes;
use crate::simd::{LANES, Portable};

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
mod avx2 {
    use super::{Coordinates, Look, Octants};
    use crate::columns::VECTORS;
    use crate::simd::Avx2;
    use std::arch::x86_64::*;

    /// Eight coordinates by the numbers of directions, mirrored where the highest bit of a lane is set.
    #[inline(always)]
    unsafe fn found<const B: u32>(table: &[f32; 256], at: __m128i, mirrored: __m128i) -> __m256 {
        // SAFETY: a byte is a number within the table; the features are the dispatcher's business.
        unsafe {
            let at = _mm256_cvtepu8_epi32(at);
            let x = if B == 3 {
                let table = table.as_ptr();
                let low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), at);
                let high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.add(8)), at);
                _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(at)))
            } else {
                _mm256_i32gather_ps::<4>(table.as_ptr(), at)
            };
            _mm256_xor_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<24>(_mm256_cvtepu8_epi32(mirrored))))
        }
    }

    impl Look for Avx2 {
        #[inline(always)]
        unsafe fn look<const B: u32>(octants: &Octants, first: Self::I, second: Self::I) -> Coordinates<Self> {
            // SAFETY: the features are the dispatcher's business.
            unsafe {
                let mut vectors = [[[_mm256_setzero_ps(); 2]; VECTORS]; 3];
                let below = _mm256_set1_epi8((1 << (B - 1)) - 1);
                let half = _mm256_set1_epi8(1 << (B - 1));
                let shift = _mm_cvtsi32_si128(B as i32 - 1);
                let back = _mm_cvtsi32_si128(8 - B as i32);
                let [first_table, third_table] = &octants.whole;
                for (h, (&first, &second)) in first.iter().zip(&second).enumerate() {
                    // Below the middle a level counts from it, too, and its highest bit becomes the sign.
                    let mut folded = [first, second];
                    let mut mirrored = folded;
                    for (folded, mirrored) in folded.iter_mut().zip(&mut mirrored) {
                        let lower = _mm256_cmpeq_epi8(_mm256_and_si256(*folded, half), _mm256_setzero_si256());
                        *mirrored = _mm256_sll_epi16(_mm256_and_si256(lower, half), back);
                        *folded = _mm256_and_si256(_mm256_xor_si256(*folded, lower), below);
                    }
                    let one = _mm256_or_si256(folded[0], _mm256_sll_epi16(folded[1], shift));
                    let other = _mm256_or_si256(folded[1], _mm256_sll_epi16(folded[0], shift));
                    let axes = [
                        (first_table, one, mirrored[0]),
                        (first_table, other, mirrored[1]),
                        (third_table, one, _mm256_setzero_si256()),
                    ];
                    for (to, (table, at, mirrored)) in vectors.iter_mut().zip(axes) {
                        let low = [_mm256_castsi256_si128(at), _mm256_castsi256_si128(mirrored)];
                        let high = [_mm256_extracti128_si256::<1>(at), _mm256_extracti128_si256::<1>(mirrored)];
                        for (v, [at, mirrored]) in [low, high].into_iter().enumerate() {
                            to[2 * h + v] = [
                                found::<B>(table, at, mirrored),
                                found::<B>(table, _mm_srli_si128::<8>(at), _mm_srli_si128::<8>(mirrored)),
                            ];
                        }
                    }
                }
                vectors
            }
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
