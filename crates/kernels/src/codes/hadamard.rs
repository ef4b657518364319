//! Keys that were turned by a Walsh-Hadamard transform and rounded token by token, back in the basis they came from.
//!
//! With one scale and one offset for a token, `H (s l + o) = s H l + o H 1`: the transform is taken of the levels, which are
//! small integers, exactly: sixteen of them fit a byte, four such sums a dot product of bytes. `H 1` has one entry.

#[cfg(test)]
mod tests;

use super::grid::Grid;
use crate::attention::{PAGE_TOKENS, turned};
use crate::dispatch;
use crate::simd::{LANES, Portable, Simd};

/// Rows whose sums are taken in bytes: sixteen fours.
const GROUP: usize = 64;
/// Rows at most: so many groups' sums are held in registers.
const MOST: usize = 4 * GROUP;
/// Query rows that are scored without a tile.
const FEW: usize = 4;
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
        unsafe { crate::simd::both!(|h| std::arch::x86_64::_mm256_add_epi8(a[h], b[h]), [0, 1]) }
    }
    #[inline(always)]
    unsafe fn sub8(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: as above.
        unsafe { crate::simd::both!(|h| std::arch::x86_64::_mm256_sub_epi8(a[h], b[h]), [0, 1]) }
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
    let Some(scales) = Scales::of(grid, levels) else { return false };
    assert!(out.len() >= grid.reduce * PAGE_TOKENS);
    fill(isa, levels, grid.reduce / GROUP, &scales, out);
    true
}

/// Writes the scores of rows with such a page, turned by `angles`: those of [`decode_hadamard`] and
/// [`crate::attention::score_turned`] over all its channels, to the same bits and without a tile. `q` is `[rows][reduce]`,
/// `scores` `[rows][PAGE_TOKENS]`. Only for 64 or 128 channels and at most four rows. Says whether it did; else `scores`
/// are as they were.
///
/// # Panics
/// As [`decode_hadamard`].
pub fn score_hadamard(
    isa: crate::Isa,
    grid: &Grid<'_>,
    levels: &[u8],
    q: &[f32],
    angles: &[f32],
    scores: &mut [f32],
) -> bool {
    let Some(scales) = Scales::of(grid, levels) else { return false };
    let width = grid.reduce;
    let rows = q.len() / width;
    if !(1..=FEW).contains(&rows) || width > 2 * GROUP {
        return false;
    }
    assert!(q.len() == rows * width && angles.len() == width * PAGE_TOKENS && scores.len() >= rows * PAGE_TOKENS);
    score(isa, levels, width / GROUP, &scales, q, angles, scores);
    true
}

/// What levels of tokens are finished with.
struct Scales {
    scale: [f32; PAGE_TOKENS],
    /// Of the first row.
    offset: [f32; PAGE_TOKENS],
    zero: u8,
}

impl Scales {
    /// Those of a grid that is of the kind this file reads.
    fn of(grid: &Grid<'_>, levels: &[u8]) -> Option<Scales> {
        grid.check();
        assert!(levels.len() >= grid.reduce * grid.lanes);
        let rows = grid.reduce;
        if grid.lanes != PAGE_TOKENS
            || !rows.is_power_of_two()
            || !(GROUP..=MOST).contains(&rows)
            || grid.reduce_groups.len() > 1
            || grid.lane_scale.is_empty()
            || !(grid.fold_scale.is_empty() && grid.fold_offset.is_empty())
        {
            return None;
        }
        debug_assert!(levels[..rows * PAGE_TOKENS].iter().all(|&level| level < 16));
        let root = (rows as f32).sqrt();
        let mut scales = Scales { scale: [0.0; PAGE_TOKENS], offset: [0.0; PAGE_TOKENS], zero: grid.zero };
        scales.scale.iter_mut().zip(grid.lane_scale).for_each(|(to, scale)| *to = scale / root);
        scales.offset.iter_mut().zip(grid.lane_offset).for_each(|(to, offset)| *to = offset * root);
        Some(scales)
    }
}

dispatch! {
    fn fill(levels: &[u8], groups: usize, scales: &Scales, out: &mut [f32]) = fill_body
}

#[inline(always)]
unsafe fn fill_body<S: Bytes>(levels: &[u8], groups: usize, scales: &Scales, out: &mut [f32]) {
    let (from, to) = (levels.as_ptr(), out.as_mut_ptr());
    for first in (0..PAGE_TOKENS).step_by(LANES) {
        // SAFETY: `decode_hadamard` checked the lengths.
        unsafe {
            match groups {
                1 => Tokens::<S, 1>::new(from, first, scales).write(to.add(first)),
                2 => Tokens::<S, 2>::new(from, first, scales).write(to.add(first)),
                _ => Tokens::<S, 4>::new(from, first, scales).write(to.add(first)),
            }
        }
    }
}

dispatch! {
    fn score(levels: &[u8], groups: usize, scales: &Scales, q: &[f32], angles: &[f32], scores: &mut [f32]) = score_body
}

