//! Where the vectors lie that a matrix is multiplied with, once they are rounded; see [`super::rounding`].

use super::grid::Grid;
use super::product::HEIGHT;
use crate::simd::LANES;

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
