//! A matrix of levels as `f32`, straight from its packed codes: sixteen values of a row are looked up at once.
//!
//! A code has sixteen values at most, so what [`super::decode`] computes for each entry is computed once for a row, and
//! for scales of lanes once for all rows but the last two steps. The bits are those of [`super::decode`] over zeros.

#[cfg(test)]
mod tests;

use super::grid::Grid;
use super::pack::{Bits, VECTOR, packed_bytes};
use crate::attention::PAGE_TOKENS;
use crate::dispatch;
#[cfg(target_arch = "x86_64")]
use crate::simd::both;
use crate::simd::{LANES, Portable, Simd};

/// Vectors of tokens of a row.
const WIDE: usize = PAGE_TOKENS / LANES;

/// Lookups in sixteen numbers.
#[allow(clippy::missing_safety_doc)]
trait Pick: Simd {
    /// The number that the low four bits of each lane say.
    unsafe fn pick(table: Self::F, i: Self::I) -> Self::F;
    /// Each lane moved down by `N` bits; zeros come in.
    unsafe fn down<const N: u32>(a: Self::I) -> Self::I;
    /// Two low bits of `two`, and the lowest of `one` above them.
    unsafe fn three(two: Self::I, one: Self::I) -> Self::I;
}

impl Pick for Portable {
    #[inline(always)]
    unsafe fn pick(table: Self::F, i: Self::I) -> Self::F {
        i.map(|i| table[(i & 15) as usize])
    }
    #[inline(always)]
    unsafe fn down<const N: u32>(a: Self::I) -> Self::I {
        a.map(|a| (a as u32 >> N) as i32)
    }
    #[inline(always)]
    unsafe fn three(two: Self::I, one: Self::I) -> Self::I {
        std::array::from_fn(|i| two[i] & 3 | (one[i] & 1) << 2)
    }
}

