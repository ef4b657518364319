//! Products of vectors with a matrix of levels.
//!
//! For each row and lane, reduce groups in ascending order, with the exact integer `n = Σ code * (level - zero)`:
//!
//! ```text
//! t = fma(n, d, Σ x * fold_offset)
//! out = fma(lane_scale, t, out)
//! out = fma(lane_offset, Σ y, out)      where there are such offsets
//! ```
//!
//! Every path through this file and through the AMX one performs just that, so they return the same bits.

use super::ahead::Ahead;
use super::dot::Dot;
use super::grid::Grid;
use super::pack::{Bits, packed_bytes};
use super::rounding::quantize;
use super::source::{Codes, Packed, Pairs, Unpacked};
use super::tiles::{Task, strips};
use super::vectors::{Finish, Vectors};
use crate::linear::memory::Aligned;
use crate::simd::LANES;
use crate::{Isa, dispatch};
use std::cell::Cell;
use std::ops::Range;

/// Rows rounded at once: those of an AMX tile.
pub(super) const HEIGHT: usize = 16;

/// Buffers of [`multiply`].
#[derive(Default)]
pub struct Scratch {
    codes: Aligned,
    finish: Vec<Finish>,
    products: Aligned,
    ahead: Ahead,
}

impl Scratch {
    /// Bytes that are read after the products that come: they are asked for line by line while these are computed. A
    /// processor that is asked for more lines at once than it can have under way waits.
    pub fn expect(&mut self, bytes: &[u8]) {
        self.ahead = Ahead::of(bytes);
    }

    /// Asks for what is left of [`Scratch::expect`].
    pub fn expect_rest(&mut self) {
        self.ahead.take(self.ahead.lines()).all();
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.finish.capacity() * size_of::<Finish>() + self.products.len()
    }
}

/// Rows that a matrix is multiplied with.
#[derive(Clone, Copy)]
pub enum Given<'a> {
    /// As they are.
    Plain {
        /// `[rows][stride]`, of which `reduce` count.
        x: &'a [f32],
        /// From one row to the next.
        stride: usize,
    },
    /// As [`round`] left them, for a matrix with the same groups of rows, zero point, scales of rows and presence of offsets.
    Rounded(&'a [f32]),
}

/// Rows for which packed codes are unpacked as they are multiplied; for more it would be done too often.
const FEW: usize = 8;

/// Whether products of so many rows read packed codes of such a matrix; else they want levels.
pub fn reads_packed(isa: Isa, grid: &Grid<'_>, rows: usize) -> bool {
    // Fewer registers leave no room to unpack in.
    let wide = isa >= Isa::Avx512 && Isa::Avx512.is_available();
    wide && rows <= FEW && (grid.lanes == LANES || grid.lanes.is_multiple_of(2 * LANES))
}

/// Rounds rows once for all matrices that differ in nothing but their levels, and scales and offsets of lanes.
///
/// # Panics
/// If the grid breaks what its fields promise, has several groups of lanes with scales of rows, or `x` is too short.
pub fn round(isa: Isa, grid: &Grid<'_>, x: &[f32], stride: usize, rows: usize, state: &mut Vec<f32>) {
    grid.check();
    assert!(grid.folds() == 1 && (rows == 0 || x.len() >= (rows - 1) * stride + grid.reduce));
    state.clear();
    state.resize(Vectors::floats(grid, rows), 0.0);
    round_all(isa, grid, x, stride, rows, Vectors::within(grid, rows, state.as_mut_ptr()));
}

