//! What every token receives from the rows of a step, for those sequences that gather it: a second pass over the scores,
//! with the maximum and sum that each row's softmax ended with.
//!
//! Sums do not depend on how rows are cut into steps or divided among threads: a share of attention is rounded to a multiple
//! of 2^-32, and such numbers add up exactly.

use super::block::Block;
use super::disjoint::Disjoint;
use super::local::Local;
use super::place::Places;
use super::shares::PageShares;
use super::{Attention, Own};
use crate::encode::math::Rng;
use crate::observe::{Gather, Looked};
use crate::rope::Angles;
use cachalot_kernels::attention::{PAGE_TOKENS, SPLIT_PAGES};
use cachalot_kernels::dispatch;
use cachalot_kernels::simd::Simd;
use std::cell::RefCell;
use std::ops::Range;

/// Added and taken away again, it leaves a number below one rounded to a multiple of 2^-32.
pub(super) const ROUNDING: f64 = 1.5 * (1u64 << (52 - 32)) as f64;

/// One lane whose columns are gathered.
pub(super) struct Gathered {
    pub segment: usize,
    pub head: usize,
    gather: Gather,
    /// Rows of the step that count.
    pub rows: Range<usize>,
    /// Those that do, where it is not all of them.
    some: Option<Vec<usize>>,
    pub column: Vec<f64>,
}

impl Attention<'_, '_> {
    /// Whether any sequence of the step gathers columns.
    pub(super) fn gathers(&self) -> bool {
        self.geometry.window.is_none() && self.segments.iter().any(|s| s.seq.gathers().is_some())
    }

    /// Adds the rows of the step. `ends` has maximum and sum of every query vector, `[kv_head][rows][group][2]`.
    pub(super) fn gather(&mut self, rows: usize, q: &[f32], ends: &[f32], tiles: Option<&Angles>) {
        let mut lanes = self.take_columns();
        for lane in lanes.iter_mut().filter(|lane| lane.gather == Gather::Repeated) {
            self.repeated(lane, rows, q, ends, tiles);
        }
        // Pages of a lane can be divided; not where a row must know all of them first.
        let pages = |lane: &Gathered| lane.column.len().div_ceil(PAGE_TOKENS);
        let span = |lane: &Gathered| match lane.gather {
            Gather::Noisy { .. } => pages(lane),
            _ => SPLIT_PAGES,
        };
        let tasks: Vec<(usize, Range<usize>)> = lanes
            .iter()
            .enumerate()
            .filter(|(_, lane)| lane.gather != Gather::Repeated)
            .flat_map(|(i, lane)| {
                let (all, span) = (pages(lane), span(lane).max(1));
                (0..all).step_by(span).map(move |first| (i, first..(first + span).min(all)))
            })
            .collect();
        let mut columns: Vec<Vec<f64>> = lanes.iter_mut().map(|lane| std::mem::take(&mut lane.column)).collect();
        let to: Vec<Disjoint<'_, f64>> = columns.iter_mut().map(|column| Disjoint::new(column)).collect();
        let this = &*self;
        this.team.for_each(tasks.len(), |i| {
            let (lane, pages) = &tasks[i];
            this.gather_pages(&lanes[*lane], pages.clone(), rows, q, ends, tiles, &to[*lane]);
        });
        drop(to);
        for (lane, column) in lanes.iter_mut().zip(columns) {
            lane.column = column;
        }
        self.give_columns(lanes);
    }

    fn take_columns(&mut self) -> Vec<Gathered> {
        let mut lanes = Vec::new();
        let mut row0 = 0;
        for (segment, s) in self.segments.iter_mut().enumerate() {
            let (from, count) = (s.seq.len, s.rows);
            let slots: Vec<usize> =
                (0..self.geometry.kv_heads).map(|head| s.seq.lane(self.layer, head).slots(from + count)).collect();
            if s.seq.mended().is_none()
                && let Some(observed) = s.seq.pending.as_mut().and_then(|pending| pending.observed.as_mut())
                && let Some(gather) = observed.gathers()
            {
                let (rows, some) = match observed.looked_at(from..from + count) {
                    Looked::From(first) => (row0 + first..row0 + count, None),
                    Looked::Some { first, probes } => {
                        let some = probes.iter().map(|&probe| row0 + probe as usize - first);
                        (row0..row0 + count, Some(some.collect()))
                    }
                };
                for (head, (mut column, slots)) in observed.take_columns(self.layer).into_iter().zip(slots).enumerate()
                {
                    column.resize(slots, 0.0);
                    lanes.push(Gathered { segment, head, gather, rows: rows.clone(), some: some.clone(), column });
                }
            }
            row0 += count;
        }
        lanes
    }

