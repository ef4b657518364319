//! What surrounds a matrix of levels: its shape, groups and scales.

use crate::simd::LANES;

/// Rows of a reduce group at most: the sums of so many products of sixteen bits and eight fit an `i32`.
pub(super) const LARGEST_GROUP: usize = 256;

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

impl Grid<'_> {
    /// Asserts all that the fields promise.
    pub(super) fn check(&self) {
        let ascending = |ends: &[usize], unit: usize, largest: usize, last: usize| {
            let mut from = 0;
            for &end in ends {
                assert!(end > from && end - from <= largest && end % unit == 0, "groups {ends:?}");
                from = end;
            }
            assert!(from == last, "groups {ends:?} of {last}");
        };
        ascending(self.reduce_groups, 4, LARGEST_GROUP, self.reduce);
        ascending(self.lane_groups, LANES, usize::MAX, self.lanes);
        let (fold, lane) = (self.lane_groups.len() * self.reduce, self.reduce_groups.len() * self.lanes);
        assert!([self.fold_scale, self.fold_offset].iter().all(|s| s.is_empty() || s.len() >= fold));
        assert!([self.lane_scale, self.lane_offset].iter().all(|s| s.is_empty() || s.len() >= lane));
    }

    /// Groups of lanes with vectors of their own: all lanes share one where nothing is folded into it.
    pub(super) fn folds(&self) -> usize {
        if self.fold_scale.is_empty() && self.fold_offset.is_empty() { 1 } else { self.lane_groups.len() }
    }

    /// The lanes of one of [`Grid::folds`].
    pub(super) fn fold(&self, i: usize) -> std::ops::Range<usize> {
        let from = if i == 0 { 0 } else { self.lane_groups[i - 1] };
        from..if i + 1 == self.folds() { self.lanes } else { self.lane_groups[i] }
    }
}

/// `scales` from `at` on, or null where there are none.
pub(super) fn from(scales: &[f32], at: usize) -> *const f32 {
    if scales.is_empty() { std::ptr::null() } else { scales[at..].as_ptr() }
}
