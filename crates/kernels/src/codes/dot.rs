//! How an instruction set multiplies levels with sixteen-bit codes: exactly, each in the way it is good at.

use super::each::Each;
use crate::simd::{LANES, Portable, Simd};
#[cfg(target_arch = "x86_64")]
use {
    crate::simd::{Avx2, Avx512, both},
    std::arch::x86_64::*,
};

/// Exact products of levels and codes of sixteen bits.
///
/// A row of codes takes `2 * plane` bytes. AVX-512 keeps two planes of signed bytes, `code = 256 * high + low`, for its
/// eight-bit products of four (and for AMX tiles); the others keep the codes as they are, for sixteen-bit products of
/// two, those of even and odd rows of each four apart.
///
/// # Safety
/// As for [`Simd`]; the row holds `plane` codes, of at most 32512 each way.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Dot: Each {
    /// Four consecutive codes, in every lane.
    type Quad: Copy;
    /// Sixteen lanes of four levels.
    type Levels: Copy;
    /// Sixteen sums.
    type Sums: Copy;

    /// Writes sixteen codes from index `at` (a multiple of four) of a row.
    unsafe fn put(codes: Self::I, row: *mut i8, plane: usize, at: usize);
    /// Writes four vectors of codes from index `at` of a row.
    #[inline(always)]
    unsafe fn put_four(codes: [Self::I; 4], row: *mut i8, plane: usize, at: usize) {
        for (i, codes) in codes.into_iter().enumerate() {
            // SAFETY: the caller's contract.
            unsafe { Self::put(codes, row, plane, at + i * LANES) };
        }
    }
    /// The codes from index `4 * quad` of a row.
    unsafe fn quad(row: *const i8, plane: usize, quad: usize) -> Self::Quad;
    /// Of 64 bytes as they lie in memory.
    unsafe fn of_bytes(bytes: Self::I) -> Self::Levels;
    #[inline(always)]
    unsafe fn levels(p: *const u8) -> Self::Levels {
        // SAFETY: the caller's contract.
        unsafe { Self::of_bytes(Self::load_bytes(p)) }
    }
    /// `outlier[code]` of each byte whose other is `victim`, else `normal[code]`: bytes `DISTANCE` apart are each other's
    /// others, one or four.
    #[inline(always)]
    unsafe fn of_pairs<const DISTANCE: usize>(
        codes: Self::I,
        normal: Self::I,
        outlier: Self::I,
        victim: u8,
    ) -> Self::I {
        let mut bytes = [[0u8; 4 * LANES]; 3];
        // SAFETY: the caller's contract; each has 64 bytes.
        unsafe {
            Self::istore(bytes[0].as_mut_ptr().cast(), codes);
            Self::istore(bytes[1].as_mut_ptr().cast(), Self::lookup(normal, codes));
            Self::istore(bytes[2].as_mut_ptr().cast(), Self::lookup(outlier, codes));
            for i in 0..4 * LANES {
                if bytes[0][i ^ DISTANCE] == victim {
                    bytes[1][i] = bytes[2][i];
                }
            }
            Self::load_bytes(bytes[1].as_ptr())
        }
    }
    unsafe fn nothing() -> Self::Sums;
    unsafe fn dot(sums: Self::Sums, levels: Self::Levels, quad: Self::Quad) -> Self::Sums;
    unsafe fn total(sums: Self::Sums) -> Self::I;
}

// SAFETY of all bodies: the trait's contract.
impl Dot for Portable {
    /// Even and odd codes.
    type Quad = [i16; 4];
    type Levels = Self::I;
    type Sums = Self::I;

