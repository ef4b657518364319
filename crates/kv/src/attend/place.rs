//! Which slots of its lane the rows of a segment go to.

use super::{Attention, Own};
use std::ops::Range;

/// Slots of some rows, ascending.
#[derive(Clone, Copy)]
pub(super) enum Places<'a> {
    /// One after the other, from this one on: rows behind what is there.
    From(usize),
    /// Anywhere: rows that are computed over what is there.
    At(&'a [u32]),
}

impl Places<'_> {
    /// The slot of a row.
    pub(super) fn slot(&self, row: usize) -> usize {
        match self {
            Places::From(first) => first + row,
            Places::At(slots) => slots[row] as usize,
        }
    }

    /// Those from row `from` on.
    pub(super) fn skip(self, from: usize) -> Self {
        match self {
            Places::From(first) => Places::From(first + from),
            Places::At(slots) => Places::At(&slots[from..]),
        }
    }

    /// The rows of `rows` whose slots lie in `slots`.
    pub(super) fn within(&self, rows: Range<usize>, slots: Range<usize>) -> Range<usize> {
        let before = |slot: usize| match self {
            Places::From(first) => slot.saturating_sub(*first),
            Places::At(at) => at.partition_point(|&at| (at as usize) < slot),
        };
        let [start, end] = [slots.start, slots.end].map(|slot| before(slot).clamp(rows.start, rows.end));
        start..end
    }
}

impl Attention<'_, '_> {
    /// Of all rows of a segment, in the lane of one head.
    pub(super) fn places_of(&self, segment: usize, head: usize) -> Places<'_> {
        let seq = &*self.segments[segment].seq;
        match seq.mended() {
            // Nothing of such a sequence was dropped: its slots are positions.
            Some(rows) => Places::At(rows),
            None => Places::From(seq.lane(self.layer, head).slots(seq.len)),
        }
    }

    /// Of some rows.
    pub(super) fn places(&self, own: &Own) -> Places<'_> {
        let row0: usize = self.segments[..own.segment].iter().map(|s| s.rows).sum();
        self.places_of(own.segment, own.head).skip(own.rows.start - row0)
    }
}
