//! AVX2 with FMA and F16C: two registers hold the sixteen lanes.

use super::Simd;
use std::arch::x86_64::*;

/// AVX2 with FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx2;

/// One 256-bit operation on both halves. No closure: that would be a function of its own, without the instruction set's
/// features, and every operation in it a call.
macro_rules! both {
    (|$x:ident| $each:expr, $a:expr) => {{
        let [low, high] = $a;
        [
            {
                let $x = low;
                $each
            },
            {
                let $x = high;
                $each
            },
        ]
    }};
    ($f:ident, $a:ident) => {
        unsafe { [$f($a[0]), $f($a[1])] }
    };
    ($f:ident, $a:ident, $b:ident) => {
        unsafe { [$f($a[0], $b[0]), $f($a[1], $b[1])] }
    };
    ($f:ident, $a:ident, $b:ident, $c:ident) => {
        unsafe { [$f($a[0], $b[0], $c[0]), $f($a[1], $b[1], $c[1])] }
    };
}

pub(crate) use both;

type F = [__m256; 2];
type I = [__m256i; 2];

/// Sixteen E4M3 floats as half floats less by a factor of 256: the codes moved up to the sign and the mantissa's end.
/// (Not-a-number, which would be 480, gets the exponent that says so.)
#[inline(always)]
pub(super) unsafe fn e4m3_as_f16(p: *const u8) -> __m256i {
    // SAFETY: sixteen bytes lie there, and AVX2 is present, by the caller's contract.
    unsafe {
        // Sign-extended and shifted, the sign is doubled.
        let moved = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())));
        // One more than the largest magnitude carries into the exponent's highest bit, and no other does.
        let magnitude = _mm256_and_si256(moved, _mm256_set1_epi16(0x3f80));
        let carry = _mm256_add_epi16(magnitude, _mm256_set1_epi16(0x80));
        let kept = _mm256_set1_epi16(0xbf80_u16 as i16);
        _mm256_or_si256(_mm256_and_si256(moved, kept), _mm256_andnot_si256(kept, carry))
    }
}

/// Sixteen E5M2 floats as half floats, which they are the upper bytes of.
#[inline(always)]
pub(super) unsafe fn e5m2_as_f16(p: *const u8) -> __m256i {
    // SAFETY: as above.
    unsafe { _mm256_slli_epi16::<8>(_mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()))) }
}

/// Sixteen half floats, widened.
#[inline(always)]
unsafe fn widen_f16(x: __m256i) -> F {
    // SAFETY: AVX2 and F16C are present by the caller's contract.
    unsafe { [_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(x))] }
}