#[cfg(target_arch = "x86_64")]
impl Pick for crate::simd::Avx2 {
    #[inline(always)]
    unsafe fn pick(table: Self::F, i: Self::I) -> Self::F {
        use std::arch::x86_64::*;
        // SAFETY: the features are the dispatcher's business.
        unsafe {
            both!(
                |i| {
                    let (low, high) = (_mm256_permutevar8x32_ps(table[0], i), _mm256_permutevar8x32_ps(table[1], i));
                    _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(i)))
                },
                i
            )
        }
    }
    #[inline(always)]
    unsafe fn down<const N: u32>(a: Self::I) -> Self::I {
        use std::arch::x86_64::*;
        // SAFETY: as above.
        unsafe { both!(|a| _mm256_srl_epi32(a, _mm_cvtsi32_si128(N as i32)), a) }
    }
    #[inline(always)]
    unsafe fn three(two: Self::I, one: Self::I) -> Self::I {
        use std::arch::x86_64::*;
        // SAFETY: as above.
        unsafe {
            both!(
                |h| {
                    let one = _mm256_and_si256(_mm256_slli_epi32::<2>(one[h]), _mm256_set1_epi32(4));
                    _mm256_or_si256(_mm256_and_si256(two[h], _mm256_set1_epi32(3)), one)
                },
                [0, 1]
            )
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Pick for crate::simd::Avx512 {
    #[inline(always)]
    unsafe fn pick(table: Self::F, i: Self::I) -> Self::F {
        // SAFETY: the features are the dispatcher's business.
        unsafe { std::arch::x86_64::_mm512_permutexvar_ps(i, table) }
    }
    #[inline(always)]
    unsafe fn down<const N: u32>(a: Self::I) -> Self::I {
        // SAFETY: as above.
        unsafe { std::arch::x86_64::_mm512_srli_epi32::<N>(a) }
    }
    #[inline(always)]
    unsafe fn three(two: Self::I, one: Self::I) -> Self::I {
        use std::arch::x86_64::*;
        // SAFETY: as above.
        unsafe {
            let one = _mm512_and_si512(_mm512_slli_epi32::<2>(one), _mm512_set1_epi32(4));
            _mm512_or_si512(_mm512_and_si512(two, _mm512_set1_epi32(3)), one)
        }
    }
}

/// Writes the matrix, `[reduce][PAGE_TOKENS]`, as [`super::decode`] adds it to zeros, where it is one of a page of keys with
/// codes of two to four bits, and scales of rows or of lanes. Says whether it did; else `out` is as it was.
///
/// # Panics
/// If the grid breaks what its fields promise, or a slice is too short.
pub fn decode_packed(
    isa: crate::Isa,
    bits: Bits,
    packed: &[u8],
    table: Option<&[u8; 16]>,
    grid: &Grid<'_>,
    out: &mut [f32],
) -> bool {
    let count = grid.reduce * grid.lanes;
    grid.check();
    let by_lane = !grid.lane_scale.is_empty() || !grid.lane_offset.is_empty();
    let by_row = !grid.fold_scale.is_empty() || !grid.fold_offset.is_empty();
    if !matches!(bits, Bits::B2 | Bits::B3 | Bits::B4)
        || grid.lanes != PAGE_TOKENS
        || !grid.reduce.is_multiple_of(8)
        || (grid.lane_groups.len() > 1 && by_row)
        || (grid.reduce_groups.len() > 1 && by_lane)
        || (by_row && by_lane)
    {
        return false;
    }
    assert!(packed.len() == packed_bytes(bits, count) && out.len() >= count);
    // Codes of two bits are looked up with those above them, so the levels repeat.
    let mask = if bits == Bits::B2 { 3 } else { 15 };
    let levels = std::array::from_fn(|code| {
        let code = code & mask;
        let level = table.map_or(code as u8, |table| table[code]);
        f32::from(level) - f32::from(grid.zero)
    });
    fill(isa, bits, packed, &levels, grid, out);
    true
}

dispatch! {
    fn fill(bits: Bits, packed: &[u8], levels: &[f32; LANES], grid: &Grid<'_>, out: &mut [f32]) = fill_body
}

#[inline(always)]
unsafe fn fill_body<S: Pick>(bits: Bits, packed: &[u8], levels: &[f32; LANES], grid: &Grid<'_>, out: &mut [f32]) {
    // SAFETY: `decode_packed` checked the lengths.
    unsafe {
        match (bits, grid.lane_scale.is_empty() && grid.lane_offset.is_empty()) {
            (Bits::B2, true) => quads::<S, 2, false>(packed, levels, grid, out),
            (Bits::B2, false) => quads::<S, 2, true>(packed, levels, grid, out),
            (Bits::B3, true) => quads::<S, 3, false>(packed, levels, grid, out),
            (Bits::B3, false) => quads::<S, 3, true>(packed, levels, grid, out),
            (_, true) => quads::<S, 4, false>(packed, levels, grid, out),
            (_, false) => quads::<S, 4, true>(packed, levels, grid, out),
        }
    }
}

/// Four rows at a time: those whose codes share the bytes of a lane. `LANE`: scales are those of lanes, else of rows.
#[inline(always)]
unsafe fn quads<S: Pick, const BITS: usize, const LANE: bool>(
    packed: &[u8],
    levels: &[f32; LANES],
    grid: &Grid<'_>,
    out: &mut [f32],
) {
    let quads = grid.reduce / 4;
    // SAFETY: codes of `quads` times four vectors are packed, `out` has four rows for each; scales are as many as the grid
    // says.
    unsafe {
        let levels = S::load(levels.as_ptr());
        let zero = S::splat(0.0);
        let (mut scales, mut offsets) = ([S::splat(1.0); WIDE], [zero; WIDE]);
        for v in 0..WIDE {
            if let Some(scale) = grid.lane_scale.get(v * LANES..) {
                scales[v] = if scale.is_empty() { scales[v] } else { S::load(scale.as_ptr()) };
            }
            if let Some(offset) = grid.lane_offset.get(v * LANES..) {
                // Nothing is left of the sign of a zero, as where this is added to zeros.
                offsets[v] = if offset.is_empty() { zero } else { S::add(S::load(offset.as_ptr()), zero) };
            }
        }
        for quad in 0..quads {
            let mut tables = [levels; 4];
            if !LANE {
                for (b, table) in tables.iter_mut().enumerate() {
                    let row = quad * 4 + b;
                    if let Some(&scale) = grid.fold_scale.get(row) {
                        *table = S::mul(*table, S::splat(scale));
                    }
                    if let Some(&offset) = grid.fold_offset.get(row) {
                        *table = S::add(*table, S::splat(offset));
                    }
                    *table = S::add(*table, zero);
                }
            }
            let out = out.as_mut_ptr().add(quad * 4 * PAGE_TOKENS);
            let put = Put::<S, LANE> { scales, offsets, out };
            let from = packed.as_ptr();
            match BITS {
                2 => {
                    let mut codes = S::load_bytes(from.add(quad * VECTOR));
                    for (b, &table) in tables.iter().enumerate() {
                        for v in 0..WIDE {
                            put.one(b, v, S::pick(table, codes));
                            codes = S::down::<2>(codes);
                        }
                    }
                }
                3 => {
                    let mut two = S::load_bytes(from.add(quad * VECTOR));
                    let mut one = S::load_bytes(from.add((quads + quad / 2) * VECTOR));
                    if quad % 2 == 1 {
                        one = S::down::<4>(one);
                    }
                    for (b, &table) in tables.iter().enumerate() {
                        for v in 0..WIDE {
                            put.one(b, v, S::pick(table, S::three(two, one)));
                            (two, one) = (S::down::<2>(two), S::down::<1>(one));
                        }
                        one = S::down::<4>(one);
                    }
                }
                _ => {
                    let mut low = S::load_bytes(from.add(2 * quad * VECTOR));
                    let mut high = S::load_bytes(from.add((2 * quad + 1) * VECTOR));
                    for (b, &table) in tables.iter().enumerate() {
                        for v in 0..2 {
                            put.one(b, v, S::pick(table, low));
                            put.one(b, v + 2, S::pick(table, high));
                            (low, high) = (S::down::<4>(low), S::down::<4>(high));
                        }
                    }
                }
            }
        }
    }
}

/// Where four rows go, and the scales of lanes.
#[derive(Clone, Copy)]
struct Put<S: Simd, const LANE: bool> {
    scales: [S::F; WIDE],
    offsets: [S::F; WIDE],
    out: *mut f32,
}

impl<S: Simd, const LANE: bool> Put<S, LANE> {
    /// Vector `v` of row `b`.
    #[inline(always)]
    unsafe fn one(&self, b: usize, v: usize, x: S::F) {
        // SAFETY: there are four rows of `WIDE` vectors.
        unsafe {
            let x = if LANE { S::add(S::mul(x, self.scales[v]), self.offsets[v]) } else { x };
            S::store(self.out.add(b * PAGE_TOKENS + v * LANES), x);
        }
    }
}
