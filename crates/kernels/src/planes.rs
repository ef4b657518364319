//! Small numbers of a page's 64 tokens, packed in planes, as bytes and lanes of vectors.
//!
//! A number of `b` bits is cut into planes of eight, four, two and one bit, low bits first. A plane of `p` bits has `8 p`
//! bytes; byte `i` holds, low bits first, those of the tokens `i`, `i + 8 p`, and so on.

use crate::attention::PAGE_TOKENS;
use crate::polar::Permute;
use crate::simd::{Portable, Simd};

/// Unpacks and looks up.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Planes: Permute {
    /// The numbers, of `BITS` (at most eight) bits, a byte each in order of tokens; `8 BITS` bytes are read.
    unsafe fn fields<const BITS: usize>(p: *const u8) -> Self::I;
    /// Sixteen bytes from `16 v` on, a lane each.
    unsafe fn spread(bytes: Self::I, v: usize) -> Self::I;
    /// Sixteen bytes, a lane each.
    unsafe fn load_u8(p: *const u8) -> Self::I;
    /// `table[index % 16]`.
    unsafe fn pick(table: Self::F, index: Self::I) -> Self::F;
}

/// [`Planes::fields`] in plain Rust.
#[inline(always)]
unsafe fn fields<const BITS: usize>(p: *const u8) -> [u8; PAGE_TOKENS] {
    let (mut to, mut at, mut shift) = ([0u8; PAGE_TOKENS], 0, 0);
    for plane in [8, 4, 2, 1] {
        if BITS & plane == 0 {
            continue;
        }
        let (length, mask) = (8 * plane, (u8::MAX >> (8 - plane)));
        for (j, to) in to.chunks_exact_mut(length).enumerate() {
            for (i, to) in to.iter_mut().enumerate() {
                // SAFETY: by the contract.
                *to |= ((unsafe { *p.add(at + i) } >> (j * plane)) & mask) << shift;
            }
        }
        at += length;
        shift += plane;
    }
    to
}

impl Planes for Portable {
    #[inline(always)]
    unsafe fn fields<const BITS: usize>(p: *const u8) -> Self::I {
        // SAFETY: by the contract.
        unsafe { Self::load_bytes(fields::<BITS>(p).as_ptr()) }
    }
    #[inline(always)]
    unsafe fn spread(bytes: Self::I, v: usize) -> Self::I {
        std::array::from_fn(|i| i32::from(bytes[4 * v + i / 4].to_le_bytes()[i % 4]))
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        // SAFETY: by the contract.
        std::array::from_fn(|i| i32::from(unsafe { *p.add(i) }))
    }
    #[inline(always)]
    unsafe fn pick(table: Self::F, index: Self::I) -> Self::F {
        index.map(|i| table[i as usize & 15])
    }
}

