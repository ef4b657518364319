//! What the second pass consists of: tasks, and where their results go.

use super::block::Block;
use super::course::Course;
use super::{Attention, Own};
use cachalot_kernels::attention::{DIRECT_ROWS, PAGE_TOKENS, SPLIT_PAGES};
use std::ops::Range;

/// Fewest and most query vectors (rows times the heads of a group) that a prefill task or a company attends for at once: the
/// more they are, the less the decoding of a page weighs; the fewer, the better threads share the work. Who has more than the
/// fewest gains next to nothing from company.
const BLOCK_VECTORS: [usize; 2] = [48, 192];
/// Prefill tasks that a thread should have at least, where blocks above the smallest leave so many.
const TASKS_OF_A_THREAD: usize = 8;

/// The tasks of one layer of one step.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) joint: Vec<Joint>,
    /// Rows that see all their splits in one task, and finish themselves.
    pub(super) finishing: Vec<(Own, Range<usize>)>,
    /// Unit and split, without company from the beginning.
    pub(super) alone: Vec<(usize, usize)>,
    pub(super) units: Vec<Unit>,
    /// Of every split of every unit: what a company reads of it.
    pub(super) parts: Vec<Part>,
    pub(super) sets: Vec<Set>,
    /// `f32`s of partial results and of the queries of companies.
    pub(super) partials: usize,
    pub(super) gathered: usize,
}

/// Rows whose splits are tasks of their own, to be merged.
pub(super) struct Unit {
    pub(super) own: Own,
    pub(super) splits: Range<usize>,
    /// Its first of [`Tasks::parts`].
    pub(super) first: usize,
    /// Where its partial results lie, one split after the other.
    pub(super) partial: usize,
    pub(super) stride: usize,
    pub(super) vectors: usize,
    /// Whether its queries are wanted as the body format wants them.
    pub(super) prepared: bool,
}

impl Unit {
    /// Where the partial result of a split lies.
    pub(super) fn partial(&self, split: usize) -> Range<usize> {
        let at = self.partial + (split - self.splits.start) * self.stride;
        at..at + self.stride
    }

    /// Which of [`Tasks::parts`] is that of a split.
    pub(super) fn part(&self, split: usize) -> usize {
        self.first + split - self.splits.start
    }
}

/// What a company has read of one split of a unit.
#[derive(Clone, Copy, Default)]
pub(super) struct Part {
    /// Pages, from the first of the course.
    pub(super) pages: usize,
    /// Whether it stopped in the body, whose state is then what there is.
    pub(super) within: bool,
}

/// Units that read together, in one split or several.
pub(super) struct Set {
    pub(super) members: Vec<usize>,
    pub(super) vectors: usize,
    /// Where their queries lie.
    pub(super) gathered: usize,
    /// Whether they read pages of a body.
    pub(super) body: bool,
}

/// One split, as far as a set reads it.
pub(super) struct Joint {
    pub(super) set: usize,
    pub(super) split: usize,
    pub(super) course: Course,
}

/// Rows that may go in company.
pub(super) struct Candidate {
    pub(super) own: Own,
    pub(super) splits: Range<usize>,
    pub(super) by_split: bool,
    pub(super) unit: Option<usize>,
}

impl Tasks {
    pub(super) fn len(&self) -> usize {
        self.joint.len() + self.finishing.len() + self.alone.len()
    }

    /// A unit for rows whose splits are looked at one by one.
    pub(super) fn unit(&mut self, own: &Own, splits: &Range<usize>, vectors: usize) -> usize {
        let first = self.parts.len();
        self.parts.resize(first + splits.len(), Part::default());
        let (own, splits) = (own.clone(), splits.clone());
        self.units.push(Unit { own, splits, first, partial: 0, stride: 0, vectors, prepared: false });
        self.units.len() - 1
    }

    /// The set of these units; the same as that of the split before, where it is.
    pub(super) fn set(&mut self, members: &[usize], sets_of: &mut Vec<Option<usize>>) -> usize {
        sets_of.resize(self.units.len(), None);
        if let Some(set) = members.first().and_then(|&unit| sets_of[unit])
            && self.sets[set].members == members
        {
            return set;
        }
        let vectors = members.iter().map(|&unit| self.units[unit].vectors).sum();
        self.sets.push(Set { members: members.to_vec(), vectors, gathered: 0, body: false });
        members.iter().for_each(|&unit| sets_of[unit] = Some(self.sets.len() - 1));
        self.sets.len() - 1
    }
}

