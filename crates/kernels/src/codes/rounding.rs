//! The vectors a matrix is multiplied with, rounded to sixteen bits.
//!
//! Per row, fold and reduce group: `y = x * fold_scale`, `d = max|y| / 32512`, `code = round(y / d)`. The sums that
//! offsets are multiplied with are chains over vectors of sixteen rows, added up in the tree of [`Simd::reduce_add`].
//!
//! Four rows are rounded at once: the lanes of one vector hold what each of them comes to, so that divisions and sums
//! across lanes take the time of one.

use super::dot::Dot;
use super::grid::{self, Grid, LARGEST_GROUP};
use super::vectors::{Finish, Vectors};
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// The largest code: 127 in the high plane.
const LARGEST: f32 = 32512.0;

/// Rounds the rows for some folds of the grid; those of a fold lie behind those of the one before.
#[inline(always)]
pub(super) unsafe fn quantize<S: Dot>(
    grid: &Grid<'_>,
    folds: Range<usize>,
    x: *const f32,
    x_stride: usize,
    rows: usize,
    mut to: Vectors,
) {
    let groups = grid.reduce_groups.len();
    let sum = !grid.lane_offset.is_empty();
    // Groups of one vector each are rounded four at a time instead of rows.
    let small = grid.reduce == groups * LANES && groups.is_multiple_of(4) && S::REGISTERS >= 32;
    let small = small && grid.reduce_groups.iter().all(|end| end.is_multiple_of(LANES));
    let at_once = if small { 4 } else { 1 };
    for fold in folds {
        let scale = grid::from(grid.fold_scale, fold * grid.reduce);
        let offset = grid::from(grid.fold_offset, fold * grid.reduce);
        let mut from = 0;
        for g in (0..groups).step_by(at_once) {
            let end = grid.reduce_groups[g + at_once - 1];
            let at = |p: *const f32| if p.is_null() { p } else { p.wrapping_add(from) };
            let group = Group { scale: at(scale), offset: at(offset), rows: end - from, zero: grid.zero, sum };
            let (x, finish) = (x.wrapping_add(from), to.finish.wrapping_add(g));
            let place = Place { x, x_stride, codes: to.codes, plane: to.plane, from, finish, groups };
            // SAFETY: every row of `x` and every fold has `reduce` values, `to` room for the rows.
            unsafe {
                if !small && group.rows.is_multiple_of(LANES) {
                    group.all::<S>(place, rows);
                } else {
                    // A loop: a closure would be compiled without the instruction set's features.
                    for row in 0..rows {
                        match small {
                            true => group.four::<S>(place.skip(row)),
                            false => {
                                let mut copies = [[0.0; LARGEST_GROUP]; 3];
                                let (group, place) = group.padded(place.skip(row), &mut copies);
                                group.all::<S>(place, 1);
                            }
                        }
                    }
                }
            }
            from = end;
        }
        to = to.skip(rows, grid);
    }
}

/// Where rows are, and where they go.
#[derive(Clone, Copy)]
struct Place {
    x: *const f32,
    x_stride: usize,
    /// Codes of a row as [`Dot`] lays them out, of which the group's begin at `from`.
    codes: *mut i8,
    plane: usize,
    from: usize,
    /// What finishes the group; that of the next row lies `groups` further.
    finish: *mut Finish,
    groups: usize,
}

impl Place {
    /// From `row` on.
    #[inline(always)]
    fn skip(self, row: usize) -> Place {
        Place {
            x: self.x.wrapping_add(row * self.x_stride),
            codes: self.codes.wrapping_add(row * 2 * self.plane),
            finish: self.finish.wrapping_add(row * self.groups),
            ..self
        }
    }
}

/// One reduce group; null where there is no scale or offset.
#[derive(Clone, Copy)]
struct Group {
    scale: *const f32,
    offset: *const f32,
    rows: usize,
    zero: u8,
    /// Whether there are offsets of lanes, which are multiplied with sums.
    sum: bool,
}

impl Group {
    /// All rows, some at once. The usual sizes are constants, so that all is held in registers: this runs for every page.
    #[inline(always)]
    unsafe fn all<S: Dot>(&self, place: Place, rows: usize) {
        let mut row = 0;
        while row < rows {
            let place = place.skip(row);
            // SAFETY: the caller's promise: so many rows are there, with room for their codes and what finishes them.
            unsafe {
                // Fewer registers hold no row, but what four of them come to.
                let (left, wide) = (rows - row, S::REGISTERS >= 32);
                row += match (left, self.rows / LANES, self.scale.is_null()) {
                    (4.., 4, true) if wide => self.some::<S, 4, 4, false>(place),
                    (4.., 4, false) if wide => self.some::<S, 4, 4, true>(place),
                    (3, 4, true) if wide => self.some::<S, 3, 4, false>(place),
                    (3, 4, false) if wide => self.some::<S, 3, 4, true>(place),
                    (4.., 2, false) if wide => self.some::<S, 4, 2, true>(place),
                    (3, 2, false) if wide => self.some::<S, 3, 2, true>(place),
                    (3.., _, true) if wide => self.some::<S, 3, 0, false>(place),
                    (3.., _, false) if wide => self.some::<S, 3, 0, true>(place),
                    (4.., _, true) if !wide => self.some::<S, 4, 0, false>(place),
                    (4.., _, false) if !wide => self.some::<S, 4, 0, true>(place),
                    (3, _, true) if !wide => self.some::<S, 3, 0, false>(place),
                    (3, _, false) if !wide => self.some::<S, 3, 0, true>(place),
                    (_, 4, true) => self.some::<S, 1, 4, false>(place),
                    (_, 4, false) => self.some::<S, 1, 4, true>(place),
                    (_, _, true) => self.some::<S, 1, 0, false>(place),
                    (_, _, false) => self.some::<S, 1, 0, true>(place),
                };
            }
        }
    }

