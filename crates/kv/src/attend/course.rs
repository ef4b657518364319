//! In which order rows read the pages of a split.

use crate::lane::Lane;
use cachalot_kernels::attention::{PAGE_TOKENS, SPLIT_PAGES};
use std::ops::Range;

/// The pages of one split that any of some rows sees, in the order in which they are read: those that any row reads in the
/// body format, then those that any reads exactly. A page may be among both.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Course {
    pub(super) body: Range<usize>,
    /// Sinks, and what follows the body.
    pub(super) exact: [Range<usize>; 2],
}

impl Course {
    /// Of the rows in the slots `first..=last` of a lane.
    pub(super) fn of(lane: &Lane, first: usize, last: usize, window: Option<usize>, split: usize) -> Course {
        let seen = window.map_or(0, |window| (first + 1).saturating_sub(window)) / PAGE_TOKENS;
        let start = (split * SPLIT_PAGES).max(seen);
        let end = ((split + 1) * SPLIT_PAGES).min(last / PAGE_TOKENS + 1).max(start);
        let range = |from: usize, to: usize| from.clamp(start, end)..to.clamp(from.clamp(start, end), end);
        let sinks = lane.plan.sink_pages();
        Course {
            body: range(sinks, lane.body_end(last)),
            exact: [range(start, sinks), range(sinks.max(lane.body_end(first)), end)],
        }
    }

    /// Page number `n`, and whether it is read in the body format.
    pub(super) fn page(&self, n: usize) -> Option<(usize, bool)> {
        if n < self.body.len() {
            return Some((self.body.start + n, true));
        }
        let mut exact = self.exact.iter().flat_map(Range::clone);
        exact.nth(n - self.body.len()).map(|page| (page, false))
    }

    /// The first `n` pages, and the rest.
    pub(super) fn split_at(&self, n: usize) -> (Course, Course) {
        let mut left = n;
        let mut cut = |range: &Range<usize>| {
            let middle = range.start + left.min(range.len());
            left -= middle - range.start;
            (range.start..middle, middle..range.end)
        };
        let (body, sinks, window) = (cut(&self.body), cut(&self.exact[0]), cut(&self.exact[1]));
        (Course { body: body.0, exact: [sinks.0, window.0] }, Course { body: body.1, exact: [sinks.1, window.1] })
    }

    /// Whether who reads no further than this has not left the body.
    pub(super) fn within_body(&self) -> bool {
        self.exact.iter().all(Range::is_empty) && !self.body.is_empty()
    }
}
