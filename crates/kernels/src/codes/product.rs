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

use super::dot::Dot;
use super::grid::{self, Grid};
use super::pack::{Bits, packed_bytes};
use super::source::{Codes, Packed, Source, Unpacked};
use super::vectors::{Finish, Vectors, quantize};
use crate::linear::memory::{Aligned, LINE, prefetch_line};
use crate::simd::{LANES, Simd};
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
        self.ahead = Ahead { next: bytes.as_ptr(), lines: bytes.len().div_ceil(LINE) };
    }

    /// Asks for what is left of [`Scratch::expect`].
    pub fn expect_rest(&mut self) {
        self.ahead.take(self.ahead.lines).all();
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.finish.capacity() * size_of::<Finish>() + self.products.len()
    }
}

/// Lines of memory that are still to be asked for; never read.
#[derive(Clone, Copy)]
struct Ahead {
    next: *const u8,
    lines: usize,
}

// SAFETY: an address that is not read.
unsafe impl Send for Ahead {}
// SAFETY: as above.
unsafe impl Sync for Ahead {}

impl Default for Ahead {
    fn default() -> Ahead {
        Ahead { next: std::ptr::null(), lines: 0 }
    }
}

impl Ahead {
    /// The next lines, so many at most.
    #[inline(always)]
    fn take(&mut self, lines: usize) -> Ahead {
        let taken = Ahead { next: self.next, lines: lines.min(self.lines) };
        self.next = self.next.wrapping_add(taken.lines * LINE);
        self.lines -= taken.lines;
        taken
    }

    /// Asks for line `i`, where it is one of these.
    #[inline(always)]
    fn line(&self, i: usize) {
        if i < self.lines {
            prefetch_line(self.next.wrapping_add(i * LINE));
        }
    }

    fn all(&self) {
        (0..self.lines).for_each(|i| self.line(i));
    }
}

/// Lines asked for with every four rows of a matrix.
const LINES: usize = 2;

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

/// At most [`HEIGHT`] rows against a matrix.
pub(super) struct Task<'a> {
    pub(super) grid: &'a Grid<'a>,
    pub(super) codes: Codes<'a>,
    /// Null where the rows are rounded already.
    pub(super) x: *const f32,
    pub(super) x_stride: usize,
    pub(super) rows: usize,
    pub(super) vectors: Vectors,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    ahead: Cell<Ahead>,
}

/// Rows for which packed codes are unpacked as they are multiplied; for more it would be done too often.
const FEW: usize = 8;

