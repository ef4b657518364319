//! Products of vectors with a matrix of levels.

use crate::Isa;

/// Scales and offsets of a matrix; see the formula of [`super`]. Groups are given by their ends; an empty slice of
/// scales is all ones, of offsets all zeros.
#[derive(Clone, Copy, Debug)]
pub struct Grid<'a> {
    /// Rows of the matrix; a multiple of four.
    pub reduce: usize,
    /// Columns of the matrix; a multiple of sixteen.
    pub lanes: usize,
    /// What a level counts from.
    pub zero: u8,
    /// Ends of the groups of rows, multiples of four, at most 256 rows a group; the last is `reduce`.
    pub reduce_groups: &'a [usize],
    /// Ends of the groups of lanes, multiples of sixteen; the last is `lanes`.
    pub lane_groups: &'a [usize],
    /// `[lane_groups][reduce]`.
    pub fold_scale: &'a [f32],
    /// `[lane_groups][reduce]`.
    pub fold_offset: &'a [f32],
    /// `[reduce_groups][lanes]`.
    pub lane_scale: &'a [f32],
    /// `[reduce_groups][lanes]`.
    pub lane_offset: &'a [f32],
}

/// Buffers of [`multiply`].
#[derive(Default)]
pub struct Scratch {
    codes: Vec<i8>,
}

impl Scratch {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.codes.capacity()
    }
}

/// **Adds** `x[rows][x_stride] × matrix` to `out[rows][out_stride]`: `reduce` values of each row of `x`, `lanes` of `out`.
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
    let _ = (isa, scratch);
    let mut dense = vec![0.0; grid.reduce * grid.lanes];
    decode(isa, grid, levels, &mut dense, grid.lanes);
    for row in 0..rows {
        for r in 0..grid.reduce {
            for l in 0..grid.lanes {
                out[row * out_stride + l] += x[row * x_stride + r] * dense[r * grid.lanes + l];
            }
        }
    }
}

/// **Adds** the matrix to `out`, `[reduce][out_stride]`, `lanes` values a row; each entry is computed as
/// `lane_scale * (fold_scale * (level - zero) + fold_offset) + lane_offset * fold_scale` with every operation rounded (no
/// fused ones), absent factors left out.
pub fn decode(isa: Isa, grid: &Grid<'_>, levels: &[u8], out: &mut [f32], out_stride: usize) {
    let _ = isa;
    for r in 0..grid.reduce {
        let rg = grid.reduce_groups.iter().position(|&end| r < end).unwrap_or(0);
        for l in 0..grid.lanes {
            let lg = grid.lane_groups.iter().position(|&end| l < end).unwrap_or(0);
            let fold = grid.fold_scale.get(lg * grid.reduce + r).copied();
            let mut x = f32::from(levels[(r / 4 * grid.lanes + l) * 4 + r % 4]) - f32::from(grid.zero);
            if let Some(fold) = fold {
                x *= fold;
            }
            if let Some(offset) = grid.fold_offset.get(lg * grid.reduce + r) {
                x += offset;
            }
            if let Some(scale) = grid.lane_scale.get(rg * grid.lanes + l) {
                x *= scale;
            }
            if let Some(offset) = grid.lane_offset.get(rg * grid.lanes + l) {
                x += offset * fold.unwrap_or(1.0);
            }
            out[r * out_stride + l] += x;
        }
    }
}
