//! The vectors a matrix is multiplied with, rounded to sixteen bits.
//!
//! Per row, fold and reduce group: `y = x * fold_scale`, `d = max|y| / 32512`, `code = round(y / d)`. The sums that
//! offsets are multiplied with are chains over vectors of sixteen rows, added up in the tree of [`Simd::reduce_add`].

use super::dot::Dot;
use super::grid::{self, Grid, LARGEST_GROUP};
use super::product::HEIGHT;
use crate::simd::{LANES, Simd};

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

    /// `f32`s that hold so many rows and what their sums are finished with: whole tiles of rows, so that these may be read.
    pub(super) fn floats(grid: &Grid<'_>, rows: usize) -> usize {
        let finish = rows * grid.reduce_groups.len() * size_of::<Finish>();
        (rows.next_multiple_of(HEIGHT) * 2 * Vectors::plane_of(grid) + finish) / size_of::<f32>()
    }

    /// Rows that lie in [`Vectors::floats`] of them.
    pub(super) fn within(grid: &Grid<'_>, rows: usize, floats: *mut f32) -> Vectors {
        let plane = Vectors::plane_of(grid);
        let codes = floats.cast::<i8>();
        Vectors { codes, plane, finish: codes.wrapping_add(rows.next_multiple_of(HEIGHT) * 2 * plane).cast() }
    }

    /// Those from `row` on.
    pub(super) fn skip(self, row: usize, grid: &Grid<'_>) -> Vectors {
        let finish = self.finish.wrapping_add(row * grid.reduce_groups.len());
        Vectors { codes: self.row(row), plane: self.plane, finish }
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
#[derive(Clone, Copy)]
struct Part {
    x: *const f32,
    scale: *const f32,
    offset: *const f32,
    rows: usize,
}

#[inline(always)]
unsafe fn group<S: Dot>(part: Part, zero: u8, sum: bool, row: *mut i8, plane: usize, from: usize) -> Finish {
    // SAFETY: the caller's promise, also for the padded copy.
    unsafe {
        if part.rows.is_multiple_of(LANES) {
            return vectors::<S>(part, zero, sum, row, plane, from);
        }
        let mut padded = Padded([[0.0; LARGEST_GROUP]; 3]);
        vectors::<S>(padded.take(part), zero, sum, row, plane, from)
    }
}

/// Whole vectors of a group, the rest zero.
struct Padded([[f32; LARGEST_GROUP]; 3]);

impl Padded {
    /// A copy of the group.
    #[cold]
    unsafe fn take(&mut self, part: Part) -> Part {
        let mut copy = |i: usize, from: *const f32| {
            if from.is_null() {
                return from;
            }
            // SAFETY: `rows` values lie there, and no group is larger than the copy.
            unsafe { self.0[i].as_mut_ptr().copy_from_nonoverlapping(from, part.rows) };
            self.0[i].as_ptr()
        };
        let (x, scale, offset) = (copy(0, part.x), copy(1, part.scale), copy(2, part.offset));
        Part { x, scale, offset, rows: part.rows.next_multiple_of(LANES) }
    }
}

/// [`group`] of whole vectors. The usual sizes are constants, so that their loops are unrolled: this runs for every row
/// and page.
#[inline(always)]
unsafe fn vectors<S: Dot>(part: Part, zero: u8, sum: bool, row: *mut i8, plane: usize, from: usize) -> Finish {
    // SAFETY: the caller's promise.
    unsafe {
        match (part.rows / LANES, part.scale.is_null()) {
            (1, true) => pass::<S, false>(part, 1, zero, sum, row, plane, from),
            (2, true) => pass::<S, false>(part, 2, zero, sum, row, plane, from),
            (4, true) => pass::<S, false>(part, 4, zero, sum, row, plane, from),
            (8, true) => pass::<S, false>(part, 8, zero, sum, row, plane, from),
            (n, true) => pass::<S, false>(part, n, zero, sum, row, plane, from),
            (1, false) => pass::<S, true>(part, 1, zero, sum, row, plane, from),
            (2, false) => pass::<S, true>(part, 2, zero, sum, row, plane, from),
            (4, false) => pass::<S, true>(part, 4, zero, sum, row, plane, from),
            (8, false) => pass::<S, true>(part, 8, zero, sum, row, plane, from),
            (n, false) => pass::<S, true>(part, n, zero, sum, row, plane, from),
        }
    }
}

impl Part {
    /// Vector `v` of `y`.
    #[inline(always)]
    unsafe fn y<S: Simd, const SCALED: bool>(&self, v: usize) -> S::F {
        // SAFETY: the group has this vector.
        unsafe {
            let x = S::load(self.x.add(v * LANES));
            if SCALED { S::mul(x, S::load(self.scale.add(v * LANES))) } else { x }
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn pass<S: Dot, const SCALED: bool>(
    part: Part,
    count: usize,
    zero: u8,
    sum: bool,
    row: *mut i8,
    plane: usize,
    from: usize,
) -> Finish {
    // SAFETY: the group has `count` vectors, and the row room for them.
    unsafe {
        let mut largest = S::isplat(0);
        for v in 0..count {
            largest = S::imax(largest, S::abs_bits(part.y::<S, SCALED>(v)));
        }
        let largest = f32::from_bits(S::ireduce_max(largest) as u32);
        let inverse = LARGEST / largest;
        let mut finish = Finish { scale: largest / LARGEST, ..Finish::default() };
        if largest.is_finite() && inverse.is_finite() {
            let total = codes::<S, SCALED>(&part, inverse, count, row, plane, from);
            if zero != 0 {
                finish.start = S::ireduce_add(total).wrapping_mul(-i32::from(zero));
            }
        } else {
            // A group this close to zero (or all zero) is zero.
            for v in 0..count {
                S::put(S::isplat(0), row, plane, from + v * LANES);
            }
            if !largest.is_finite() {
                finish.scale = f32::NAN;
            }
        }
        if !part.offset.is_null() {
            let mut folds = S::splat(0.0);
            for v in 0..count {
                folds = S::fma(S::load(part.x.add(v * LANES)), S::load(part.offset.add(v * LANES)), folds);
            }
            finish.fold = S::reduce_add(folds);
        }
        if sum {
            let mut sums = S::splat(0.0);
            for v in 0..count {
                sums = S::add(sums, part.y::<S, SCALED>(v));
            }
            finish.sum = S::reduce_add(sums);
        }
        finish
    }
}

/// Writes `round(y * inverse)` of so many vectors; returns the sums of the codes by lane.
#[inline(always)]
unsafe fn codes<S: Dot, const SCALED: bool>(
    part: &Part,
    inverse: f32,
    count: usize,
    row: *mut i8,
    plane: usize,
    from: usize,
) -> S::I {
    // SAFETY: the caller's promise: so many vectors of `y`, and room for their codes.
    unsafe {
        let inverse = S::splat(inverse);
        let mut total = S::isplat(0);
        let mut v = 0;
        while v + 4 <= count {
            let a = S::round_to_i32(S::mul(part.y::<S, SCALED>(v), inverse));
            let b = S::round_to_i32(S::mul(part.y::<S, SCALED>(v + 1), inverse));
            let c = S::round_to_i32(S::mul(part.y::<S, SCALED>(v + 2), inverse));
            let d = S::round_to_i32(S::mul(part.y::<S, SCALED>(v + 3), inverse));
            total = S::iadd(total, S::iadd(S::iadd(a, b), S::iadd(c, d)));
            S::put_four([a, b, c, d], row, plane, from + v * LANES);
            v += 4;
        }
        while v < count {
            let codes = S::round_to_i32(S::mul(part.y::<S, SCALED>(v), inverse));
            total = S::iadd(total, codes);
            S::put(codes, row, plane, from + v * LANES);
            v += 1;
        }
        total
    }
}