/// Whether products of so many rows read packed codes of such a matrix; else they want levels.
pub fn reads_packed(isa: Isa, grid: &Grid<'_>, rows: usize) -> bool {
    // Fewer registers leave no room to unpack in.
    let wide = isa >= Isa::Avx512 && Isa::Avx512.is_available();
    let even = |lanes: usize| lanes.is_multiple_of(2 * LANES);
    wide && rows <= FEW && even(grid.lanes) && (grid.folds() == 1 || grid.lane_groups.iter().all(|&end| even(end)))
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
    unsafe { quantize::<S>(grid, 0, x.as_ptr(), stride, rows, to) };
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
    }
    if rows == 0 {
        return;
    }
    assert!(out.len() >= (rows - 1) * out_stride + grid.lanes);
    let tiles = tiles(isa, grid, rows, &mut scratch.products);
    let (vectors, x, x_stride) = match given {
        Given::Plain { x, stride } => {
            assert!(x.len() >= (rows - 1) * stride + grid.reduce);
            let (plane, height) = (Vectors::plane_of(grid), rows.min(HEIGHT));
            // Tiles read all their rows, wanted or not.
            scratch.codes.at_least(if tiles.is_some() { HEIGHT } else { height } * 2 * plane);
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
        let task = Task {
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
            if !x.is_null() {
                round_some(isa, &task, fold);
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
    /// Rounds the rows of a task for one fold of the grid.
    fn round_some(task: &Task, fold: usize) = round_some_body
}

#[inline(always)]
unsafe fn round_some_body<S: Dot>(task: &Task, fold: usize) {
    // SAFETY: `multiply` checked the lengths.
    unsafe { quantize::<S>(task.grid, fold, task.x, task.x_stride, task.rows, task.vectors) };
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
            Codes::Packed { .. } => {}
        }
    }
}

/// All rows against some lanes, several rows at once.
#[inline(always)]
unsafe fn strips<S: Dot, C: Source>(task: &Task, lanes: Range<usize>, source: C) {
    let mut row = 0;
    // SAFETY: rows and lanes are the task's. The tiles are as large as leaves every sum in a register.
    unsafe {
        while row < task.rows {
            let lanes = lanes.clone();
            match (task.rows - row, S::REGISTERS >= 32) {
                (1, true) => row += strip::<S, C, 1, 4>(task, source, row, lanes),
                (2 | 4, true) => row += strip::<S, C, 2, 4>(task, source, row, lanes),
                (_, true) => row += strip::<S, C, 3, 4>(task, source, row, lanes),
                (1, false) => row += strip::<S, C, 1, 2>(task, source, row, lanes),
                (2, false) => row += strip::<S, C, 2, 1>(task, source, row, lanes),
                (_, false) => row += strip::<S, C, 3, 1>(task, source, row, lanes),
            }
        }
    }
}

/// `R` rows against some lanes, `L` vectors of them at once while there are as many; returns `R`.
#[inline(always)]
unsafe fn strip<S: Dot, C: Source, const R: usize, const L: usize>(
    task: &Task,
    source: C,
    row: usize,
    lanes: Range<usize>,
) -> usize {
    let mut lane = lanes.start;
    // Packed codes are read in fours from multiples of four on only.
    let whole = !C::PACKED || (task.grid.lanes | lane).is_multiple_of(L * LANES);
    // SAFETY: rows and lanes are the task's.
    unsafe {
        while whole && lane + L * LANES <= lanes.end {
            tile::<S, C, R, L>(task, source, row, lane);
            lane += L * LANES;
        }
        while L > 2 && lane + 2 * LANES <= lanes.end {
            tile::<S, C, R, 2>(task, source, row, lane);
            lane += 2 * LANES;
        }
        while !C::PACKED && L > 1 && lane < lanes.end {
            tile::<S, C, R, 1>(task, source, row, lane);
            lane += LANES;
        }
    }
    R
}

/// `R` rows against `L` vectors of lanes.
#[inline(always)]
unsafe fn tile<S: Dot, C: Source, const R: usize, const L: usize>(task: &Task, source: C, row: usize, lane: usize) {
    let grid = task.grid;
    let Vectors { plane, finish, .. } = task.vectors;
    let groups = grid.reduce_groups.len();
    let mut left = task.ahead.get();
    let ahead = left.take(LINES * grid.reduce / 4);
    task.ahead.set(left);
    let mut quad = 0;
    // SAFETY: the levels have `reduce / 4` quads of all lanes, each row of codes as many.
    unsafe {
        let rows: [*mut i8; R] = std::array::from_fn(|r| task.vectors.row(row + r));
        for (g, &end) in grid.reduce_groups.iter().enumerate() {
            let mut sums = [[S::nothing(); L]; R];
            while 4 * quad < end {
                (0..LINES).for_each(|i| ahead.line(LINES * quad + i));
                let levels: [S::Levels; L] = source.read::<S, L>((quad * grid.lanes + lane) / LANES);
                for (sums, &codes) in sums.iter_mut().zip(&rows) {
                    let codes = S::quad(codes, plane, quad);
                    for (sum, &levels) in sums.iter_mut().zip(&levels) {
                        *sum = S::dot(*sum, levels, codes);
                    }
                }
                quad += 1;
            }
            let place = Lanes::new(grid, g, lane);
            let finish = finish.add(row * groups + g);
            let out = task.out.add(row * task.out_stride + lane);
            // One branch around all of it, so that the loops are unrolled and the sums stay in registers.
            if place.has_offset() {
                add::<S, R, L, true>(&sums, &place, finish, groups, out, task.out_stride);
            } else {
                add::<S, R, L, false>(&sums, &place, finish, groups, out, task.out_stride);
            }
        }
    }
}

/// The floating-point steps of a tile.
#[inline(always)]
unsafe fn add<S: Dot, const R: usize, const L: usize, const OFFSET: bool>(
    sums: &[[S::Sums; L]; R],
    place: &Lanes,
    finish: *const Finish,
    groups: usize,
    out: *mut f32,
    out_stride: usize,
) {
    for (r, sums) in sums.iter().enumerate() {
        for (l, &sums) in sums.iter().enumerate() {
            // SAFETY: rows and lanes are the task's.
            unsafe {
                place.add::<S, OFFSET>(l, S::total(sums), &*finish.add(r * groups), out.add(r * out_stride));
            }
        }
    }
}

/// No scales.
static ONES: [f32; LANES] = [1.0; LANES];

/// Scales and offsets of some vectors of lanes in one reduce group, and the floating-point steps with them.
pub(super) struct Lanes {
    scale: *const f32,
    /// Floats from one vector of scales to the next.
    step: usize,
    /// Null where there are none.
    offset: *const f32,
}

impl Lanes {
    /// Those from `lane` on in reduce group `g`.
    #[inline(always)]
    pub(super) fn new(grid: &Grid<'_>, g: usize, lane: usize) -> Lanes {
        let at = g * grid.lanes + lane;
        let (scale, offset) = (grid::from(grid.lane_scale, at), grid::from(grid.lane_offset, at));
        let none = scale.is_null();
        Lanes { scale: if none { ONES.as_ptr() } else { scale }, step: if none { 0 } else { LANES }, offset }
    }

    #[inline(always)]
    pub(super) fn has_offset(&self) -> bool {
        !self.offset.is_null()
    }

    /// Adds what the integer products of vector `l` say; `OFFSET` is what [`Lanes::has_offset`] says.
    #[inline(always)]
    pub(super) unsafe fn add<S: Simd, const OFFSET: bool>(
        &self,
        l: usize,
        products: S::I,
        finish: &Finish,
        out: *mut f32,
    ) {
        // SAFETY: there are lanes of vector `l`, also in `out`.
        unsafe {
            let n = S::to_f32(S::iadd(products, S::isplat(finish.start)));
            let t = S::fma(n, S::splat(finish.scale), S::splat(finish.fold));
            let out = out.add(l * LANES);
            let mut sum = S::fma(S::load(self.scale.add(l * self.step)), t, S::load(out));
            if OFFSET {
                sum = S::fma(S::load(self.offset.add(l * LANES)), S::splat(finish.sum), sum);
            }
            S::store(out, sum);
        }
    }
}
