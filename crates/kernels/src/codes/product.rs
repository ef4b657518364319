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
use super::vectors::{Finish, Vectors, quantize};
use crate::linear::memory::Aligned;
use crate::simd::{LANES, Simd};
use crate::{Isa, dispatch};
use std::ops::Range;

/// Rows rounded at once: those of an AMX tile.
pub(super) const HEIGHT: usize = 16;

/// Buffers of [`multiply`].
#[derive(Default)]
pub struct Scratch {
    codes: Aligned,
    finish: Vec<Finish>,
    products: Aligned,
}

impl Scratch {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.finish.capacity() * size_of::<Finish>() + self.products.len()
    }
}

/// At most [`HEIGHT`] rows against a matrix.
pub(super) struct Task<'a> {
    pub(super) grid: &'a Grid<'a>,
    pub(super) levels: *const u8,
    pub(super) x: *const f32,
    pub(super) x_stride: usize,
    pub(super) rows: usize,
    pub(super) vectors: Vectors,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
}

/// **Adds** `x[rows][x_stride] × matrix` to `out[rows][out_stride]`: `reduce` values of each row of `x`, `lanes` of `out`.
/// An infinity or NaN in a row of `x` makes that row of `out` NaN, and no other.
///
/// # Panics
/// If the grid breaks what its fields promise, or a slice is too short.
#[allow(clippy::too_many_arguments)]
pub fn multiply(
    isa: Isa,
    grid: &Grid<'_>,
    levels: &[u8],
    x: &[f32],
    x_stride: usize,
    rows: usize,
    scratch: &mut Scratch,
    out: &mut [f32],
    out_stride: usize,
) {
    grid.check(levels.len());
    if rows == 0 {
        return;
    }
    assert!(x.len() >= (rows - 1) * x_stride + grid.reduce && out.len() >= (rows - 1) * out_stride + grid.lanes);
    let plane = Vectors::plane_of(grid);
    let height = rows.min(HEIGHT);
    // Tiles read all their rows, wanted or not.
    let tiles = tiles(isa, grid, rows, &mut scratch.products);
    scratch.codes.at_least(if tiles.is_some() { HEIGHT } else { height } * 2 * plane);
    scratch.finish.resize(scratch.finish.len().max(height * grid.reduce_groups.len()), Finish::default());
    let vectors = Vectors { codes: scratch.codes.as_mut_ptr().cast(), plane, finish: scratch.finish.as_mut_ptr() };
    for first in (0..rows).step_by(HEIGHT) {
        let task = Task {
            grid,
            levels: levels.as_ptr(),
            x: x[first * x_stride..].as_ptr(),
            x_stride,
            rows: (rows - first).min(HEIGHT),
            vectors,
            out: out[first * out_stride..].as_mut_ptr(),
            out_stride,
        };
        match &tiles {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Some(tiles) if tiles.takes(task.rows) => tiles.run(&task),
            _ => run(isa, &task),
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::amx::tiles;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn tiles(_: Isa, _: &Grid<'_>, _: usize, _: &mut Aligned) -> Option<()> {
    None
}

dispatch! {
    fn run(task: &Task) = run_body
}

#[inline(always)]
unsafe fn run_body<S: Dot>(task: &Task) {
    for fold in 0..task.grid.folds() {
        // SAFETY: `multiply` checked the lengths.
        unsafe {
            quantize::<S>(task.grid, fold, task.x, task.x_stride, task.rows, task.vectors);
            strips::<S>(task, task.grid.fold(fold));
        }
    }
}

/// All rows against some lanes, several rows at once.
#[inline(always)]
unsafe fn strips<S: Dot>(task: &Task, lanes: Range<usize>) {
    let mut row = 0;
    // SAFETY: rows and lanes are the task's. The tiles are as large as leaves every sum in a register.
    unsafe {
        while row < task.rows {
            match (task.rows - row, S::REGISTERS >= 32) {
                (1, true) => row += strip::<S, 1, 4>(task, row, lanes.clone()),
                (2, true) => row += strip::<S, 2, 4>(task, row, lanes.clone()),
                (3, true) => row += strip::<S, 3, 4>(task, row, lanes.clone()),
                (_, true) => row += strip::<S, 4, 2>(task, row, lanes.clone()),
                (1, false) => row += strip::<S, 1, 2>(task, row, lanes.clone()),
                (2, false) => row += strip::<S, 2, 1>(task, row, lanes.clone()),
                (_, false) => row += strip::<S, 3, 1>(task, row, lanes.clone()),
            }
        }
    }
}

/// `R` rows against some lanes, `L` vectors of them at once while there are as many; returns `R`.
#[inline(always)]
unsafe fn strip<S: Dot, const R: usize, const L: usize>(task: &Task, row: usize, lanes: Range<usize>) -> usize {
    let mut lane = lanes.start;
    // SAFETY: rows and lanes are the task's.
    unsafe {
        while lane + L * LANES <= lanes.end {
            tile::<S, R, L>(task, row, lane);
            lane += L * LANES;
        }
        while L > 1 && lane < lanes.end {
            tile::<S, R, 1>(task, row, lane);
            lane += LANES;
        }
    }
    R
}

/// `R` rows against `L` vectors of lanes.
#[inline(always)]
unsafe fn tile<S: Dot, const R: usize, const L: usize>(task: &Task, row: usize, lane: usize) {
    let grid = task.grid;
    let Vectors { plane, finish, .. } = task.vectors;
    let groups = grid.reduce_groups.len();
    let mut quad = 0;
    // SAFETY: the levels have `reduce / 4` quads of all lanes, each row of codes as many.
    unsafe {
        let rows: [*mut i8; R] = std::array::from_fn(|r| task.vectors.row(row + r));
        for (g, &end) in grid.reduce_groups.iter().enumerate() {
            let mut sums = [[S::nothing(); L]; R];
            while 4 * quad < end {
                let levels = task.levels.add((quad * grid.lanes + lane) * 4);
                let levels: [S::Levels; L] = std::array::from_fn(|l| S::levels(levels.add(l * 4 * LANES)));
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
