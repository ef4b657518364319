//! The tasks of the second pass, run.

use super::block::Block;
use super::disjoint::Disjoint;
use super::tasks::{Joint, Tasks};
use super::{Attention, Input, Own, Results};
use crate::encode::pipeline::Prepared;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Preparations below which the team is not worth waking.
const PREPARE_ALONE: usize = 16;

impl Attention<'_, '_> {
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
        if let Some(parallel) = block.lane.parallel() {
            return self.attend_parallel(own, &block, parallel, out);
        }
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
