//! Keys that were turned by a Walsh-Hadamard transform and rounded token by token, back in the basis they came from.
//!
//! With one scale and one offset for a token, `H (s l + o) = s H l + o H 1`: the transform is taken of the levels, which are
//! small integers, exactly: sixteen of them fit a byte, four such sums a dot product of bytes. `H 1` has one entry.

use super::grid::Grid;
use crate::attention::PAGE_TOKENS;
use crate::dispatch;
use crate::simd::{LANES, Portable, Simd};

/// Rows whose sums are taken in bytes: sixteen fours.
const GROUP: usize = 64;
/// Rows at most: so many groups' sums are held in registers.
const MOST: usize = 4 * GROUP;
/// Taken off levels below sixteen, so that sums of sixteen fit a byte.
const MIDDLE: i32 = 8;

/// Sums of bytes.
#[allow(clippy::missing_safety_doc)]
trait Bytes: Simd {
    /// Of each byte, wrapping.
    unsafe fn add8(a: Self::I, b: Self::I) -> Self::I;
    /// Of each byte, wrapping.
    unsafe fn sub8(a: Self::I, b: Self::I) -> Self::I;
}

fn each_byte(a: i32, b: i32, f: impl Fn(u8, u8) -> u8) -> i32 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    i32::from_le_bytes(std::array::from_fn(|i| f(a[i], b[i])))
}

impl Bytes for Portable {
    #[inline(always)]
    unsafe fn add8(a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| each_byte(a[i], b[i], u8::wrapping_add))
    }
    #[inline(always)]
    unsafe fn sub8(a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| each_byte(a[i], b[i], u8::wrapping_sub))
    }
}

#[cfg(target_arch = "x86_64")]
impl Bytes for crate::simd::Avx2 {
    #[inline(always)]
    unsafe fn add8(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the features are the dispatcher's business.
        std::array::from_fn(|h| unsafe { std::arch::x86_64::_mm256_add_epi8(a[h], b[h]) })
    }
    #[inline(always)]
    unsafe fn sub8(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: as above.
        std::array::from_fn(|h| unsafe { std::arch::x86_64::_mm256_sub_epi8(a[h], b[h]) })
    }
}

#[cfg(target_arch = "x86_64")]
impl Bytes for crate::simd::Avx512 {
    #[inline(always)]
    unsafe fn add8(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the features are the dispatcher's business.
        unsafe { std::arch::x86_64::_mm512_add_epi8(a, b) }
    }
    #[inline(always)]
    unsafe fn sub8(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: as above.
        unsafe { std::arch::x86_64::_mm512_sub_epi8(a, b) }
    }
}

/// Writes the normalised Walsh-Hadamard transform of the columns of a matrix of levels, `[reduce][PAGE_TOKENS]`: the
/// integers exactly, then `scale / √reduce` times them, the offset times `√reduce` added to the first row. Only for a page
/// of keys of 64, 128 or 256 channels with one scale and at most one offset for a token. Says whether it was one; else `out`
/// is as it was. The same bits on every instruction set.
///
/// # Panics
/// If the grid breaks what its fields promise, a slice is too short, or (if it is checked) a level is above fifteen.
pub fn decode_hadamard(isa: crate::Isa, grid: &Grid<'_>, levels: &[u8], out: &mut [f32]) -> bool {
    grid.check(levels.len());
    let rows = grid.reduce;
    if grid.lanes != PAGE_TOKENS
        || !rows.is_power_of_two()
        || !(GROUP..=MOST).contains(&rows)
        || grid.reduce_groups.len() > 1
        || grid.lane_scale.is_empty()
        || !(grid.fold_scale.is_empty() && grid.fold_offset.is_empty())
    {
        return false;
    }
    debug_assert!(levels[..rows * PAGE_TOKENS].iter().all(|&level| level < 16));
    assert!(out.len() >= rows * PAGE_TOKENS);
    let root = (rows as f32).sqrt();
    let mut scales = [[0.0; PAGE_TOKENS]; 2];
    for (token, scale) in scales[0].iter_mut().enumerate() {
        *scale = grid.lane_scale[token] / root;
    }
    for (offset, from) in scales[1].iter_mut().zip(grid.lane_offset) {
        *offset = from * root;
    }
    fill(isa, levels, grid.zero, rows / GROUP, &scales, out);
    true
}

dispatch! {
    fn fill(levels: &[u8], zero: u8, groups: usize, scales: &[[f32; PAGE_TOKENS]; 2], out: &mut [f32]) = fill_body
}

#[inline(always)]
unsafe fn fill_body<S: Bytes>(
    levels: &[u8],
    zero: u8,
    groups: usize,
    scales: &[[f32; PAGE_TOKENS]; 2],
    out: &mut [f32],
) {
    let (from, to) = (levels.as_ptr(), out.as_mut_ptr());
    for first in (0..PAGE_TOKENS).step_by(LANES) {
        // SAFETY: `decode_hadamard` checked the lengths.
        unsafe {
            let scales = [scales[0].as_ptr().add(first), scales[1].as_ptr().add(first)];
            match groups {
                1 => tokens::<S, 1>(from.add(4 * first), zero, scales, to.add(first)),
                2 => tokens::<S, 2>(from.add(4 * first), zero, scales, to.add(first)),
                _ => tokens::<S, 4>(from.add(4 * first), zero, scales, to.add(first)),
            }
        }
    }
}