dispatch! {
    fn round_all(grid: &Grid<'_>, x: &[f32], stride: usize, rows: usize, to: Vectors) = round_body
}

#[inline(always)]
unsafe fn round_body<S: Dot>(grid: &Grid<'_>, x: &[f32], stride: usize, rows: usize, to: Vectors) {
    // SAFETY: `round` checked the lengths.
    unsafe { quantize::<S>(grid, 0..1, x.as_ptr(), stride, rows, to) };
}

/// **Adds** `x[rows] × matrix` to `out[rows][out_stride]`: `reduce` values of each row of `x`, `lanes` of `out`.
/// An infinity or NaN in a row of `x` makes that row of `out` NaN, and no other.
///
/// # Panics
/// If the grid breaks what its fields promise, a slice is too short, or codes are packed where [`reads_packed`] says no.
#[allow(clippy::too_many_arguments)]
pub fn multiply(
    isa: Isa,
    grid: &Grid<'_>,
    codes: Codes<'_>,
    given: Given<'_>,
    rows: usize,
    scratch: &mut Scratch,
    out: &mut [f32],
    out_stride: usize,
) {
    grid.check();
    let count = grid.reduce * grid.lanes;
    match codes {
        Codes::Levels(levels) => assert!(levels.len() >= count),
        Codes::Packed { bits, packed, table } => {
            assert!(reads_packed(isa, grid, rows) && (table.is_none() || bits <= Bits::B4));
            assert!(packed.len() == packed_bytes(bits, count.next_multiple_of(512)));
        }
        Codes::Pairs { packed, distance, .. } => {
            assert!(reads_packed(isa, grid, rows) && matches!(distance, 1 | 4));
            assert!(packed.len() == packed_bytes(Bits::B4, count.next_multiple_of(512)));
        }
    }
    if rows == 0 {
        return;
    }
    assert!(out.len() >= (rows - 1) * out_stride + grid.lanes);
    let tiles = tiles(isa, grid, rows, &mut scratch.products);
    // Few rows are rounded for all folds before any is multiplied: the processor works on several of them at once.
    let together = if rows * grid.folds() <= HEIGHT { grid.folds() } else { 1 };
    let (vectors, x, x_stride) = match given {
        Given::Plain { x, stride } => {
            assert!(x.len() >= (rows - 1) * stride + grid.reduce);
            let (plane, height) = (Vectors::plane_of(grid), rows.min(HEIGHT) * together);
            // Tiles read all their rows, wanted or not.
            scratch.codes.at_least((height + if tiles.is_some() { HEIGHT } else { 0 }) * 2 * plane);
            scratch.finish.resize(scratch.finish.len().max(height * grid.reduce_groups.len()), Finish::default());
            let (codes, finish) = (scratch.codes.as_mut_ptr().cast(), scratch.finish.as_mut_ptr());
            (Vectors { codes, plane, finish }, x.as_ptr(), stride)
        }
        Given::Rounded(state) => {
            assert!(grid.folds() == 1 && state.len() == Vectors::floats(grid, rows));
            // Nothing is written where rows are rounded already.
            (Vectors::within(grid, rows, state.as_ptr().cast_mut()), std::ptr::null(), 0)
        }
    };
    for first in (0..rows).step_by(HEIGHT) {
        let mut task = Task {
            grid,
            codes,
            x: if x.is_null() { x } else { x.wrapping_add(first * x_stride) },
            x_stride,
            rows: (rows - first).min(HEIGHT),
            vectors: if x.is_null() { vectors.skip(first, grid) } else { vectors },
            out: out[first * out_stride..].as_mut_ptr(),
            out_stride,
            ahead: Cell::new(scratch.ahead),
        };
        for fold in 0..grid.folds() {
            if fold % together > 0 {
                task.vectors = task.vectors.skip(task.rows, grid);
            } else if !x.is_null() {
                task.vectors = vectors;
                round_some(isa, &task, fold..fold + together);
            }
            match (&tiles, codes) {
                #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
                (Some(tiles), Codes::Levels(levels)) if tiles.takes(task.rows) => {
                    tiles.run(&task, levels.as_ptr(), grid.fold(fold));
                }
                _ => run(isa, &task, grid.fold(fold)),
            }
        }
        scratch.ahead = task.ahead.get();
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::amx::tiles;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn tiles(_: Isa, _: &Grid<'_>, _: usize, _: &mut Aligned) -> Option<()> {
    None
}

dispatch! {
    /// Rounds the rows of a task for some folds of the grid.
    fn round_some(task: &Task, folds: Range<usize>) = round_some_body
}

#[inline(always)]
unsafe fn round_some_body<S: Dot>(task: &Task, folds: Range<usize>) {
    // SAFETY: `multiply` checked the lengths.
    unsafe { quantize::<S>(task.grid, folds, task.x, task.x_stride, task.rows, task.vectors) };
}

dispatch! {
    /// Rounded rows against the lanes of one fold.
    fn run(task: &Task, lanes: Range<usize>) = run_body
}

#[inline(always)]
unsafe fn run_body<S: Dot>(task: &Task, lanes: Range<usize>) {
    // SAFETY: `multiply` checked the lengths, and that codes are packed only where there are registers for it.
    unsafe {
        match task.codes {
            Codes::Levels(levels) => strips::<S, _>(task, lanes, Unpacked(levels.as_ptr())),
            Codes::Packed { bits, packed, table } if S::REGISTERS >= 32 => {
                let (from, plane) = (packed.as_ptr(), packed.len() / bits.count());
                macro_rules! packed {
                    ($bits:literal) => {
                        strips::<S, _>(task, lanes, Packed::<$bits, false> { from, plane, table: from })
                    };
                    ($bits:literal, table) => {
                        match table {
                            Some(table) => strips::<S, _>(
                                task,
                                lanes,
                                Packed::<$bits, true> { from, plane, table: table.as_ptr() },
                            ),
                            None => packed!($bits),
                        }
                    };
                }
                match bits {
                    Bits::B1 => packed!(1, table),
                    Bits::B2 => packed!(2, table),
                    Bits::B3 => packed!(3, table),
                    Bits::B4 => packed!(4, table),
                    Bits::B5 => packed!(5),
                    Bits::B6 => packed!(6),
                    Bits::B8 => strips::<S, _>(task, lanes, Unpacked(from)),
                }
            }
            Codes::Pairs { packed, distance, normal, outlier, victim } if S::REGISTERS >= 32 => {
                let (from, normal, outlier) = (packed.as_ptr(), normal.as_ptr(), outlier.as_ptr());
                match distance {
                    1 => strips::<S, _>(task, lanes, Pairs::<1> { from, normal, outlier, victim }),
                    _ => strips::<S, _>(task, lanes, Pairs::<4> { from, normal, outlier, victim }),
                }
            }
            Codes::Packed { .. } | Codes::Pairs { .. } => {}
        }
    }
}
