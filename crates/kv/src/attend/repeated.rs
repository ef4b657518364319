//! What a part of the context receives while it is read again (KVzip, Kim et al., 2025): the largest share that any row of the
//! pass gives, of a softmax over the first tokens, the part and the rows of the pass alone.
//!
//! Shares of the whole context are there already, with maximum and sum of each row; those of the restricted softmax are the
//! same numbers divided by what the part and its company have of them.

use super::columns::Gathered;
use super::local::Local;
use super::shares::PageShares;
use super::{Attention, Own};
use crate::observe::lock;
use crate::rope::Angles;
use crate::score::SINKS;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Mutex;

/// Rows that a thread looks at together.
const ROWS: usize = 64;
/// Partial sums of a row of a page.
const PARTS: usize = 16;

impl Attention<'_, '_> {
    /// Takes in the rows of the step for one lane. `ends` has maximum and sum of every query vector,
    /// `[kv_head][rows][group][2]`.
    pub(super) fn repeated(&self, lane: &mut Gathered, rows: usize, q: &[f32], ends: &[f32], tiles: Option<&Angles>) {
        let Some((chunk, context)) = self.segments[lane.segment].seq.repeats() else { return };
        let again = Again { chunk, context, pages: lane.column.len().div_ceil(PAGE_TOKENS) };
        let blocks = lane.rows.len().div_ceil(ROWS);
        let column = Mutex::new(&mut lane.column[again.chunk.clone()]);
        let (segment, head, first, end) = (lane.segment, lane.head, lane.rows.start, lane.rows.end);
        self.team.for_each(blocks, |block| {
            let rows_of = first + block * ROWS..(first + (block + 1) * ROWS).min(end);
            let most = self.repeated_by(segment, head, rows_of, &again, rows, q, ends, tiles);
            for (to, most) in lock(&column).iter_mut().zip(most) {
                *to = to.max(f64::from(most));
            }
        });
    }

    /// What the tokens of the part receive from some rows at most.
    #[allow(clippy::too_many_arguments)]
    fn repeated_by(
        &self,
        segment: usize,
        head: usize,
        own: Range<usize>,
        again: &Again,
        rows: usize,
        q: &[f32],
        ends: &[f32],
        tiles: Option<&Angles>,
    ) -> Vec<f32> {
        let ends = &ends[2 * (head * rows + own.start) * self.geometry.group()..];
        let own = Own { segment, head, rows: own };
        let block = self.block(&own, rows, q, tiles);
        let ends = &ends[..2 * block.vectors()];
        thread_local! {
            static LOCAL: RefCell<Local> = RefCell::default();
        }
        LOCAL.with_borrow_mut(|local| {
            let mut prepared = std::mem::take(&mut local.prepared);
            if let Some(body) = &block.lane.plan.body {
                body.k.prepare(self.isa, block.q, block.vectors(), &mut prepared);
            }
            let mut totals = vec![0.0f32; block.vectors()];
            for page in (0..again.pages).filter(|&page| again.concerns(page)) {
                block.shares(page, ends, &prepared, local, |shares| again.add(page, &shares, &mut totals));
            }
            let most_of_total: Vec<f32> = totals.iter().map(|total| 1.0 / total.max(f32::MIN_POSITIVE)).collect();
            let mut most = vec![0.0f32; again.chunk.len()];
            for page in (0..again.pages).filter(|&page| again.asks(page)) {
                block
                    .shares(page, ends, &prepared, local, |shares| again.max(page, &shares, &most_of_total, &mut most));
            }
            local.prepared = prepared;
            self.local_peak.fetch_max(local.bytes() as u64, std::sync::atomic::Ordering::Relaxed);
            most
        })
    }
}

/// The part that is read again.
struct Again {
    chunk: Range<usize>,
    /// Tokens of the context; rows of the pass follow.
    context: usize,
    /// Pages of the lane.
    pages: usize,
}

impl Again {
    fn has(&self, slot: usize) -> bool {
        self.chunk.contains(&slot) || slot < SINKS.min(self.chunk.start) || slot >= self.context
    }

    fn slots(page: usize) -> Range<usize> {
        page * PAGE_TOKENS..(page + 1) * PAGE_TOKENS
    }

    /// Whether a page has tokens of the part.
    fn asks(&self, page: usize) -> bool {
        Again::slots(page).start < self.chunk.end && Again::slots(page).end > self.chunk.start
    }

    /// Whether rows look at a page at all.
    fn concerns(&self, page: usize) -> bool {
        self.asks(page) || page * PAGE_TOKENS < SINKS || Again::slots(page).end > self.context
    }

    fn add(&self, page: usize, shares: &PageShares<'_>, totals: &mut [f32]) {
        let counts: [f32; PAGE_TOKENS] = std::array::from_fn(|i| f32::from(self.has(page * PAGE_TOKENS + i)));
        for (row, total) in shares.rows().zip(totals) {
            let mut sums = [0.0f32; PARTS];
            for (row, counts) in row.chunks_exact(PARTS).zip(counts.chunks_exact(PARTS)) {
                (0..PARTS).for_each(|i| sums[i] += row[i] * counts[i]);
            }
            *total += sums.iter().sum::<f32>();
        }
    }

    fn max(&self, page: usize, shares: &PageShares<'_>, of_total: &[f32], most: &mut [f32]) {
        let slots = Again::slots(page).start.max(self.chunk.start)..Again::slots(page).end.min(self.chunk.end);
        let from = slots.start - page * PAGE_TOKENS;
        let most = &mut most[slots.start - self.chunk.start..][..slots.len()];
        for (row, of_total) in shares.rows().zip(of_total) {
            for (most, share) in most.iter_mut().zip(&row[from..]) {
                *most = most.max(share * of_total);
            }
        }
    }
}