/// Bytes of `±1` whose product with four sums is one of their transform; in this order.
const SIGNS: [u32; 4] = [0x0101_0101, 0xff01_ff01, 0xffff_0101, 0x01ff_ff01];

/// Sixteen tokens of `G` groups of rows.
#[inline(always)]
unsafe fn tokens<S: Bytes, const G: usize>(levels: *const u8, zero: u8, scales: [*const f32; 2], out: *mut f32) {
    const QUADS: usize = GROUP / 4;
    // SAFETY: the levels have `G * QUADS` quads of `PAGE_TOKENS` lanes, `out` has four rows for each.
    unsafe {
        let middle = S::isplat(MIDDLE * 0x0101_0101);
        // Where the dot product wants its bytes without a sign.
        let unsigned = S::isplat(0x8080_8080_u32 as i32);
        let mut sums = [[middle; QUADS]; G];
        for (g, sums) in sums.iter_mut().enumerate() {
            for (q, sum) in sums.iter_mut().enumerate() {
                let levels = S::load_bytes(levels.add((g * QUADS + q) * 4 * PAGE_TOKENS));
                *sum = S::sub8(levels, middle);
            }
            let mut apart = 1;
            while apart < QUADS {
                for q in 0..QUADS {
                    if q & apart == 0 {
                        let (a, b) = (sums[q], sums[q + apart]);
                        (sums[q], sums[q + apart]) = (S::add8(a, b), S::sub8(a, b));
                    }
                }
                apart *= 2;
            }
            for sum in sums {
                *sum = S::add8(*sum, unsigned);
            }
        }
        let (scale, offset) = (S::load(scales[0]), S::load(scales[1]));
        for q in 0..QUADS {
            for (b, signs) in SIGNS.into_iter().enumerate() {
                // What was taken off and added is the same in all bytes, so it only shows in sums without signs.
                let mut start = if b == 0 { -128 * 4 } else { 0 };
                if (q, b) == (0, 0) {
                    start += (MIDDLE - i32::from(zero)) * GROUP as i32;
                }
                let mut x = [offset; G];
                for (x, sums) in x.iter_mut().zip(&sums) {
                    *x = S::to_f32(S::dot_u8i8(S::isplat(start), sums[q], S::isplat(signs as i32)));
                }
                // Exact: integers far below 2^24.
                let mut apart = 1;
                while apart < G {
                    for g in 0..G {
                        if g & apart == 0 {
                            (x[g], x[g + apart]) = (S::add(x[g], x[g + apart]), S::sub(x[g], x[g + apart]));
                        }
                    }
                    apart *= 2;
                }
                for (g, &x) in x.iter().enumerate() {
                    let x = S::mul(x, scale);
                    let x = if (g, q, b) == (0, 0, 0) { S::add(x, offset) } else { x };
                    S::store(out.add((g * GROUP + 4 * q + b) * PAGE_TOKENS), x);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn the_transform_of_levels_is_that_of_the_matrix_on_every_isa() {
        for rows in [64, 128, 256] {
            let count = rows * PAGE_TOKENS;
            // The extremes, also in the signs of some rows of the transform.
            let level = |r: usize, t: usize| match t {
                0 => 0,
                1 => 15,
                2..=20 => 15 * (((r & (t * 7 % rows)).count_ones() & 1) as u8),
                _ => ((r * 31 + t * 17 + r * t / 3) % 16) as u8,
            };
            let mut levels = vec![0; count];
            for i in 0..count {
                let (r, t) = (i / PAGE_TOKENS, i % PAGE_TOKENS);
                levels[(r / 4 * PAGE_TOKENS + t) * 4 + r % 4] = level(r, t);
            }
            let number = |i: usize| (i as f32 * 0.37).sin();
            let (scales, offsets): (Vec<_>, Vec<_>) = (0..PAGE_TOKENS).map(|i| (number(i), number(i + 99))).unzip();
            for (zero, with_offset) in [(0, true), (8, false), (3, true)] {
                let grid = Grid {
                    reduce: rows,
                    lanes: PAGE_TOKENS,
                    zero,
                    reduce_groups: &[rows],
                    lane_groups: &[PAGE_TOKENS],
                    fold_scale: &[],
                    fold_offset: &[],
                    lane_scale: &scales,
                    lane_offset: if with_offset { &offsets } else { &[] },
                };
                let mut first = vec![f32::NAN; count];
                assert!(decode_hadamard(Isa::Portable, &grid, &levels, &mut first));
                for isa in Isa::available() {
                    let mut out = vec![f32::NAN; count];
                    decode_hadamard(isa, &grid, &levels, &mut out);
                    assert_eq!(out, first, "{isa} {rows}");
                }
                for r in 0..rows {
                    for t in 0..PAGE_TOKENS {
                        let entry = |i: usize| {
                            let sign = if (i & r).count_ones() & 1 == 0 { 1.0 } else { -1.0 };
                            let offset = if with_offset { f64::from(offsets[t]) } else { 0.0 };
                            sign * (f64::from(scales[t]) * (f64::from(level(i, t)) - f64::from(zero)) + offset)
                        };
                        let expected = (0..rows).map(entry).sum::<f64>() / (rows as f64).sqrt();
                        let got = f64::from(first[r * PAGE_TOKENS + t]);
                        assert!((got - expected).abs() < 2e-5, "{rows} rows, zero {zero}: {r} {t}: {got} {expected}");
                    }
                }
            }
        }
    }
}
