//! Activations as eight-bit integers, in the way of ggml's `q8_1`.
//!
//! Each row is cut into blocks of 32 values: `d = max|x| / 127`, `code = round(x * (127 / max|x|))`, and `d` is then
//! rounded to a half float. For weights with a minimum, `s` is the half-rounded `d * Σ codes` of each weight group.
//! Two departures, where ggml returns garbage: a scale beyond the half floats' range stays an `f32`, and a block with
//! an infinity or NaN gets the scale NaN, so that the row shows it.
//!
//! Rows are stored in blocks of up to sixteen, group by group, so that one group of all rows of a block is contiguous:
//! it is what an AMX tile loads, and no two rows fall into the same cache set however wide the matrix is.

use super::memory::{Aligned, part};
use crate::simd::{LANES, Simd};
use crate::{Isa, Team, dispatch};
use half::f16;

/// Activations that share one scale.
pub(crate) const BLOCK: usize = 32;
/// Rows of an AMX tile, and of a row block where tiles are used.
pub(crate) const HEIGHT: usize = 16;
/// Rows of a row block elsewhere: as many as the AVX-512 kernel takes in one pass.
pub(crate) const PASS: usize = 12;
/// Rows from which blocks are laid out for tiles.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
const TILES: usize = super::amx::WORTH;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
const TILES: usize = usize::MAX;
/// Values below which one thread quantizes alone.
const ALONE: usize = 1 << 14;

/// Quantized rows, in storage that the next call reuses.
#[derive(Default)]
pub(crate) struct Activations {
    codes: Aligned,
    scales: Aligned,
    sums: Aligned,
    starts: Aligned,
    rows: usize,
    inp: usize,
    group: usize,
    height: usize,
}

/// One block of rows: codes `[inp/32][height][32]`, scales `[inp/32][height]`, the rest `[inp/group][height]`.
#[derive(Clone, Copy)]
pub(crate) struct RowBlock {
    pub(crate) codes: *const i8,
    /// `d`, one per 32 values.
    pub(crate) scales: *const f32,
    /// `s`, one per weight group.
    pub(crate) sums: *const f32,
    /// `-zero * Σ codes`, one per weight group: where the integer dot product starts.
    pub(crate) starts: *const i32,
    /// Rows from one group to the next.
    pub(crate) height: usize,
    /// Rows that are wanted, at most `height`.
    pub(crate) rows: usize,
}

impl RowBlock {
    /// The block from its row `r` on.
    #[inline(always)]
    pub(crate) unsafe fn starting_at(&self, r: usize) -> RowBlock {
        // SAFETY: `r < height` by the caller's promise; every array holds `height` rows per group.
        unsafe {
            RowBlock {
                codes: self.codes.add(r * BLOCK),
                scales: self.scales.add(r),
                sums: self.sums.add(r),
                starts: self.starts.add(r),
                height: self.height,
                rows: self.rows - r,
            }
        }
    }
}

/// Where one row goes: a block's arrays from that row on, for writing.
struct Slot {
    codes: *mut i8,
    scales: *mut f32,
    sums: *mut f32,
    starts: *mut i32,
    height: usize,
}

struct Storage(*mut u8, *mut u8, *mut u8, *mut u8);
// SAFETY: tasks write the blocks of their own rows.
unsafe impl Sync for Storage {}