#[inline(always)]
unsafe fn score_body<S: Bytes>(
    levels: &[u8],
    groups: usize,
    scales: &Scales,
    q: &[f32],
    angles: &[f32],
    scores: &mut [f32],
) {
    let (levels, rows) = (levels.as_ptr(), q.len() / (groups * GROUP));
    for first in (0..PAGE_TOKENS).step_by(LANES) {
        // SAFETY: `score_hadamard` checked the lengths.
        unsafe {
            let (angles, to) = (angles.as_ptr().add(first), scores.as_mut_ptr().add(first));
            macro_rules! rows {
                ($groups:literal, $rows:literal) => {
                    Tokens::<S, $groups>::new(levels, first, scales).score::<$rows>(q.as_ptr(), angles, to)
                };
            }
            match (groups, rows) {
                (1, 1) => rows!(1, 1),
                (1, 2) => rows!(1, 2),
                (1, 3) => rows!(1, 3),
                (1, _) => rows!(1, 4),
                (_, 1) => rows!(2, 1),
                (_, 2) => rows!(2, 2),
                (_, 3) => rows!(2, 3),
                (_, _) => rows!(2, 4),
            }
        }
    }
}

/// Bytes of `±1` whose product with four sums is one of their transform; in this order.
const SIGNS: [u32; 4] = [0x0101_0101, 0xff01_ff01, 0xffff_0101, 0x01ff_ff01];

/// Fours of rows of a group.
const QUADS: usize = GROUP / 4;

/// Sixteen tokens of `G` groups of rows.
struct Tokens<S: Simd, const G: usize> {
    /// Bytes: transforms over the quads of a group, 128 added.
    sums: [[S::I; QUADS]; G],
    scale: S::F,
    offset: S::F,
    zero: u8,
}

impl<S: Bytes, const G: usize> Tokens<S, G> {
    /// # Safety
    /// The levels have `G * QUADS` quads of `PAGE_TOKENS` lanes; `S`'s instructions are present.
    #[inline(always)]
    unsafe fn new(levels: *const u8, first: usize, scales: &Scales) -> Tokens<S, G> {
        // SAFETY: the caller's promise.
        unsafe {
            let middle = S::isplat(MIDDLE * 0x0101_0101);
            // Where the dot product wants its bytes without a sign.
            let unsigned = S::isplat(0x8080_8080_u32 as i32);
            let mut sums = [[middle; QUADS]; G];
            for (g, sums) in sums.iter_mut().enumerate() {
                for (q, sum) in sums.iter_mut().enumerate() {
                    let levels = S::load_bytes(levels.add(((g * QUADS + q) * PAGE_TOKENS + first) * 4));
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
                for sum in sums.iter_mut() {
                    *sum = S::add8(*sum, unsigned);
                }
            }
            let (scale, offset) = (scales.scale.as_ptr().add(first), scales.offset.as_ptr().add(first));
            Tokens { sums, scale: S::load(scale), offset: S::load(offset), zero: scales.zero }
        }
    }

    /// Row `4 q + b` of every group.
    #[inline(always)]
    unsafe fn entries(&self, q: usize, b: usize) -> [S::F; G] {
        // SAFETY: the features are the dispatcher's business.
        unsafe {
            // What was taken off and added is the same in all bytes, so it only shows in sums without signs.
            let mut start = if b == 0 { -128 * 4 } else { 0 };
            if (q, b) == (0, 0) {
                start += (MIDDLE - i32::from(self.zero)) * GROUP as i32;
            }
            let mut x = [self.offset; G];
            for (x, sums) in x.iter_mut().zip(&self.sums) {
                *x = S::to_f32(S::dot_u8i8(S::isplat(start), sums[q], S::isplat(SIGNS[b] as i32)));
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
            for (g, x) in x.iter_mut().enumerate() {
                *x = S::mul(*x, self.scale);
                if (g, q, b) == (0, 0, 0) {
                    *x = S::add(*x, self.offset);
                }
            }
            x
        }
    }

    /// All rows, one every `PAGE_TOKENS`.
    #[inline(always)]
    unsafe fn write(&self, out: *mut f32) {
        for q in 0..QUADS {
            for b in 0..4 {
                // SAFETY: `out` has the rows.
                unsafe {
                    for (g, x) in self.entries(q, b).into_iter().enumerate() {
                        S::store(out.add((g * GROUP + 4 * q + b) * PAGE_TOKENS), x);
                    }
                }
            }
        }
    }

    /// Scores of `R` rows of queries, pairs in order.
    #[inline(always)]
    unsafe fn score<const R: usize>(&self, queries: *const f32, angles: *const f32, scores: *mut f32) {
        let width = G * GROUP;
        let pairs = width / 2;
        // SAFETY: `queries` has R rows of `width`, `angles` `pairs` times two rows of PAGE_TOKENS, `scores` R of them.
        unsafe {
            let mut acc = [S::splat(0.0); R];
            for q in 0..QUADS * G / 2 {
                for b in 0..4 {
                    let i = 4 * q + b;
                    let x = self.entries(q, b);
                    let (x, y) = if G == 1 { (x[0], self.entries(q + QUADS / 2, b)[0]) } else { (x[0], x[G - 1]) };
                    let (x, y) = turned::<S>(x, y, angles.add(2 * i * PAGE_TOKENS));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let query = queries.add(r * width + i);
                        *acc = S::fma(S::splat(*query.add(pairs)), y, S::fma(S::splat(*query), x, *acc));
                    }
                }
            }
            for (r, &acc) in acc.iter().enumerate() {
                S::store(scores.add(r * PAGE_TOKENS), acc);
            }
        }
    }
}
