//! A matrix of levels as `f32`.

use super::grid::{self, Grid};
use crate::dispatch;
use crate::simd::{LANES, Simd};

dispatch! {
    /// **Adds** the matrix to `out`, `[reduce][out_stride]`, `lanes` values a row; each entry is computed as
    /// `lane_scale * (fold_scale * (level - zero) + fold_offset) + lane_offset * fold_scale` with every operation rounded
    /// (no fused ones), absent factors left out.
    ///
    /// # Panics
    /// If the grid breaks what its fields promise, or a slice is too short.
    pub fn decode(grid: &Grid<'_>, levels: &[u8], out: &mut [f32], out_stride: usize) = decode_body
}

#[inline(always)]
unsafe fn decode_body<S: Simd>(grid: &Grid<'_>, levels: &[u8], out: &mut [f32], out_stride: usize) {
    grid.check();
    assert!(levels.len() >= grid.reduce * grid.lanes);
    assert!(grid.reduce == 0 || out.len() >= (grid.reduce - 1) * out_stride + grid.lanes);
    let mut fold = 0;
    for (lg, &lanes) in grid.lane_groups.iter().enumerate() {
        for lane in (fold..lanes).step_by(LANES) {
            let mut row = 0;
            for (rg, &rows) in grid.reduce_groups.iter().enumerate() {
                // SAFETY: rows and lanes are the grid's, and all arrays hold as many.
                unsafe {
                    let at = rg * grid.lanes + lane;
                    let (scale, offset) = (grid::from(grid.lane_scale, at), grid::from(grid.lane_offset, at));
                    let scale = if scale.is_null() { None } else { Some(S::load(scale)) };
                    let offset = if offset.is_null() { None } else { Some(S::load(offset)) };
                    while row < rows {
                        let mut quad = S::load_bytes(levels.as_ptr().add((row / 4 * grid.lanes + lane) * 4));
                        for r in row..row + 4 {
                            let level = S::to_f32(S::low_byte(quad));
                            let value = entry::<S>(grid, lg * grid.reduce + r, level, scale, offset);
                            let to = out.as_mut_ptr().add(r * out_stride + lane);
                            S::store(to, S::add(S::load(to), value));
                            quad = S::sar8(quad);
                        }
                        row += 4;
                    }
                }
            }
        }
        fold = lanes;
    }
}

/// The entries of sixteen lanes in one row, `fold` being that row's place in the fold's arrays.
#[inline(always)]
unsafe fn entry<S: Simd>(grid: &Grid<'_>, fold: usize, level: S::F, scale: Option<S::F>, offset: Option<S::F>) -> S::F {
    // SAFETY: the features are the dispatcher's business.
    unsafe {
        let fold_scale = grid.fold_scale.get(fold).map(|&scale| S::splat(scale));
        let mut x = S::sub(level, S::splat(f32::from(grid.zero)));
        if let Some(fold_scale) = fold_scale {
            x = S::mul(x, fold_scale);
        }
        if let Some(&fold_offset) = grid.fold_offset.get(fold) {
            x = S::add(x, S::splat(fold_offset));
        }
        if let Some(scale) = scale {
            x = S::mul(x, scale);
        }
        match (offset, fold_scale) {
            (Some(offset), Some(fold_scale)) => S::add(x, S::mul(offset, fold_scale)),
            (Some(offset), None) => S::add(x, offset),
            (None, _) => x,
        }
    }
}
