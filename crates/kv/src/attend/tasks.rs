//! What the second pass consists of: who reads which pages, alone or in company, and where that goes.

use super::block::Block;
use super::company::{Company, Reader, companies};
use super::course::Course;
use super::disjoint::Disjoint;
use super::{Attention, Input, Own, Results};
use crate::encode::pipeline::Prepared;
use cachalot_kernels::attention::{DIRECT_ROWS, PAGE_TOKENS, SPLIT_PAGES};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

/// Fewest and most query vectors (rows times the heads of a group) that a prefill task or a company attends for at once: the
/// more they are, the less the decoding of a page weighs; the fewer, the better threads share the work. Who has more than the
/// fewest gains next to nothing from company.
const BLOCK_VECTORS: [usize; 2] = [48, 192];
/// Prefill tasks that a thread should have at least, where blocks above the smallest leave so many.
const TASKS_OF_A_THREAD: usize = 8;
/// Preparations below which the team is not worth waking.
const PREPARE_ALONE: usize = 16;

/// The tasks of one layer of one step.
#[derive(Default)]
pub(super) struct Tasks {
    joint: Vec<Joint>,
    /// Rows that see all their splits in one task, and finish themselves.
    finishing: Vec<(Own, Range<usize>)>,
    /// Unit and split, without company from the beginning.
    alone: Vec<(usize, usize)>,
    pub(super) units: Vec<Unit>,
    /// Of every split of every unit: what a company reads of it.
    pub(super) parts: Vec<Part>,
    sets: Vec<Set>,
    /// `f32`s of partial results and of the queries of companies.
    pub(super) partials: usize,
    pub(super) gathered: usize,
}

/// Rows whose splits are tasks of their own, to be merged.
pub(super) struct Unit {
    pub(super) own: Own,
    pub(super) splits: Range<usize>,
    /// Its first of [`Tasks::parts`].
    first: usize,
    /// Where its partial results lie, one split after the other.
    partial: usize,
    stride: usize,
    vectors: usize,
    /// Whether its queries are wanted as the body format wants them.
    prepared: bool,
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
struct Set {
    members: Vec<usize>,
    vectors: usize,
    /// Where their queries lie.
    gathered: usize,
    /// Whether they read pages of a body.
    body: bool,
}

/// One split, as far as a set reads it.
struct Joint {
    set: usize,
    split: usize,
    course: Course,
}

/// Rows that may go in company.
struct Candidate {
    own: Own,
    splits: Range<usize>,
    by_split: bool,
    unit: Option<usize>,
}

impl Tasks {
    pub(super) fn len(&self) -> usize {
        self.joint.len() + self.finishing.len() + self.alone.len()
    }

    /// A unit for rows whose splits are looked at one by one.
    fn unit(&mut self, own: &Own, splits: &Range<usize>, vectors: usize) -> usize {
        let first = self.parts.len();
        self.parts.resize(first + splits.len(), Part::default());
        let (own, splits) = (own.clone(), splits.clone());
        self.units.push(Unit { own, splits, first, partial: 0, stride: 0, vectors, prepared: false });
        self.units.len() - 1
    }

