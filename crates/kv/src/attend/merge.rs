//! Splits merged in order, and rows finished.

use super::block::Block;
use super::disjoint::Disjoint;
use super::local::Local;
use super::tasks::Tasks;
use super::{Attention, Input, Own, Results};
use cachalot_kernels::attention::Rows;
use std::cell::RefCell;
use std::sync::atomic::Ordering::Relaxed;

/// Merges below which the team is not worth waking.
const MERGE_ALONE: usize = 32;

impl Attention<'_, '_> {
    /// With the buffers of this thread.
    pub(super) fn with_local<T>(&self, f: impl FnOnce(&mut Local) -> T) -> T {
        thread_local! {
            static LOCAL: RefCell<Local> = RefCell::default();
        }
        LOCAL.with_borrow_mut(|local| {
            let result = f(local);
            self.local_peak.fetch_max(local.bytes() as u64, Relaxed);
            result
        })
    }

    /// Merges what the tasks of each unit left, in the order of the splits. What a company has not read of a split is read
    /// here.
    pub(super) fn merge(&self, tasks: &Tasks, input: &Input<'_>, partial: &Disjoint<'_, f32>, out: &Results<'_>) {
        let width = self.geometry.width();
        let run = |number: usize| {
            let unit = &tasks.units[number];
            let block = self.block(&unit.own, input.rows, input.q, input.tiles);
            let (vectors, len) = (block.vectors(), Block::state_len(block.vectors(), width));
            let mut total = vec![0.0; len];
            let mut total = Block::state(vectors, &mut total);
            total.clear();
            for split in unit.splits.clone() {
                // SAFETY: this unit's parts belong to this task alone in this pass.
                let part = unsafe { partial.part(unit.partial(split)) };
                let read = tasks.parts[unit.part(split)];
                if read.pages > 0 {
                    let (_, rest) = block.course(split).split_at(read.pages);
                    let prepared = input.prepared[number];
                    self.with_local(|local| block.resume(&rest, read.within, prepared, local, part));
                }
                total.merge(self.isa, &Block::state(vectors, &mut part[..len]));
            }
            self.finish(&unit.own, &total, out);
        };
        let units = tasks.units.len();
        let alone = tasks.parts.len() < MERGE_ALONE && tasks.parts.iter().all(|part| part.pages == 0);
        if alone { (0..units).for_each(run) } else { self.team.for_each(units, run) }
    }

    pub(super) fn finish(&self, own: &Own, total: &Rows<'_>, to: &Results<'_>) {
        let g = self.geometry;
        for (i, row) in own.rows.clone().enumerate() {
            for head in 0..g.group() {
                let vector = i * g.group() + head;
                let at = (row * g.heads + own.head * g.group() + head) * g.head_dim;
                // SAFETY: row and head belong to this task alone.
                total.finish(vector, unsafe { to.out.part(at..at + g.head_dim) });
                if to.ends.len() > 0 {
                    let at = 2 * ((own.head * to.rows + row) * g.group() + head);
                    // SAFETY: as above.
                    unsafe { to.ends.part(at..at + 2) }.copy_from_slice(&[total.max[vector], total.sum[vector]]);
                }
            }
        }
    }
}