    /// Four groups of one vector, of one row.
    #[inline(always)]
    unsafe fn four<S: Dot>(&self, place: Place) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut y = [S::splat(0.0); 4];
            let (mut x, mut largest) = (y, [S::isplat(0); 4]);
            for v in 0..4 {
                x[v] = S::load(place.x.add(v * LANES));
                y[v] = if self.scale.is_null() { x[v] } else { self.y::<S, true>(place.x, v) };
                largest[v] = S::abs_bits(y[v]);
            }
            let ends = Ends::of::<S, 4>(&largest);
            let mut codes = [S::isplat(0); 4];
            for (v, codes) in codes.iter_mut().enumerate() {
                *codes = S::round_to_i32(S::mul(y[v], S::splat(ends.inverse[v])));
            }
            S::put_four(codes, place.codes, place.plane, place.from);
            let (mut folds, mut sums) = ([S::splat(0.0); 4], [S::splat(0.0); 4]);
            for v in 0..4 {
                if !self.offset.is_null() {
                    folds[v] = S::fma(x[v], S::load(self.offset.add(v * LANES)), folds[v]);
                }
                sums[v] = S::add(sums[v], y[v]);
            }
            self.finish::<S, 4>(&ends, &codes, &folds, &sums, place.finish, 1);
        }
    }

    /// A group that is no whole number of vectors, and one row, as copies with zeros behind them.
    #[cold]
    unsafe fn padded(&self, place: Place, copies: &mut [[f32; LARGEST_GROUP]; 3]) -> (Group, Place) {
        let rows = self.rows.next_multiple_of(LANES);
        let mut copy = |i: usize, from: *const f32| {
            if from.is_null() {
                return from;
            }
            // SAFETY: `rows` values lie there, and no group is larger than the copy.
            unsafe { copies[i].as_mut_ptr().copy_from_nonoverlapping(from, self.rows) };
            copies[i].as_ptr()
        };
        let (x, scale, offset) = (copy(0, place.x), copy(1, self.scale), copy(2, self.offset));
        (Group { scale, offset, rows, ..*self }, Place { x, ..place })
    }

    /// Vectors of the group: `V`, where that is not 0.
    #[inline(always)]
    fn vectors<const V: usize>(&self) -> usize {
        if V == 0 { self.rows / LANES } else { V }
    }

    /// Vector `v` of `y`.
    #[inline(always)]
    unsafe fn y<S: Simd, const SCALED: bool>(&self, x: *const f32, v: usize) -> S::F {
        // SAFETY: the group has this vector.
        unsafe {
            let x = S::load(x.add(v * LANES));
            if SCALED { S::mul(x, S::load(self.scale.add(v * LANES))) } else { x }
        }
    }

    /// As [`Group::y`], of the vectors that are held where their number is known.
    #[inline(always)]
    unsafe fn held<S: Simd, const V: usize, const SCALED: bool>(&self, x: *const f32, y: &[S::F; V], v: usize) -> S::F {
        // SAFETY: the group has this vector.
        if V == 0 { unsafe { self.y::<S, SCALED>(x, v) } } else { y[v] }
    }

    /// `N` rows of `V` vectors; returns `N`.
    #[inline(always)]
    unsafe fn some<S: Dot, const N: usize, const V: usize, const SCALED: bool>(&self, place: Place) -> usize {
        let x: [*const f32; N] = std::array::from_fn(|row| place.x.wrapping_add(row * place.x_stride));
        // SAFETY: the group has so many vectors, the rows room for them.
        unsafe {
            // Held in registers where their number is known: codes written in between could be anywhere for the compiler.
            let mut y = [[S::splat(0.0); V]; N];
            for (y, &x) in y.iter_mut().zip(&x) {
                for (v, y) in y.iter_mut().enumerate() {
                    *y = self.y::<S, SCALED>(x, v);
                }
            }
            let mut largest = [S::isplat(0); N];
            for ((largest, &x), y) in largest.iter_mut().zip(&x).zip(&y) {
                for v in 0..self.vectors::<V>() {
                    *largest = S::imax(*largest, S::abs_bits(self.held::<S, V, SCALED>(x, y, v)));
                }
            }
            let ends = Ends::of::<S, N>(&largest);
            let mut totals = [S::isplat(0); N];
            for (row, ((total, &x), y)) in totals.iter_mut().zip(&x).zip(&y).enumerate() {
                *total = self.codes::<S, V, SCALED>(x, y, ends.inverse[row], place.skip(row));
            }
            let (mut folds, mut sums) = ([S::splat(0.0); N], [S::splat(0.0); N]);
            if !self.offset.is_null() {
                for (fold, &x) in folds.iter_mut().zip(&x) {
                    for v in 0..self.vectors::<V>() {
                        *fold = S::fma(S::load(x.add(v * LANES)), S::load(self.offset.add(v * LANES)), *fold);
                    }
                }
            }
            if self.sum {
                for ((sum, &x), y) in sums.iter_mut().zip(&x).zip(&y) {
                    for v in 0..self.vectors::<V>() {
                        *sum = S::add(*sum, self.held::<S, V, SCALED>(x, y, v));
                    }
                }
            }
            self.finish::<S, N>(&ends, &totals, &folds, &sums, place.finish, place.groups);
        }
        N
    }

    /// Writes what finishes `N` rounded parts, each `step` behind the one before: the sums across lanes of what was added up
    /// by lane, where they are wanted.
    #[inline(always)]
    unsafe fn finish<S: Dot, const N: usize>(
        &self,
        ends: &Ends,
        totals: &[S::I; N],
        folds: &[S::F; N],
        sums: &[S::F; N],
        to: *mut Finish,
        step: usize,
    ) {
        let (mut start, mut fold, mut sum) = ([0; LANES], [0.0; LANES], [0.0; LANES]);
        // SAFETY: the arrays have sixteen elements, and the caller has room for `N` parts.
        unsafe {
            if self.zero != 0 {
                S::istore(start.as_mut_ptr(), S::each_sum(totals));
            }
            if !self.offset.is_null() {
                S::store(fold.as_mut_ptr(), S::each_add(folds));
            }
            if self.sum {
                S::store(sum.as_mut_ptr(), S::each_add(sums));
            }
            for i in 0..N {
                let start = start[i].wrapping_mul(-i32::from(self.zero));
                to.add(i * step).write(Finish { scale: ends.scale[i], fold: fold[i], sum: sum[i], start });
            }
        }
    }

    /// Writes `round(y * inverse)` of a row, whose vectors are `y` where their number is known; returns the sums of the codes
    /// by lane.
    #[inline(always)]
    unsafe fn codes<S: Dot, const V: usize, const SCALED: bool>(
        &self,
        x: *const f32,
        y: &[S::F; V],
        inverse: f32,
        to: Place,
    ) -> S::I {
        // SAFETY: the caller's promise: there is room for the codes.
        unsafe {
            let (inverse, count) = (S::splat(inverse), self.vectors::<V>());
            let mut total = S::isplat(0);
            let mut v = 0;
            while v + 4 <= count {
                let codes = [
                    S::round_to_i32(S::mul(self.held::<S, V, SCALED>(x, y, v), inverse)),
                    S::round_to_i32(S::mul(self.held::<S, V, SCALED>(x, y, v + 1), inverse)),
                    S::round_to_i32(S::mul(self.held::<S, V, SCALED>(x, y, v + 2), inverse)),
                    S::round_to_i32(S::mul(self.held::<S, V, SCALED>(x, y, v + 3), inverse)),
                ];
                let [a, b, c, d] = codes;
                total = S::iadd(total, S::iadd(S::iadd(a, b), S::iadd(c, d)));
                S::put_four(codes, to.codes, to.plane, to.from + v * LANES);
                v += 4;
            }
            while v < count {
                let codes = S::round_to_i32(S::mul(self.held::<S, V, SCALED>(x, y, v), inverse));
                total = S::iadd(total, codes);
                S::put(codes, to.codes, to.plane, to.from + v * LANES);
                v += 1;
            }
            total
        }
    }
}

/// What the largest values of some rows come to.
struct Ends {
    scale: [f32; LANES],
    inverse: [f32; LANES],
}

impl Ends {
    /// Of the bits of absolute values.
    #[inline(always)]
    unsafe fn of<S: Dot, const N: usize>(largest: &[S::I; N]) -> Ends {
        let (mut bits, mut ends) = ([0; LANES], Ends { scale: [0.0; LANES], inverse: [0.0; LANES] });
        // SAFETY: the arrays have sixteen elements.
        unsafe {
            S::istore(bits.as_mut_ptr(), S::each_max(largest));
            let largest = S::load(bits.as_ptr().cast());
            let (most, infinity) = (S::splat(LARGEST), S::splat(f32::INFINITY));
            let (scale, inverse) = (S::div(largest, most), S::div(most, largest));
            let finite = S::lt(largest, infinity);
            // A group this close to zero (or all zero) is zero.
            let some = finite & S::lt(inverse, infinity);
            S::store(ends.scale.as_mut_ptr(), S::select(finite, scale, S::splat(f32::NAN)));
            S::store(ends.inverse.as_mut_ptr(), S::select(some, inverse, S::splat(0.0)));
        }
        ends
    }
}