impl Activations {
    /// Quantizes `x[rows][inp]` for weights in groups of `group` with this integer zero point.
    pub(crate) fn quantize(&mut self, isa: Isa, team: &Team, x: &[f32], inp: usize, group: usize, zero: i32) {
        let rows = x.len() / inp;
        let height = if isa == Isa::Amx && rows >= TILES { HEIGHT } else { rows.clamp(1, PASS) };
        let blocks = rows.div_ceil(height);
        let (padded, groups) = (blocks * height, inp / group);
        self.codes.at_least(padded * inp);
        self.scales.at_least(padded * inp / BLOCK * 4);
        self.sums.at_least(padded * groups * 4);
        self.starts.at_least(padded * groups * 4);
        (self.rows, self.inp, self.group, self.height) = (rows, inp, group, height);
        let storage = Storage(
            self.codes.as_mut_ptr(),
            self.scales.as_mut_ptr(),
            self.sums.as_mut_ptr(),
            self.starts.as_mut_ptr(),
        );
        let storage = &storage;
        let tasks = if x.len() < ALONE { 1 } else { blocks.min(team.threads() * 4) };
        team.for_each(tasks, |task| {
            for block in part(blocks, tasks, task) {
                for row in block * height..((block + 1) * height).min(rows) {
                    let r = row - block * height;
                    // SAFETY: the storage was sized for all blocks, and row `row` is this task's alone.
                    let slot = unsafe {
                        Slot {
                            codes: storage.0.cast::<i8>().add(block * height * inp + r * BLOCK),
                            scales: storage.1.cast::<f32>().add(block * height * (inp / BLOCK) + r),
                            sums: storage.2.cast::<f32>().add(block * height * groups + r),
                            starts: storage.3.cast::<i32>().add(block * height * groups + r),
                            height,
                        }
                    };
                    quantize_row(isa, &x[row * inp..(row + 1) * inp], group, zero, &slot);
                }
            }
        });
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn blocks(&self) -> usize {
        self.rows.div_ceil(self.height)
    }

    /// Rows of all blocks but the last.
    pub(crate) fn height(&self) -> usize {
        self.height
    }

    pub(crate) fn block(&self, b: usize) -> RowBlock {
        let rows = b * self.height;
        debug_assert!(rows < self.rows);
        // SAFETY: block `b` exists, and the storage was sized for all of them.
        unsafe {
            RowBlock {
                codes: self.codes.as_ptr().cast::<i8>().add(rows * self.inp),
                scales: self.scales.as_ptr().cast::<f32>().add(rows * (self.inp / BLOCK)),
                sums: self.sums.as_ptr().cast::<f32>().add(rows * (self.inp / self.group)),
                starts: self.starts.as_ptr().cast::<i32>().add(rows * (self.inp / self.group)),
                height: self.height,
                rows: self.height.min(self.rows - rows),
            }
        }
    }
}

dispatch! {
    fn quantize_row(x: &[f32], group: usize, zero: i32, slot: &Slot) = quantize_row_body
}

#[inline(always)]
unsafe fn quantize_row_body<S: Simd>(x: &[f32], group: usize, zero: i32, slot: &Slot) {
    // SAFETY: `x` is whole blocks, and the slot has room for one row of `x.len()` values.
    unsafe {
        // Sixteen scales at a time, so that they are rounded to half floats in one operation.
        let (mut d, mut s) = ([0.0f32; LANES], [0.0f32; 2 * LANES]);
        let per_block = BLOCK / group;
        for (chunk, x) in x.chunks(LANES * BLOCK).enumerate() {
            let first = chunk * LANES;
            let blocks = x.len() / BLOCK;
            for (i, x) in x.chunks_exact(BLOCK).enumerate() {
                let (a, b) = (S::load(x.as_ptr()), S::load(x.as_ptr().add(LANES)));
                let amax = S::reduce_max(S::max(S::abs(a), S::abs(b)));
                // Zero times anything finite is zero; an infinity or NaN leaves NaN, which is not below one.
                let zeros = S::fma(a, S::splat(0.0), S::mul(b, S::splat(0.0)));
                let finite = S::lt(zeros, S::splat(1.0)) == u16::MAX;
                let inverse = 127.0 / amax;
                // Of a block this close to zero (or all zero) the half-rounded scale is zero whatever the codes.
                let inverse = S::splat(if finite && inverse.is_finite() { inverse } else { 0.0 });
                let codes = [a, b].map(|v| if finite { S::to_i32(S::round(S::mul(v, inverse))) } else { S::isplat(0) });
                let to = slot.codes.add((first + i) * slot.height * BLOCK);
                S::store_bytes(to, codes[0]);
                S::store_bytes(to.add(LANES), codes[1]);
                d[i] = if finite { amax / 127.0 } else { f32::NAN };
                let sums = if per_block == 1 {
                    [S::ireduce_add(S::iadd(codes[0], codes[1])), 0]
                } else {
                    codes.map(|c| S::ireduce_add(c))
                };
                for (half, sum) in sums.into_iter().take(per_block).enumerate() {
                    s[i * per_block + half] = d[i] * sum as f32;
                    *slot.starts.add(((first + i) * per_block + half) * slot.height) = sum.wrapping_mul(-zero);
                }
            }
            round_to_half::<S>(&mut d);
            for (i, d) in d[..blocks].iter().enumerate() {
                *slot.scales.add((first + i) * slot.height) = *d;
            }
            for s in s.as_chunks_mut::<LANES>().0.iter_mut().take(per_block) {
                round_to_half::<S>(s);
            }
            for (i, s) in s[..blocks * per_block].iter().enumerate() {
                *slot.sums.add((first * per_block + i) * slot.height) = *s;
            }
        }
    }
}

/// To the nearest half float, where that is finite.
#[inline(always)]
unsafe fn round_to_half<S: Simd>(values: &mut [f32; LANES]) {
    let mut halves = [0u16; LANES];
    // SAFETY: both arrays hold sixteen elements.
    unsafe {
        let wide = S::load(values.as_ptr());
        S::store_f16(halves.as_mut_ptr(), wide);
        let rounded = S::load_f16(halves.as_ptr());
        let limit = S::splat(f16::MAX.to_f32() + 16.0);
        // The first value that rounds to infinity lies 16 above the largest half float.
        S::store(values.as_mut_ptr(), S::select(S::lt(S::abs(wide), limit), rounded, wide));
    }
}
