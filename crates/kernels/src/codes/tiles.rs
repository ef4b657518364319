//! Tiles of products: some rows against some vectors of lanes, all sums in registers.

use super::ahead::Ahead;
use super::dot::Dot;
use super::grid::{self, Grid};
use super::source::{Codes, Source};
use super::vectors::{Finish, Vectors};
use crate::simd::{LANES, Simd};
use std::cell::Cell;
use std::ops::Range;

/// At most [`super::product::HEIGHT`] rows against a matrix.
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
    pub(super) ahead: Cell<Ahead>,
}

/// Lines asked for with every four rows of a matrix.
const LINES: usize = 2;

/// All rows against some lanes, several rows at once.
#[inline(always)]
pub(super) unsafe fn strips<S: Dot, C: Source>(task: &Task, lanes: Range<usize>, source: C) {
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
                (3, false) => row += strip::<S, C, 3, 1>(task, source, row, lanes),
                (_, false) => row += strip::<S, C, 4, 1>(task, source, row, lanes),
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
    // Packed codes are read in twos and fours from multiples of these on only.
    let even = |count: usize| !C::PACKED || (task.grid.lanes | lanes.start).is_multiple_of(count * LANES);
    // SAFETY: rows and lanes are the task's.
    unsafe {
        while even(L) && lane + L * LANES <= lanes.end {
            tile::<S, C, R, L>(task, source, row, lane);
            lane += L * LANES;
        }
        while L > 2 && even(2) && lane + 2 * LANES <= lanes.end {
            tile::<S, C, R, 2>(task, source, row, lane);
            lane += 2 * LANES;
        }
        while L > 1 && lane < lanes.end {
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
