//! Activations as sixteen-bit integers in two planes of eight bits.
//!
//! Each row is cut into blocks of 32 values with one scale: `d = max|x| / 32512`, `code = round(x / d)`, and
//! `code = 256 * high + low` with both parts in a signed byte, so that eight-bit dot products compute with them exactly.
//! Eight bits alone, as ggml takes them, move the logits of a small model by a tenth and its answers with them; two
//! planes cost a second integer product and leave a three-hundredth of that.
//! For weights with a minimum, `s = d * Σ codes` of each weight group. A block with an infinity or NaN gets the scale
//! NaN, so that the row shows it.
//!
//! Rows are stored in blocks of up to sixteen, group by group, so that one group of all rows of a block is contiguous:
//! it is what an AMX tile loads, and no two rows fall into the same cache set however wide the matrix is.

use super::memory::{Aligned, part};
use crate::simd::{LANES, Simd};
use crate::{Isa, Team, dispatch};

/// Activations that share one scale.
pub(crate) const BLOCK: usize = 32;
/// The largest code: 127 in the high plane.
const LARGEST: f32 = 32512.0;
/// High and low plane.
pub(crate) const PLANES: usize = 2;
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

/// One block of rows: codes `[inp/32][2][height][32]` (high plane, low plane), scales `[inp/32][height]`, the rest `[inp/group][height]`.
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
        self.codes.at_least(PLANES * padded * inp);
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
                            codes: storage.0.cast::<i8>().add(PLANES * block * height * inp + r * BLOCK),
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
                codes: self.codes.as_ptr().cast::<i8>().add(PLANES * rows * self.inp),
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
        let per_block = BLOCK / group;
        for (block, x) in x.chunks_exact(BLOCK).enumerate() {
            let (a, b) = (S::load(x.as_ptr()), S::load(x.as_ptr().add(LANES)));
            let amax = S::reduce_max(S::max(S::abs(a), S::abs(b)));
            // Zero times anything finite is zero; an infinity or NaN leaves NaN, which is not below one.
            let zeros = S::fma(a, S::splat(0.0), S::mul(b, S::splat(0.0)));
            let finite = S::lt(zeros, S::splat(1.0)) == u16::MAX;
            let inverse = LARGEST / amax;
            // A block this close to zero (or all zero) is zero.
            let inverse = S::splat(if finite && inverse.is_finite() { inverse } else { 0.0 });
            // No closure, which would be a function of its own without the instruction set's features.
            let mut codes = [S::isplat(0); 2];
            if finite {
                codes = [S::to_i32(S::round(S::mul(a, inverse))), S::to_i32(S::round(S::mul(b, inverse)))];
            }
            let high = slot.codes.add(block * PLANES * slot.height * BLOCK);
            let low = high.add(slot.height * BLOCK);
            for (half, &codes) in codes.iter().enumerate() {
                // The low byte, taken as signed, is what `256 * high` leaves over.
                S::store_bytes(high.add(half * LANES), S::sar8(S::iadd(codes, S::isplat(128))));
                S::store_bytes(low.add(half * LANES), codes);
            }
            let d = if finite { amax / LARGEST } else { f32::NAN };
            *slot.scales.add(block * slot.height) = d;
            let sums = if per_block == 1 {
                [S::ireduce_add(S::iadd(codes[0], codes[1])), 0]
            } else {
                [S::ireduce_add(codes[0]), S::ireduce_add(codes[1])]
            };
            for (part, sum) in sums.into_iter().take(per_block).enumerate() {
                let at = (block * per_block + part) * slot.height;
                *slot.sums.add(at) = d * sum as f32;
                *slot.starts.add(at) = sum.wrapping_mul(-zero);
            }
        }
    }
}