impl Attention<'_, '_> {
    pub(super) fn tasks(&self) -> Tasks {
        let g = self.geometry;
        let mut tasks = Tasks::default();
        let vectors = g.heads * self.segments.iter().map(|s| s.rows).sum::<usize>();
        let [fewest, most] = BLOCK_VECTORS;
        let block = self.limit(vectors) / fewest * fewest;
        debug_assert!(block <= most);
        let mut candidates = Vec::new();
        for (segment, (row0, s)) in self.starts().enumerate().filter(|(_, (_, s))| s.rows > 0) {
            let vectors = s.rows * g.group();
            let step = if vectors <= fewest { s.rows } else { (block / g.group()).max(1) };
            for first in (0..s.rows).step_by(step) {
                let last = (first + step).min(s.rows) - 1;
                for head in 0..g.kv_heads {
                    let own = Own { segment, head, rows: row0 + first..row0 + last + 1 };
                    let splits = self.splits(segment, head, first, last);
                    let plain = s.seq.mended().is_none() && s.seq.lane(self.layer, head).parallel().is_none();
                    if vectors <= fewest && plain {
                        let by_split = vectors <= DIRECT_ROWS && splits.len() > 1;
                        candidates.push(Candidate { own, splits, by_split, unit: None });
                    } else {
                        tasks.finishing.push((own, splits));
                    }
                }
            }
        }
        if self.sharing && self.segments.len() > 1 {
            self.join(&mut candidates, &mut tasks);
        }
        for candidate in &mut candidates {
            match candidate.unit {
                Some(_) => {}
                None if candidate.by_split => {
                    let vectors = candidate.own.rows.len() * g.group();
                    let unit = tasks.unit(&candidate.own, &candidate.splits, vectors);
                    tasks.units[unit].prepared = true;
                }
                None => tasks.finishing.push((candidate.own.clone(), candidate.splits.clone())),
            }
        }
        self.lay_out(&mut tasks);
        tasks
    }

    /// Query vectors that a task should have of so many.
    pub(super) fn limit(&self, vectors: usize) -> usize {
        let [fewest, most] = BLOCK_VECTORS;
        (vectors / (self.team.threads() * TASKS_OF_A_THREAD)).clamp(fewest, most)
    }

    /// Splits that any of a segment's rows `first..=last` sees.
    fn splits(&self, segment: usize, head: usize, first: usize, last: usize) -> Range<usize> {
        let places = self.places_of(segment, head);
        // Layers with a window drop nothing: their slots are positions.
        let seen = self.geometry.window.map_or(0, |window| (places.slot(first) + 1).saturating_sub(window));
        let span = PAGE_TOKENS * SPLIT_PAGES;
        seen / span..places.slot(last) / span + 1
    }

    /// The pages of a split in the order in which a unit reads them.
    pub(super) fn course(&self, unit: &Unit, split: usize) -> Course {
        let seq = &*self.segments[unit.own.segment].seq;
        let lane = seq.lane(self.layer, unit.own.head);
        let first = lane.slots(seq.len);
        Course::of(lane, first, first + unit.own.rows.len() - 1, self.geometry.window, split)
    }

    /// Gives units and sets their places, and units what they do alone.
    fn lay_out(&self, tasks: &mut Tasks) {
        let width = self.geometry.width();
        let (mut partials, mut gathered) = (0, 0);
        let mut alone = Vec::new();
        for (i, unit) in tasks.units.iter().enumerate() {
            alone.extend(unit.splits.clone().filter(|&split| tasks.parts[unit.part(split)].pages == 0).map(|s| (i, s)));
        }
        let reads_body = |unit: &Unit| {
            unit.splits.clone().any(|split| {
                let (_, rest) = self.course(unit, split).split_at(tasks.parts[unit.part(split)].pages);
                !rest.body.is_empty()
            })
        };
        let prepared: Vec<bool> = tasks.units.iter().map(|unit| unit.prepared || reads_body(unit)).collect();
        for (unit, prepared) in tasks.units.iter_mut().zip(prepared) {
            unit.prepared = prepared;
            let parts = &tasks.parts[unit.first..unit.first + unit.splits.len()];
            let lane = self.segments[unit.own.segment].seq.lane(self.layer, unit.own.head);
            let body = lane.plan.body.as_ref().filter(|_| parts.iter().any(|part| part.within));
            let widest = body.map_or(width, |body| width.max(body.v.basis().width()));
            (unit.partial, unit.stride) = (partials, Block::state_len(unit.vectors, widest));
            partials += unit.stride * unit.splits.len();
        }
        for set in &mut tasks.sets {
            set.gathered = gathered;
            gathered += set.vectors * width;
        }
        tasks.alone = alone;
        (tasks.partials, tasks.gathered) = (partials, gathered);
    }
}