    fn give_columns(&mut self, lanes: Vec<Gathered>) {
        let mut lanes = lanes.into_iter().peekable();
        while let Some(first) = lanes.next() {
            let segment = first.segment;
            let mut columns = vec![first.column];
            while let Some(lane) = lanes.next_if(|lane| lane.segment == segment) {
                columns.push(lane.column);
            }
            let pending = self.segments[segment].seq.pending.as_mut();
            if let Some(observed) = pending.and_then(|pending| pending.observed.as_mut()) {
                observed.give_columns(self.layer, columns);
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn gather_pages(
        &self,
        lane: &Gathered,
        pages: Range<usize>,
        rows: usize,
        q: &[f32],
        ends: &[f32],
        tiles: Option<&Angles>,
        to: &Disjoint<'_, f64>,
    ) {
        if lane.rows.is_empty() || lane.some.as_ref().is_some_and(Vec::is_empty) {
            return;
        }
        let g = self.geometry;
        let own = Own { segment: lane.segment, head: lane.head, rows: lane.rows.clone() };
        let block = self.block(&own, rows, q, tiles);
        let ends = &ends[2 * (lane.head * rows + lane.rows.start) * g.group()..][..2 * block.vectors()];
        let few = lane.some.as_ref().map(|some| Few::of(&block, ends, some.iter().map(|row| row - lane.rows.start)));
        let (block, ends) = match &few {
            Some(few) => (Block { q: &few.q, places: Places::At(&few.slots), ..block }, &few.ends[..]),
            None => (block, ends),
        };
        let vectors = block.vectors();
        thread_local! {
            static LOCAL: RefCell<Local> = RefCell::default();
        }
        LOCAL.with_borrow_mut(|local| {
            let mut prepared = std::mem::take(&mut local.prepared);
            if let Some(body) = &block.lane.plan.body {
                body.k.prepare(self.isa, block.q, vectors, &mut prepared);
            }
            let slots = to.len();
            let part = |page: usize| {
                let span = page * PAGE_TOKENS..((page + 1) * PAGE_TOKENS).min(slots);
                // SAFETY: this task alone has these pages of this lane.
                unsafe { to.part(span) }
            };
            let seed = (self.layer * g.kv_heads + lane.head) as u64;
            let context = self.segments[lane.segment].seq.context_end();
            let noise =
                |noisy: (u64, f32)| Noise { seed: noisy.0 ^ seed << 40, warming: noisy.1, context, block: &block };
            let mut totals = vec![0.0f64; vectors];
            if let Gather::Noisy { seed, warming } = lane.gather {
                let noise = noise((seed, warming));
                for page in pages.clone() {
                    block.shares(page, ends, &prepared, local, |shares| noise.add(page, &shares, &mut totals));
                }
            }
            for page in pages {
                let column = part(page);
                block.shares(page, ends, &prepared, local, |shares| match lane.gather {
                    Gather::Sum => add(self.isa, shares.scores(), column),
                    Gather::Max => max(&shares, column),
                    Gather::Below => below(&shares, column),
                    Gather::Repeated => {}
                    Gather::Noisy { seed, warming } => noise((seed, warming)).sum(page, &shares, &totals, column),
                });
            }
            local.prepared = prepared;
            self.local_peak.fetch_max(local.bytes() as u64, std::sync::atomic::Ordering::Relaxed);
        });
    }
}

/// Some rows of a block, brought together.
struct Few {
    q: Vec<f32>,
    ends: Vec<f32>,
    slots: Vec<u32>,
}

impl Few {
    fn of(block: &Block<'_>, ends: &[f32], rows: impl Iterator<Item = usize>) -> Few {
        let group = block.geometry.group();
        let each = group * block.geometry.width();
        let mut few = Few { q: Vec::new(), ends: Vec::new(), slots: Vec::new() };
        for row in rows {
            few.q.extend_from_slice(&block.q[row * each..][..each]);
            few.ends.extend_from_slice(&ends[2 * row * group..][..2 * group]);
            few.slots.push(block.places.slot(row) as u32);
        }
        few
    }
}

dispatch! {
    /// Adds rows of [`PAGE_TOKENS`] shares to a column, rounded.
    fn add(shares: &[f32], column: &mut [f64]) = add_body
}

/// # Safety
/// `S`'s instructions are present: the compiler makes use of them.
#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)]
unsafe fn add_body<S: Simd>(shares: &[f32], column: &mut [f64]) {
    let mut sums = [0.0f64; PAGE_TOKENS];
    for row in shares.chunks_exact(PAGE_TOKENS) {
        for i in 0..PAGE_TOKENS {
            sums[i] += (f64::from(row[i]) + ROUNDING) - ROUNDING;
        }
    }
    column.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
}

fn max(shares: &PageShares<'_>, column: &mut [f64]) {
    for row in shares.rows() {
        column.iter_mut().zip(row).for_each(|(to, &share)| *to = to.max(f64::from(share)));
    }
}

fn below(shares: &PageShares<'_>, column: &mut [f64]) {
    for (vector, row) in shares.rows().enumerate() {
        let (seen, slots) = shares.seen(vector);
        let equal = 1.0 / slots as f32;
        let seen = usize::from(seen.from)..usize::from(seen.to).min(column.len());
        column[seen.clone()]
            .iter_mut()
            .zip(&row[seen])
            .for_each(|(to, &share)| *to += f64::from(u8::from(share < equal)));
    }
}

/// Gumbel noise, drawn by position: the same for a row and a token however they are cut into steps.
struct Noise<'a> {
    seed: u64,
    warming: f32,
    /// Tokens of the context.
    context: usize,
    block: &'a Block<'a>,
}

impl Noise<'_> {
    /// `softmax((x + g) / t)` before it is divided by its sum, of a share `a = softmax(x)`: `(a / e)^(1/t)` with `e`
    /// exponentially distributed, since `g = -ln e`.
    fn weight(&self, vector: usize, slot: usize, share: f32) -> f64 {
        let row = self.block.row_position(vector);
        let token = self.block.lane.position(slot);
        let query = vector as u64 % self.block.geometry.group() as u64;
        let mut noise = Rng::of_key(self.seed ^ (row as u64) << 20 ^ token as u64 ^ query << 52);
        // Never zero, whose logarithm is none.
        let uniform = ((noise.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let weight = f64::from(share) / -uniform.ln();
        let warmth = f64::from(self.warming) * (row + 1).saturating_sub(self.context) as f64;
        if warmth > 0.0 { weight.powf(1.0 / (1.0 + warmth)) } else { weight }
    }

    fn add(&self, page: usize, shares: &PageShares<'_>, totals: &mut [f64]) {
        for (vector, (row, total)) in shares.rows().zip(totals).enumerate() {
            let seen = shares.seen(vector).0;
            let seen = usize::from(seen.from)..usize::from(seen.to);
            for (slot, &share) in seen.clone().zip(&row[seen]) {
                *total += self.weight(vector, page * PAGE_TOKENS + slot, share);
            }
        }
    }

    fn sum(&self, page: usize, shares: &PageShares<'_>, totals: &[f64], column: &mut [f64]) {
        for (vector, (row, total)) in shares.rows().zip(totals).enumerate() {
            let seen = shares.seen(vector).0;
            for slot in usize::from(seen.from)..usize::from(seen.to).min(column.len()) {
                let share = self.weight(vector, page * PAGE_TOKENS + slot, row[slot]) / total.max(f64::MIN_POSITIVE);
                column[slot] += (share + ROUNDING) - ROUNDING;
            }
        }
    }
}