// SAFETY of all bodies: the features are present and pointers valid by the trait's contract.
impl Simd for Avx2 {
    type F = F;
    type I = I;
    const REGISTERS: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        unsafe {
            _mm256_storeu_ps(p, x[0]);
            _mm256_storeu_ps(p.add(8), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))] }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        unsafe {
            both!(
                |p| {
                    let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
                },
                [p, p.add(8)]
            )
        }
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> F {
        unsafe { both!(|half| _mm256_mul_ps(half, _mm256_set1_ps(256.0)), widen_f16(e4m3_as_f16(p))) }
    }
    #[inline(always)]
    unsafe fn load_e5m2(p: *const u8) -> F {
        unsafe { widen_f16(e5m2_as_f16(p)) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: F) {
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(x[0]));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(x[1]));
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        both!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        unsafe { both!(|a| _mm256_andnot_ps(_mm256_set1_ps(-0.0), a), a) }
    }
    #[inline(always)]
    unsafe fn sqrt(a: F) -> F {
        both!(_mm256_sqrt_ps, a)
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        unsafe { both!(|a| _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a), a) }
    }
    #[inline(always)]
    unsafe fn exp2i(n: F) -> F {
        unsafe {
            both!(
                |n| {
                    let n = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
                },
                n
            )
        }
    }
    #[inline(always)]
    unsafe fn select(mask: u16, a: F, b: F) -> F {
        unsafe {
            let bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let mask = i32::from(mask);
            let lanes = both!(
                |mask| _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask), bits), bits)),
                [mask, mask >> 8]
            );
            [_mm256_blendv_ps(b[0], a[0], lanes[0]), _mm256_blendv_ps(b[1], a[1], lanes[1])]
        }
    }
    #[inline(always)]
    unsafe fn lt(a: F, b: F) -> u16 {
        unsafe {
            let [low, high] = [_mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])];
            _mm256_movemask_ps(low) as u16 | (_mm256_movemask_ps(high) as u16) << 8
        }
    }
    #[inline(always)]
    unsafe fn reduce_add(a: F) -> f32 {
        unsafe {
            let a = _mm256_add_ps(a[0], a[1]);
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
        }
    }
    #[inline(always)]
    unsafe fn reduce_max(a: F) -> f32 {
        unsafe {
            let a = _mm256_max_ps(a[0], a[1]);
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
        }
    }
    #[inline(always)]
    unsafe fn isplat(x: i32) -> I {
        unsafe { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    unsafe fn iload(p: *const i32) -> I {
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())] }
    }
    #[inline(always)]
    unsafe fn istore(p: *mut i32, x: I) {
        unsafe {
            _mm256_storeu_si256(p.cast(), x[0]);
            _mm256_storeu_si256(p.add(8).cast(), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn iadd(a: I, b: I) -> I {
        both!(_mm256_add_epi32, a, b)
    }
    #[inline(always)]
    unsafe fn isub(a: I, b: I) -> I {
        both!(_mm256_sub_epi32, a, b)
    }
    #[inline(always)]
    unsafe fn shl8(a: I) -> I {
        unsafe { both!(|a| _mm256_slli_epi32::<8>(a), a) }
    }
    #[inline(always)]
    unsafe fn sar8(a: I) -> I {
        unsafe { both!(|a| _mm256_srai_epi32::<8>(a), a) }
    }
    #[inline(always)]
    unsafe fn to_f32(a: I) -> F {
        both!(_mm256_cvtepi32_ps, a)
    }
    #[inline(always)]
    unsafe fn to_i32(a: F) -> I {
        both!(_mm256_cvtps_epi32, a)
    }
    #[inline(always)]
    unsafe fn round_to_i32(a: F) -> I {
        both!(_mm256_cvtps_epi32, a)
    }
    #[inline(always)]
    unsafe fn abs_bits(a: F) -> I {
        unsafe { both!(|a| _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(i32::MAX)), a) }
    }
    #[inline(always)]
    unsafe fn imax(a: I, b: I) -> I {
        both!(_mm256_max_epi32, a, b)
    }
    #[inline(always)]
    unsafe fn ireduce_max(a: I) -> i32 {
        unsafe {
            let a = _mm256_max_epi32(a[0], a[1]);
            let a = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let a = _mm_max_epi32(a, _mm_shuffle_epi32::<0b_01_00_11_10>(a));
            _mm_cvtsi128_si32(_mm_max_epi32(a, _mm_shuffle_epi32::<0b_10_11_00_01>(a)))
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> I {
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn low_nibbles(a: I) -> I {
        unsafe { both!(|a| _mm256_and_si256(a, _mm256_set1_epi8(15)), a) }
    }
    #[inline(always)]
    unsafe fn high_nibbles(a: I) -> I {
        unsafe { both!(|a| _mm256_and_si256(_mm256_srli_epi16::<4>(a), _mm256_set1_epi8(15)), a) }
    }
    #[inline(always)]
    unsafe fn field<const FROM: u32, const BITS: u32, const TO: u32>(a: I) -> I {
        // Words are shifted for want of bytes; the mask takes off what came from the neighbour.
        unsafe {
            let mask = _mm256_set1_epi8(((u8::MAX >> (8 - BITS)) << TO) as i8);
            both!(
                |a| {
                    let moved = match FROM as i32 - TO as i32 {
                        0 => a,
                        n @ 1.. => _mm256_srl_epi16(a, _mm_cvtsi32_si128(n)),
                        n => _mm256_sll_epi16(a, _mm_cvtsi32_si128(-n)),
                    };
                    _mm256_and_si256(moved, mask)
                },
                a
            )
        }
    }
    #[inline(always)]
    unsafe fn shr(a: I, bits: u32) -> I {
        unsafe { both!(|a| _mm256_srl_epi32(a, _mm_cvtsi32_si128(bits as i32)), a) }
    }
    #[inline(always)]
    unsafe fn or(a: I, b: I) -> I {
        both!(_mm256_or_si256, a, b)
    }
    #[inline(always)]
    unsafe fn load_table(p: *const u8) -> I {
        unsafe { [_mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast())); 2] }
    }
    #[inline(always)]
    unsafe fn lookup(table: I, i: I) -> I {
        both!(_mm256_shuffle_epi8, table, i)
    }
    #[inline(always)]
    unsafe fn low_byte(a: I) -> I {
        unsafe { both!(|a| _mm256_and_si256(a, _mm256_set1_epi32(0xff)), a) }
    }
    #[inline(always)]
    unsafe fn dot_u8i8(acc: I, w: I, x: I) -> I {
        // `maddubs` saturates its 16-bit pair sums, so even and odd bytes are widened and multiplied apart: exact.
        unsafe {
            let mask = _mm256_set1_epi16(0xff);
            both!(
                |h| {
                    let w_even = _mm256_and_si256(w[h], mask);
                    let w_odd = _mm256_srli_epi16::<8>(w[h]);
                    let x_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x[h]));
                    let x_odd = _mm256_srai_epi16::<8>(x[h]);
                    let sum = _mm256_add_epi32(_mm256_madd_epi16(w_even, x_even), _mm256_madd_epi16(w_odd, x_odd));
                    _mm256_add_epi32(acc[h], sum)
                },
                [0, 1]
            )
        }
    }
    #[inline(always)]
    unsafe fn dot_small(acc: I, w: I, x: I) -> I {
        // Pair sums stay within 2 * 128 * 127 < 2^15, so `maddubs` does not saturate.
        unsafe {
            both!(
                |h| {
                    let pairs = _mm256_maddubs_epi16(w[h], x[h]);
                    _mm256_add_epi32(acc[h], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
                },
                [0, 1]
            )
        }
    }
    #[inline(always)]
    unsafe fn dot_tiny(partial: I, w: I, x: I) -> I {
        // Sums of sixteen bits: eight pairs stay within 8 * 2 * 15 * 128 < 2^15.
        unsafe { both!(|h| _mm256_add_epi16(partial[h], _mm256_maddubs_epi16(w[h], x[h])), [0, 1]) }
    }
    #[inline(always)]
    unsafe fn add_tiny(acc: I, partial: I) -> I {
        unsafe { both!(|h| _mm256_add_epi32(acc[h], _mm256_madd_epi16(partial[h], _mm256_set1_epi16(1))), [0, 1]) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut i8, x: I) {
        unsafe {
            // The low byte of each lane to the front of its half, then the four quarters side by side.
            let front = _mm256_setr_epi8(
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
            );
            let quarters = both!(|x| _mm256_shuffle_epi8(x, front), x);
            let halves =
                both!(|q| _mm_unpacklo_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q)), quarters);
            _mm_storeu_si128(p.cast(), _mm_unpacklo_epi64(halves[0], halves[1]));
        }
    }
    #[inline(always)]
    unsafe fn ireduce_add(a: I) -> i32 {
        unsafe {
            let a = _mm256_add_epi32(a[0], a[1]);
            let a = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let a = _mm_add_epi32(a, _mm_shuffle_epi32::<0b_01_00_11_10>(a));
            _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32::<0b_10_11_00_01>(a)))
        }
    }
}
