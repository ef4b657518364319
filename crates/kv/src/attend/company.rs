//! Who reads which pages together (Hydragen, Juravsky et al., 2024): sequences whose lanes hold the same pages, forks or heirs
//! of a prefix, read these in one pass. Sharing may be a tree: every split of the context is looked at by itself.
//!
//! A company reads the first pages of a split's course, those that all its members hold, see wholly and read in the same
//! form; each member goes on alone from what these gave. The order of the pages is for every row what it is without company,
//! and kernels do the same to a row whatever rows travel with it, so that no bit changes.

use super::course::Course;
use crate::lane::Lane;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::ops::Range;
use std::sync::Arc;

/// Pages that a company must spare its members, all together.
const WORTH: usize = 4;

/// Rows of one sequence that read one lane.
pub(super) struct Reader<'a> {
    pub(super) lane: &'a Lane,
    /// Slots of the first and of the last row.
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) window: Option<usize>,
    /// Splits that any of the rows sees.
    pub(super) splits: Range<usize>,
}

/// Readers that go the first `pages` of a split's course together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Company {
    /// Their numbers, ascending.
    pub(super) members: Vec<usize>,
    pub(super) pages: usize,
}

/// A page, its form, and [`Lane::manner`].
type Step = (usize, bool, [usize; 3]);

impl Reader<'_> {
    pub(super) fn course(&self, split: usize) -> Course {
        Course::of(self.lane, self.first, self.last, self.window, split)
    }

    /// Page number `n` of a course, where others may read it with this one.
    fn step(&self, course: &Course, n: usize) -> Option<Step> {
        let (page, body) = course.page(n)?;
        let seen_from = self.window.map_or(0, |window| (self.last + 1).saturating_sub(window));
        let whole = (page + 1) * PAGE_TOKENS <= self.first + 1 && page * PAGE_TOKENS >= seen_from;
        // All rows in one form: those of the first and of the last, between which the rest lies.
        let reads = |slot: usize| page >= self.lane.plan.sink_pages() && page < self.lane.body_end(slot);
        if !whole || reads(self.first) != body || reads(self.last) != body {
            return None;
        }
        let page = self.lane.shared(page, body)?;
        Some((Arc::as_ptr(page).addr(), body, self.lane.manner(body)))
    }
}

/// Leaves out those whose first page nobody else has: sequences that share anything share what comes first. Where a sliding
/// window moves on, first pages differ and say nothing.
pub(super) fn meet<T>(readers: Vec<(T, Reader<'_>)>) -> Vec<(T, Reader<'_>)> {
    let first = |reader: &Reader<'_>| {
        let seen = reader.window.map_or(0, |window| (reader.first + 1).saturating_sub(window)) / PAGE_TOKENS;
        reader.lane.shared_address(seen)
    };
    let mut seen: Vec<usize> = readers.iter().filter_map(|(_, reader)| first(reader)).collect();
    seen.sort_unstable();
    let held = |page: usize| seen.partition_point(|&at| at <= page) - seen.partition_point(|&at| at < page);
    let meets = |reader: &Reader<'_>| first(reader).is_some_and(|page| reader.window.is_some() || held(page) > 1);
    readers.into_iter().filter(|(_, reader)| meets(reader)).collect()
}

/// The companies of one split.
pub(super) fn companies(readers: &[Reader<'_>], split: usize) -> Vec<Company> {
    let here: Vec<usize> = (0..readers.len()).filter(|&i| readers[i].splits.contains(&split)).collect();
    if here.len() < 2 {
        return Vec::new();
    }
    let course =
        |reader: &Reader<'_>| if reader.splits.contains(&split) { reader.course(split) } else { Course::default() };
    let courses: Vec<Course> = readers.iter().map(course).collect();
    gather(readers, &courses, here, 0).1
}

/// The companies among some readers that have gone `pages` of their courses together, and how many pages these spare. One
/// company for what all have in common, or smaller ones that go further: whatever spares more.
fn gather(readers: &[Reader<'_>], courses: &[Course], members: Vec<usize>, mut pages: usize) -> (usize, Vec<Company>) {
    let step = |member: usize, n: usize| readers[member].step(&courses[member], n);
    let mut ways: Vec<(Step, usize)>;
    loop {
        ways = members.iter().filter_map(|&member| Some((step(member, pages)?, member))).collect();
        if ways.len() < members.len() || ways.iter().any(|way| way.0 != ways[0].0) {
            break;
        }
        pages += 1;
    }
    ways.sort_unstable();
    let (mut spared, mut companies) = (0, Vec::new());
    for way in ways.chunk_by(|a, b| a.0 == b.0).filter(|way| way.len() > 1) {
        let way = way.iter().map(|&(_, member)| member).collect();
        let (more, found) = gather(readers, courses, way, pages + 1);
        spared += more;
        companies.extend(found);
    }
    let together = (members.len() - 1) * pages;
    if together >= spared.max(WORTH) {
        return (together, vec![Company { members, pages }]);
    }
    (spared, companies)
}
