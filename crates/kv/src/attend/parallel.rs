//! Two attentions for every row behind contexts that share their positions (APE, Yang et al., 2025): over the contexts, all of
//! them, with scores divided by the temperature; and over what stands before them and behind, up to the row. Each has a softmax of
//! its own; they are merged by the logarithms of their sums, that of the contexts weighed by scale and temperature.

use super::block::Block;
use super::local::Local;
use super::{Attention, Own, Results};
use crate::parallel::{Parallel, Temper};
use cachalot_kernels::attention::{PAGE_TOKENS, Rows, SPLIT_PAGES};
use std::ops::Range;

impl Attention<'_, '_> {
    /// Some rows, wholly. Every part is read split by split as ever, so a row's bits do not depend on its company.
    pub(super) fn attend_parallel(&self, own: &Own, block: &Block<'_>, parallel: &Parallel, out: &Results<'_>) {
        let Temper { temperature, .. } = parallel.temper;
        let hot: Vec<f32> = block.q.iter().map(|x| x / temperature).collect();
        let last = block.position(block.vectors() - 1) + 1;
        let width = self.geometry.width();
        self.with_local(|local| {
            let mut buffers = [(); 2].map(|()| vec![0.0; Block::state_len(block.vectors(), width)]);
            let [total, part] = &mut buffers;
            let mut total = Block::state(block.vectors(), total);
            let mut part = Block::state(block.vectors(), part);
            self.attend_slots(block, block.q, 0..parallel.prefix(), local, &mut total);
            self.attend_slots(block, block.q, parallel.own()..last, local, &mut part);
            total.merge(self.isa, &part);
            self.attend_slots(block, &hot, parallel.contexts(), local, &mut part);
            weigh(parallel.temper, &mut part);
            total.merge(self.isa, &part);
            self.finish(own, &total, out);
        });
    }

    /// The rows' attention to some slots, of which each sees those that come before it.
    fn attend_slots(&self, block: &Block<'_>, q: &[f32], slots: Range<usize>, local: &mut Local, to: &mut Rows<'_>) {
        if slots.is_empty() {
            return to.clear();
        }
        let span = PAGE_TOKENS * SPLIT_PAGES;
        let splits = slots.start / span..slots.end.div_ceil(span);
        let block = Block { q, slots, places: block.places, lane: block.lane, geometry: block.geometry, ..*block };
        let mut prepared = std::mem::take(&mut local.prepared);
        if let Some(body) = &block.lane.plan.body {
            body.k.prepare(self.isa, q, block.vectors(), &mut prepared);
        }
        block.all(splits, &prepared, local, to);
        local.prepared = prepared;
    }
}

/// Gives the contexts' part the weight that it has beside the rest.
fn weigh(temper: Temper, part: &mut Rows<'_>) {
    let width = part.out.len() / part.max.len().max(1);
    for ((max, sum), out) in part.max.iter_mut().zip(&mut *part.sum).zip(part.out.chunks_exact_mut(width.max(1))) {
        if *max > f32::NEG_INFINITY {
            out.iter_mut().for_each(|x| *x /= *sum);
            (*max, *sum) = (temper.weigh(*max + sum.ln()), 1.0);
        }
    }
}