    /// The set of these units; the same as that of the split before, where it is.
    fn set(&mut self, members: &[usize], sets_of: &mut Vec<Option<usize>>) -> usize {
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
                    if vectors <= fewest {
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
    fn limit(&self, vectors: usize) -> usize {
        let [fewest, most] = BLOCK_VECTORS;
        (vectors / (self.team.threads() * TASKS_OF_A_THREAD)).clamp(fewest, most)
    }

    /// Splits that any of a segment's rows `first..=last` sees.
    fn splits(&self, segment: usize, head: usize, first: usize, last: usize) -> Range<usize> {
        let seq = &*self.segments[segment].seq;
        let seen = self.geometry.window.map_or(0, |window| (seq.len + first + 1).saturating_sub(window));
        let span = PAGE_TOKENS * SPLIT_PAGES;
        seen / span..seq.lane(self.layer, head).slots(seq.len + last) / span + 1
    }

    /// Finds the companies, and makes units of all that are in one.
    fn join(&self, candidates: &mut [Candidate], tasks: &mut Tasks) {
        let g = self.geometry;
        let mut found: Vec<(usize, Company)> = Vec::new();
        for head in 0..g.kv_heads {
            let (numbers, readers): (Vec<usize>, Vec<Reader<'_>>) = candidates
                .iter()
                .enumerate()
                .filter(|(_, candidate)| candidate.own.head == head)
                .filter_map(|(i, candidate)| Some((i, self.reader(candidate)?)))
                .unzip();
            let ends = readers.iter().map(|reader| reader.splits.end).max().unwrap_or(0);
            for split in readers.iter().map(|reader| reader.splits.start).min().unwrap_or(0)..ends {
                found.extend(companies(&readers, split).into_iter().map(|company| {
                    let members = company.members.iter().map(|&i| numbers[i]).collect();
                    (split, Company { members, pages: company.pages })
                }));
            }
        }
        let vectors = |candidate: &Candidate| candidate.own.rows.len() * g.group();
        let all = found.iter().flat_map(|(_, company)| &company.members).map(|&i| vectors(&candidates[i])).sum();
        let limit = self.limit(all);
        let mut sets_of = Vec::new();
        for (split, company) in found {
            let mut members = Vec::new();
            let mut held = 0;
            for (n, &i) in company.members.iter().enumerate() {
                let count = vectors(&candidates[i]);
                let own = candidates[i].own.clone();
                let splits = candidates[i].splits.clone();
                members.push(*candidates[i].unit.get_or_insert_with(|| tasks.unit(&own, &splits, count)));
                held += count;
                let next = company.members.get(n + 1).map(|&next| vectors(&candidates[next]));
                if next.is_none_or(|next| held + next > limit) {
                    self.joint(tasks, &members, &mut sets_of, split, company.pages);
                    members.clear();
                    held = 0;
                }
            }
        }
    }

    /// Where a candidate stands in its lane, if others may hold its pages.
    fn reader(&self, candidate: &Candidate) -> Option<Reader<'_>> {
        let Own { segment, head, .. } = candidate.own;
        let seq = &*self.segments[segment].seq;
        let lane = seq.lane(self.layer, head);
        let first = lane.slots(seq.len);
        let last = first + candidate.own.rows.len() - 1;
        let window = self.geometry.window;
        // Sequences that share anything share what comes first.
        let seen = window.map_or(0, |window| (first + 1).saturating_sub(window)) / PAGE_TOKENS;
        let splits = candidate.splits.clone();
        lane.may_be_shared(seen).then_some(Reader { lane, first, last, window, splits })
    }

    fn joint(
        &self,
        tasks: &mut Tasks,
        members: &[usize],
        sets_of: &mut Vec<Option<usize>>,
        split: usize,
        pages: usize,
    ) {
        let set = tasks.set(members, sets_of);
        let unit = &tasks.units[members[0]];
        let (course, _) = self.course(unit, split).split_at(pages);
        let part = Part { pages, within: course.within_body() };
        tasks.sets[set].body |= !course.body.is_empty();
        for &unit in members {
            let at = tasks.units[unit].part(split);
            tasks.parts[at] = part;
        }
        tasks.joint.push(Joint { set, split, course });
        self.spared.fetch_add(((members.len() - 1) * pages) as u64, Relaxed);
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

    /// Queries as bodies want them, once for all splits; those of companies side by side.
    pub(super) fn prepare(
        &self,
        tasks: &Tasks,
        rows: usize,
        q: &[f32],
        gathered: &mut [f32],
        prepared: &mut Vec<Mutex<Prepared>>,
    ) {
        let width = self.geometry.width();
        let (units, sets) = (tasks.units.len(), tasks.sets.len());
        prepared.resize_with(units + sets, Mutex::default);
        let gathered = Disjoint::new(gathered);
        let run = |i: usize| {
            let mut to = prepared[i].lock().unwrap_or_else(PoisonError::into_inner);
            let (unit, wanted, q) = match i.checked_sub(units) {
                None => (&tasks.units[i], tasks.units[i].prepared, self.block(&tasks.units[i].own, rows, q, None).q),
                Some(set) => {
                    let set = &tasks.sets[set];
                    // SAFETY: every set has a place of its own.
                    let to = unsafe { gathered.part(set.gathered..set.gathered + set.vectors * width) };
                    let mut at = 0;
                    for &unit in &set.members {
                        let q = self.block(&tasks.units[unit].own, rows, q, None).q;
                        to[at..at + q.len()].copy_from_slice(q);
                        at += q.len();
                    }
                    (&tasks.units[set.members[0]], set.body, &*to)
                }
            };
            let lane = self.segments[unit.own.segment].seq.lane(self.layer, unit.own.head);
            if let (Some(body), true) = (&lane.plan.body, wanted) {
                body.k.prepare(self.isa, q, q.len() / width, &mut to);
            }
        };
        let all = units + sets;
        if all < PREPARE_ALONE { (0..all).for_each(run) } else { self.team.for_each(all, run) }
    }

    pub(super) fn run_task(
        &self,
        tasks: &Tasks,
        i: usize,
        input: &Input<'_>,
        partial: &Disjoint<'_, f32>,
        out: &Results<'_>,
    ) {
        if let Some(joint) = tasks.joint.get(i) {
            return self.attend_together(tasks, joint, input, partial);
        }
        let i = i - tasks.joint.len();
        if let Some((own, splits)) = tasks.finishing.get(i) {
            return self.attend_all(own, splits, input, out);
        }
        let (number, split) = tasks.alone[i - tasks.finishing.len()];
        let unit = &tasks.units[number];
        let block = self.block(&unit.own, input.rows, input.q, input.tiles);
        self.with_local(|local| {
            // SAFETY: every task has a part of its own.
            let part = unsafe { partial.part(unit.partial(split)) };
            let part = &mut part[..Block::state_len(unit.vectors, self.geometry.width())];
            block.split(split, input.prepared[number], local, &mut Block::state(unit.vectors, part));
        });
    }

    /// The pages of a split that a set reads together; every member gets its part of the result.
    fn attend_together(&self, tasks: &Tasks, joint: &Joint, input: &Input<'_>, partial: &Disjoint<'_, f32>) {
        let set = &tasks.sets[joint.set];
        let first = &tasks.units[set.members[0]];
        let width = self.geometry.width();
        let q = &input.gathered[set.gathered..set.gathered + set.vectors * width];
        let block = Block { q, whole: true, ..self.block(&first.own, input.rows, input.q, input.tiles) };
        let prepared = input.prepared[tasks.units.len() + joint.set];
        self.with_local(|local| {
            let mut total = std::mem::take(&mut local.total);
            block.together(&joint.course, prepared, local, &mut total, |state| {
                let mut at = 0;
                for &unit in &set.members {
                    let unit = &tasks.units[unit];
                    // SAFETY: a split of a unit is read by one company.
                    let part = unsafe { partial.part(unit.partial(joint.split)) };
                    Block::hand_out(state, at..at + unit.vectors, part);
                    at += unit.vectors;
                }
            });
            local.total = total;
        });
    }

    /// All splits of some rows, which are finished then.
    fn attend_all(&self, own: &Own, splits: &Range<usize>, input: &Input<'_>, out: &Results<'_>) {
        let block = self.block(own, input.rows, input.q, input.tiles);
        self.with_local(|local| {
            let mut total = std::mem::take(&mut local.total);
            total.resize(Block::state_len(block.vectors(), self.geometry.width()), 0.0);
            let mut prepared = std::mem::take(&mut local.prepared);
            if let Some(body) = &block.lane.plan.body {
                body.k.prepare(self.isa, block.q, block.vectors(), &mut prepared);
            }
            block.all(splits.clone(), &prepared, local, &mut Block::state(block.vectors(), &mut total));
            local.prepared = prepared;
            self.finish(own, &Block::state(block.vectors(), &mut total), out);
            local.total = total;
        });
    }
}
