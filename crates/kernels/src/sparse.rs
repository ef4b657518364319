//! Rows with most elements zero: a bit an element, half floats for those that are not.

use crate::dispatch;
use crate::simd::{LANES, Portable, Simd};
use half::f16;

/// Half floats beyond the last kept one that must be readable: a vector is loaded whole.
pub const SLACK: usize = LANES;

/// Spreads packed elements over sixteen lanes.
#[allow(clippy::missing_safety_doc)]
trait Expand: Simd {
    /// Lane `i` is the next half float from `p` where bit `i` is set, else zero. Sixteen can be read from `p`.
    unsafe fn expand(mask: u16, p: *const u8) -> Self::F;
}

impl Expand for Portable {
    #[inline(always)]
    unsafe fn expand(mask: u16, p: *const u8) -> Self::F {
        let mut next = 0;
        std::array::from_fn(|i| {
            if mask >> i & 1 == 0 {
                return 0.0;
            }
            // SAFETY: at most sixteen are read.
            let bits = unsafe { p.cast::<[u8; 2]>().add(next).read() };
            next += 1;
            f16::from_le_bytes(bits).to_f32()
        })
    }
}

/// Per byte: which packed element each lane takes, the top bit set where none.
#[cfg(target_arch = "x86_64")]
const TAKE: [[u8; 8]; 256] = {
    let mut take = [[0x80; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut lane, mut next) = (0, 0);
        while lane < 8 {
            if byte >> lane & 1 == 1 {
                take[byte][lane] = next;
                next += 1;
            }
            lane += 1;
        }
        byte += 1;
    }
    take
};

#[cfg(target_arch = "x86_64")]
impl Expand for crate::simd::Avx2 {
    #[inline(always)]
    unsafe fn expand(mask: u16, p: *const u8) -> Self::F {
        use std::arch::x86_64::*;
        // SAFETY: eight elements from `p`, and eight from at most eight further on.
        unsafe {
            let (low, high) = (usize::from(mask & 0xff), usize::from(mask >> 8));
            let behind = p.add(2 * low.count_ones() as usize);
            let packed_low = _mm256_cvtph_ps(_mm_loadu_si128(p.cast()));
            let packed_high = _mm256_cvtph_ps(_mm_loadu_si128(behind.cast()));
            let take_low = _mm256_cvtepi8_epi32(_mm_loadl_epi64(TAKE[low].as_ptr().cast()));
            let take_high = _mm256_cvtepi8_epi32(_mm_loadl_epi64(TAKE[high].as_ptr().cast()));
            // Negative where there is no element: the sign, spread over the lane, clears it.
            let none_low = _mm256_castsi256_ps(_mm256_srai_epi32::<31>(take_low));
            let none_high = _mm256_castsi256_ps(_mm256_srai_epi32::<31>(take_high));
            [
                _mm256_andnot_ps(none_low, _mm256_permutevar8x32_ps(packed_low, take_low)),
                _mm256_andnot_ps(none_high, _mm256_permutevar8x32_ps(packed_high, take_high)),
            ]
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Expand for crate::simd::Avx512 {
    #[inline(always)]
    unsafe fn expand(mask: u16, p: *const u8) -> Self::F {
        use std::arch::x86_64::*;
        // SAFETY: sixteen elements from `p`.
        unsafe { _mm512_maskz_expand_ps(mask, Self::load_f16(p.cast())) }
    }
}

dispatch! {
    /// **Adds** sparse rows to `out`. A row is `vectors` masks of sixteen bits (little endian, low bit first) and lies
    /// `stride` elements after the one before; the half floats of all rows follow each other in `values`. Where the masks
    /// have more than `count` bits, later ones find what lies behind.
    ///
    /// # Panics
    /// If `values` has less than `count` half floats and [`SLACK`], or `out` is too short.
    pub fn add_rows(masks: &[u8], vectors: usize, values: &[u8], count: usize, stride: usize, out: &mut [f32]) = add_rows_body
}

#[inline(always)]
unsafe fn add_rows_body<S: Expand>(
    masks: &[u8],
    vectors: usize,
    values: &[u8],
    count: usize,
    stride: usize,
    out: &mut [f32],
) {
    let rows = masks.len() / 2 / vectors;
    assert!(values.len() >= 2 * (count + SLACK) && vectors * LANES <= stride);
    assert!(rows == 0 || out.len() >= (rows - 1) * stride + vectors * LANES);
    let mut at = 0;
    for (row, masks) in masks.chunks_exact(2 * vectors).enumerate() {
        for (v, mask) in masks.chunks_exact(2).enumerate() {
            let mask = u16::from_le_bytes([mask[0], mask[1]]);
            // SAFETY: lengths asserted above; `at` does not exceed `count`.
            unsafe {
                let to = out.as_mut_ptr().add(row * stride + v * LANES);
                S::store(to, S::add(S::load(to), S::expand(mask, values.as_ptr().add(2 * at))));
            }
            at = (at + mask.count_ones() as usize).min(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn masks_say_where_elements_go() {
        let mut state = 12345u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let (rows, vectors, stride) = (37, 3, 64);
        let mut masks: Vec<u16> = (0..rows * vectors).map(|_| (next() & next()) as u16).collect();
        (masks[0], masks[1], masks[2]) = (0xffff, 0, 0x8001);
        let count: usize = masks.iter().map(|m| m.count_ones() as usize).sum();
        let values: Vec<f16> = (0..count + SLACK).map(|_| f16::from_f32(next() as f32 / 1e6 - 8.0)).collect();
        let mut expected = vec![1.0f32; rows * stride];
        let mut left = values.iter();
        for (i, mask) in masks.iter().enumerate() {
            for lane in (0..LANES).filter(|lane| mask >> lane & 1 == 1) {
                expected[i / vectors * stride + i % vectors * LANES + lane] += left.next().unwrap().to_f32();
            }
        }
        let masks: Vec<u8> = masks.iter().flat_map(|m| m.to_le_bytes()).collect();
        let values: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        for isa in Isa::available() {
            let mut out = vec![1.0; rows * stride];
            add_rows(isa, &masks, vectors, &values, count, stride, &mut out);
            assert_eq!(out, expected, "{isa}");
            // More bits than elements: no panic, and what came before is as it was.
            let mut cut = vec![1.0; rows * stride];
            add_rows(isa, &masks, vectors, &values[..2 * (20 + SLACK)], 20, stride, &mut cut);
            assert_eq!(cut[..stride / 4], expected[..stride / 4], "{isa}");
        }
    }
}