    #[inline(always)]
    unsafe fn put(codes: Self::I, row: *mut i8, _: usize, at: usize) {
        let to = unsafe { row.add(2 * at).cast::<[[i16; 4]; 4]>() };
        let c = codes.map(|c| c as i16);
        let quads = std::array::from_fn(|q| [c[4 * q], c[4 * q + 2], c[4 * q + 1], c[4 * q + 3]]);
        unsafe { to.write_unaligned(quads) };
    }
    #[inline(always)]
    unsafe fn quad(row: *const i8, _: usize, quad: usize) -> [i16; 4] {
        unsafe { row.add(8 * quad).cast::<[i16; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn of_bytes(bytes: Self::I) -> Self::I {
        bytes
    }
    #[inline(always)]
    unsafe fn nothing() -> Self::I {
        unsafe { Self::isplat(0) }
    }
    #[inline(always)]
    unsafe fn dot(sums: Self::I, levels: Self::I, quad: [i16; 4]) -> Self::I {
        let [c0, c2, c1, c3] = quad.map(i32::from);
        std::array::from_fn(|i| {
            let w = levels[i];
            // Every partial sum of products fits, see `LARGEST_GROUP`; wrapping says so to the compiler.
            (sums[i])
                .wrapping_add((w & 0xff) * c0)
                .wrapping_add((w >> 8 & 0xff) * c1)
                .wrapping_add((w >> 16 & 0xff) * c2)
                .wrapping_add((w >> 24 & 0xff) * c3)
        })
    }
    #[inline(always)]
    unsafe fn total(sums: Self::I) -> Self::I {
        sums
    }
}

#[cfg(target_arch = "x86_64")]
impl Dot for Avx2 {
    /// Even and odd codes.
    type Quad = [__m256i; 2];
    /// Even and odd levels of both halves, widened to sixteen bits.
    type Levels = [[__m256i; 2]; 2];
    type Sums = [__m256i; 2];

    #[inline(always)]
    unsafe fn put(codes: Self::I, row: *mut i8, _: usize, at: usize) {
        unsafe {
            let order = _mm256_setr_epi8(
                0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, //
                0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1,
            );
            for (half, codes) in codes.into_iter().enumerate() {
                let words = _mm256_permute4x64_epi64::<0b_11_01_10_00>(_mm256_shuffle_epi8(codes, order));
                _mm_storeu_si128(row.add(2 * at + 16 * half).cast(), _mm256_castsi256_si128(words));
            }
        }
    }
    #[inline(always)]
    unsafe fn quad(row: *const i8, _: usize, quad: usize) -> [__m256i; 2] {
        unsafe {
            let p = row.add(8 * quad).cast::<i32>();
            [_mm256_set1_epi32(p.read_unaligned()), _mm256_set1_epi32(p.add(1).read_unaligned())]
        }
    }
    #[inline(always)]
    unsafe fn of_bytes(bytes: Self::I) -> Self::Levels {
        unsafe {
            let low = _mm256_set1_epi16(0xff);
            both!(|w| [_mm256_and_si256(w, low), _mm256_srli_epi16::<8>(w)], bytes)
        }
    }
    #[inline(always)]
    unsafe fn nothing() -> Self::Sums {
        unsafe { Self::isplat(0) }
    }
    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, levels: Self::Levels, quad: [__m256i; 2]) -> Self::Sums {
        unsafe {
            both!(
                |h| {
                    let even = _mm256_add_epi32(sums[h], _mm256_madd_epi16(levels[h][0], quad[0]));
                    _mm256_add_epi32(even, _mm256_madd_epi16(levels[h][1], quad[1]))
                },
                [0, 1]
            )
        }
    }
    #[inline(always)]
    unsafe fn total(sums: Self::Sums) -> Self::I {
        sums
    }
}

#[cfg(target_arch = "x86_64")]
impl Dot for Avx512 {
    /// High and low plane.
    type Quad = [__m512i; 2];
    type Levels = __m512i;
    /// Of the high and the low plane.
    type Sums = [__m512i; 2];

    #[inline(always)]
    unsafe fn put(codes: __m512i, row: *mut i8, plane: usize, at: usize) {
        unsafe {
            // The low byte, taken as signed, is what `256 * high` leaves over.
            Self::store_bytes(row.add(at), Self::sar8(Self::iadd(codes, Self::isplat(128))));
            Self::store_bytes(row.add(plane + at), codes);
        }
    }
    #[inline(always)]
    unsafe fn put_four([a, b, c, d]: [__m512i; 4], row: *mut i8, plane: usize, at: usize) {
        unsafe {
            // Packed to words, then to bytes, which leaves fours of codes by quarter and vector.
            let (ab, cd) = (_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let half = _mm512_set1_epi16(128);
            let high_ab = _mm512_srai_epi16::<8>(_mm512_add_epi16(ab, half));
            let high_cd = _mm512_srai_epi16::<8>(_mm512_add_epi16(cd, half));
            let high = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(high_ab, high_cd));
            let byte = _mm512_set1_epi16(0xff);
            let low = _mm512_packus_epi16(_mm512_and_si512(ab, byte), _mm512_and_si512(cd, byte));
            _mm512_storeu_si512(row.add(at).cast(), high);
            _mm512_storeu_si512(row.add(plane + at).cast(), _mm512_permutexvar_epi32(order, low));
        }
    }
    #[inline(always)]
    unsafe fn quad(row: *const i8, plane: usize, quad: usize) -> [__m512i; 2] {
        unsafe {
            let p = row.add(4 * quad);
            let (high, low) = (p.cast::<i32>(), p.add(plane).cast::<i32>());
            [_mm512_set1_epi32(high.read_unaligned()), _mm512_set1_epi32(low.read_unaligned())]
        }
    }
    #[inline(always)]
    unsafe fn of_bytes(bytes: __m512i) -> __m512i {
        bytes
    }
    #[inline(always)]
    unsafe fn of_pairs<const DISTANCE: usize>(
        codes: __m512i,
        normal: __m512i,
        outlier: __m512i,
        victim: u8,
    ) -> __m512i {
        unsafe {
            let others = if DISTANCE == 4 {
                _mm512_shuffle_epi32::<0b_10_11_00_01>(codes)
            } else {
                let order = _mm_setr_epi8(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
                _mm512_shuffle_epi8(codes, _mm512_broadcast_i32x4(order))
            };
            let beside = _mm512_cmpeq_epi8_mask(others, _mm512_set1_epi8(victim as i8));
            _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(normal, codes), beside, outlier, codes)
        }
    }
    #[inline(always)]
    unsafe fn nothing() -> Self::Sums {
        unsafe { [Self::isplat(0); 2] }
    }
    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, levels: __m512i, quad: [__m512i; 2]) -> Self::Sums {
        unsafe { [Self::dot_u8i8(sums[0], levels, quad[0]), Self::dot_u8i8(sums[1], levels, quad[1])] }
    }
    #[inline(always)]
    unsafe fn total(sums: Self::Sums) -> __m512i {
        unsafe { Self::iadd(Self::shl8(sums[0]), sums[1]) }
    }
}
