//! The vectors a matrix is multiplied with, rounded to sixteen bits.
//!
//! Per row, fold and reduce group: `y = x * fold_scale`, `d = max|y| / 32512`, `code = round(y / d)`. The sums that
//! offsets are multiplied with are chains over vectors of sixteen rows, added up in the tree of [`Simd::reduce_add`].

use super::dot::Dot;
use super::grid::{self, Grid, LARGEST_GROUP};
use crate::simd::{LANES, Simd};
use std::mem::MaybeUninit;

/// The largest code: 127 in the high plane.
const LARGEST: f32 = 32512.0;

/// What the integer sums of one row over one reduce group are finished with.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Finish {
    /// `d`: NaN where `y` is not finite, so that the row shows it.
    pub(super) scale: f32,
    /// `Σ x * fold_offset`.
    pub(super) fold: f32,
    /// `Σ y`.
    pub(super) sum: f32,
    /// `-zero * Σ code`: where the sums start.
    pub(super) start: i32,
}

/// Rows of codes as [`Dot`] lays them out.
#[derive(Clone, Copy)]
pub(super) struct Vectors {
    /// `[rows][2 * plane]`.
    pub(super) codes: *mut i8,
    /// Codes of a row, with room for the last vector of every group.
    pub(super) plane: usize,
    /// `[rows][reduce_groups]`.
    pub(super) finish: *mut Finish,
}

impl Vectors {
    /// Codes a row has room for.
    pub(super) fn plane_of(grid: &Grid<'_>) -> usize {
        let ragged = grid.reduce_groups.iter().any(|end| end % LANES != 0);
        grid.reduce.next_multiple_of(LANES) + if ragged { LANES } else { 0 }
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> *mut i8 {
        self.codes.wrapping_add(row * 2 * self.plane)
    }
}

/// Rounds the rows for one fold of the grid.
#[inline(always)]
pub(super) unsafe fn quantize<S: Dot>(
    grid: &Grid<'_>,
    fold: usize,
    x: *const f32,
    x_stride: usize,
    rows: usize,
    to: Vectors,
) {
    let groups = grid.reduce_groups.len();
    let scale = grid::from(grid.fold_scale, fold * grid.reduce);
    let offset = grid::from(grid.fold_offset, fold * grid.reduce);
    // SAFETY: every row of `x` and every fold has `reduce` values, `to` room for the rows.
    unsafe {
        for row in 0..rows {
            let x = x.add(row * x_stride);
            let mut from = 0;
            for (g, &end) in grid.reduce_groups.iter().enumerate() {
                let at = |p: *const f32| if p.is_null() { p } else { p.add(from) };
                let part = Part { x: x.add(from), scale: at(scale), offset: at(offset), rows: end - from };
                let finish = group::<S>(part, grid.zero, !grid.lane_offset.is_empty(), to.row(row), to.plane, from);
                *to.finish.add(row * groups + g) = finish;
                from = end;
            }
        }
    }
}

/// One reduce group of one row; null where there is no scale or offset.
struct Part {
    x: *const f32,
    scale: *const f32,
    offset: *const f32,
    rows: usize,
}

#[inline(always)]
unsafe fn group<S: Dot>(part: Part, zero: u8, sum: bool, row: *mut i8, plane: usize, from: usize) -> Finish {
    let mut y = [const { MaybeUninit::<f32>::uninit() }; LARGEST_GROUP];
    let y: *mut f32 = y.as_mut_ptr().cast();
    let nothing = std::ptr::null();
    // SAFETY: the group has `rows` values, at most as many as `y` takes; the row has room for whole vectors of them.
    unsafe {
        let vectors = part.rows.div_ceil(LANES);
        let (mut largest, mut zeros) = (S::splat(0.0), S::splat(0.0));
        let (mut sums, mut folds) = (S::splat(0.0), S::splat(0.0));
        for v in 0..vectors {
            let at = |p: *const f32| if p == nothing { p } else { p.add(v * LANES) };
            let left = part.rows - v * LANES;
            let x = load::<S>(at(part.x), left);
            let scaled = if part.scale == nothing { x } else { S::mul(x, load::<S>(at(part.scale), left)) };
            if part.offset != nothing {
                folds = S::fma(x, load::<S>(at(part.offset), left), folds);
            }
            if sum {
                sums = S::add(sums, scaled);
            }
            largest = S::max(S::abs(scaled), largest);
            // Zero times anything finite is zero; an infinity or NaN leaves NaN, which is not below one.
            zeros = S::fma(scaled, S::splat(0.0), zeros);
            S::store(y.add(v * LANES), scaled);
        }
        let finite = S::lt(zeros, S::splat(1.0)) == u16::MAX;
        let largest = S::reduce_max(largest);
        let inverse = LARGEST / largest;
        let mut total = S::isplat(0);
        if finite && inverse.is_finite() {
            let inverse = S::splat(inverse);
            for v in 0..vectors {
                let codes = S::to_i32(S::round(S::mul(S::load(y.add(v * LANES)), inverse)));
                total = S::iadd(total, codes);
                S::put(codes, row, plane, from + v * LANES);
            }
        } else {
            // A group this close to zero (or all zero) is zero.
            for v in 0..vectors {
                S::put(total, row, plane, from + v * LANES);
            }
        }
        Finish {
            scale: if finite { largest / LARGEST } else { f32::NAN },
            fold: if part.offset == nothing { 0.0 } else { S::reduce_add(folds) },
            sum: if sum { S::reduce_add(sums) } else { 0.0 },
            start: if zero == 0 { 0 } else { S::ireduce_add(total).wrapping_mul(-i32::from(zero)) },
        }
    }
}

/// Sixteen values, those beyond `left` (a multiple of four) zero.
#[inline(always)]
unsafe fn load<S: Simd>(p: *const f32, left: usize) -> S::F {
    // SAFETY: `left` values lie there.
    unsafe {
        if left >= LANES {
            return S::load(p);
        }
        let mut lanes = [[0.0f32; 4]; LANES / 4];
        for (i, four) in lanes.iter_mut().enumerate().take(left / 4) {
            *four = p.add(4 * i).cast::<[f32; 4]>().read_unaligned();
        }
        S::load(lanes.as_ptr().cast())
    }
}