#[cfg(target_arch = "x86_64")]
impl Planes for crate::simd::Avx2 {
    #[inline(always)]
    unsafe fn fields<const BITS: usize>(p: *const u8) -> Self::I {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe {
            if BITS == 8 {
                return Self::load_bytes(p);
            }
            let (mut to, mut p, mut shift) = ([_mm256_setzero_si256(); 2], p, 0);
            if BITS & 4 != 0 {
                let (nibbles, fifteen) = (_mm256_loadu_si256(p.cast()), _mm256_set1_epi8(15));
                let high = _mm256_srli_epi16::<4>(nibbles);
                to = [_mm256_and_si256(nibbles, fifteen), _mm256_and_si256(high, fifteen)];
                (p, shift) = (p.add(32), 4);
            }
            if BITS & 2 != 0 {
                let (twice, three) = (_mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast())), _mm256_set1_epi8(3));
                let moves = [_mm256_setr_epi64x(0, 0, 2, 2), _mm256_setr_epi64x(4, 4, 6, 6)];
                for (to, moves) in to.iter_mut().zip(moves) {
                    let part = _mm256_and_si256(_mm256_srlv_epi64(twice, moves), three);
                    *to = _mm256_or_si256(*to, _mm256_sll_epi16(part, _mm_cvtsi32_si128(shift)));
                }
                (p, shift) = (p.add(16), shift + 2);
            }
            if BITS & 1 != 0 {
                let (all, one) = (_mm256_set1_epi64x(p.cast::<i64>().read_unaligned()), _mm256_set1_epi8(1));
                let moves = [_mm256_setr_epi64x(0, 1, 2, 3), _mm256_setr_epi64x(4, 5, 6, 7)];
                for (to, moves) in to.iter_mut().zip(moves) {
                    let part = _mm256_and_si256(_mm256_srlv_epi64(all, moves), one);
                    *to = _mm256_or_si256(*to, _mm256_sll_epi16(part, _mm_cvtsi32_si128(shift)));
                }
            }
            to
        }
    }
    #[inline(always)]
    unsafe fn spread(bytes: Self::I, v: usize) -> Self::I {
        use std::arch::x86_64::*;
        // SAFETY: the features are the dispatcher's business.
        unsafe {
            let half = bytes[v / 2];
            let sixteen =
                if v.is_multiple_of(2) { _mm256_castsi256_si128(half) } else { _mm256_extracti128_si256::<1>(half) };
            [_mm256_cvtepu8_epi32(sixteen), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(sixteen))]
        }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe {
            let (low, high) = (_mm_loadl_epi64(p.cast()), _mm_loadl_epi64(p.add(8).cast()));
            [_mm256_cvtepu8_epi32(low), _mm256_cvtepu8_epi32(high)]
        }
    }
    #[inline(always)]
    unsafe fn pick(table: Self::F, index: Self::I) -> Self::F {
        use std::arch::x86_64::*;
        // SAFETY: the features are the dispatcher's business.
        unsafe {
            let mut found = table;
            for (found, index) in found.iter_mut().zip(index) {
                let low = _mm256_permutevar8x32_ps(table[0], index);
                let high = _mm256_permutevar8x32_ps(table[1], index);
                // Bit three says which half of the table; blending looks at the sign.
                *found = _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index)));
            }
            found
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Planes for crate::simd::Avx512 {
    #[inline(always)]
    unsafe fn fields<const BITS: usize>(p: *const u8) -> Self::I {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe {
            if BITS == 8 {
                return Self::load_bytes(p);
            }
            let (mut to, mut p, mut shift) = (_mm512_setzero_si512(), p, 0);
            if BITS & 4 != 0 {
                let twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(p.cast()));
                let moved = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));
                to = _mm512_and_si512(moved, _mm512_set1_epi8(15));
                (p, shift) = (p.add(32), 4);
            }
            if BITS & 2 != 0 {
                let often = _mm512_broadcast_i32x4(_mm_loadu_si128(p.cast()));
                let moved = _mm512_srlv_epi64(often, _mm512_setr_epi64(0, 0, 2, 2, 4, 4, 6, 6));
                let part = _mm512_and_si512(moved, _mm512_set1_epi8(3));
                to = if shift == 0 { part } else { _mm512_or_si512(to, _mm512_slli_epi16::<4>(part)) };
                (p, shift) = (p.add(16), shift + 2);
            }
            if BITS & 1 != 0 {
                let all = _mm512_set1_epi64(p.cast::<i64>().read_unaligned());
                let bit = |i: u32| 0x0101_0101_0101_0101i64 << i;
                let bits = _mm512_setr_epi64(bit(0), bit(1), bit(2), bit(3), bit(4), bit(5), bit(6), bit(7));
                let set = _mm512_test_epi8_mask(all, bits);
                to = _mm512_mask_add_epi8(to, set, to, _mm512_set1_epi8(1 << shift));
            }
            to
        }
    }
    #[inline(always)]
    unsafe fn spread(bytes: Self::I, v: usize) -> Self::I {
        use std::arch::x86_64::*;
        // SAFETY: the features are the dispatcher's business.
        unsafe {
            _mm512_cvtepu8_epi32(match v {
                0 => _mm512_castsi512_si128(bytes),
                1 => _mm512_extracti32x4_epi32::<1>(bytes),
                2 => _mm512_extracti32x4_epi32::<2>(bytes),
                _ => _mm512_extracti32x4_epi32::<3>(bytes),
            })
        }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn pick(table: Self::F, index: Self::I) -> Self::F {
        // SAFETY: the features are the dispatcher's business.
        unsafe { std::arch::x86_64::_mm512_permutexvar_ps(index, table) }
    }
}
