//! What stretches of a context attend to, and what moved rows receive, for those sequences that look at it: a second pass over
//! the scores of these keys, as in [`super::columns`].

use super::columns::ROUNDING;
use super::local::Local;
use super::shares::PageShares;
use super::{Attention, Own};
use crate::observe::Part;
use crate::rope::Angles;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::dispatch;
use cachalot_kernels::simd::{LANES, Simd};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Rows of a task.
const ROWS: usize = 64;
/// Stale rows of a task.
const COLUMNS: usize = 1024;

/// Some rows of one KV head whose attention is looked at.
struct Look {
    own: Own,
    what: What,
}

enum What {
    /// To the stretches up to the one that the rows lie in.
    Chunk(usize),
    /// To these of the moved rows.
    Stale(Range<usize>),
}

/// What a task has seen.
enum Seen {
    Part(Part),
    /// From this one of the moved rows on.
    Received(usize, Vec<f64>),
}

impl Attention<'_, '_> {
    /// Whether any sequence of the step looks at its attention.
    pub(super) fn watches(&self) -> bool {
        self.geometry.window.is_none()
            && self.segments.iter().any(|s| s.seq.chunks.is_some() || s.seq.stale_rows().is_some())
    }

    /// Adds the rows of the step. `ends` has maximum and sum of every query vector, `[kv_head][rows][group][2]`.
    pub(super) fn watch(&mut self, rows: usize, q: &[f32], ends: &[f32], tiles: Option<&Angles>) {
        let looks = self.looks();
        let seen: Vec<Mutex<Option<Seen>>> = looks.iter().map(|_| Mutex::new(None)).collect();
        let this = &*self;
        this.team.for_each(looks.len(), |i| {
            let found = this.look(&looks[i], rows, q, ends, tiles);
            *seen[i].lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        });
        for (look, seen) in looks.iter().zip(seen) {
            let seq = &mut *self.segments[look.own.segment].seq;
            match seen.into_inner().unwrap_or_else(PoisonError::into_inner) {
                Some(Seen::Part(part)) => {
                    if let Some(chunks) = &mut seq.chunks {
                        chunks.add(&part);
                        // Once for all heads of the layer.
                        chunks.count(part.chunk, if look.own.head == 0 { part.positions.len() } else { 0 });
                    }
                }
                Some(Seen::Received(first, shares)) => {
                    if let Some(stale) = &mut seq.stale {
                        stale.receive(first, &shares);
                    }
                }
                None => {}
            }
        }
    }

    fn looks(&self) -> Vec<Look> {
        let mut looks = Vec::new();
        for (segment, (row0, s)) in self.starts().enumerate().filter(|(_, (_, s))| s.rows > 0) {
            for head in 0..self.geometry.kv_heads {
                let own = |rows: Range<usize>| Own { segment, head, rows: row0 + rows.start..row0 + rows.end };
                if let Some(chunks) = &s.seq.chunks {
                    let places = self.places_of(segment, head);
                    for (chunk, span) in chunks.wanted() {
                        let within = places.within(0..s.rows, span.clone());
                        for first in within.clone().step_by(ROWS) {
                            let rows = first..(first + ROWS).min(within.end);
                            looks.push(Look { own: own(rows), what: What::Chunk(chunk) });
                        }
                    }
                }
                if let Some(stale) = s.seq.stale_rows() {
                    for first in (0..stale.len()).step_by(COLUMNS) {
                        let some = first..(first + COLUMNS).min(stale.len());
                        looks.push(Look { own: own(0..s.rows), what: What::Stale(some) });
                    }
                }
            }
        }
        looks
    }

    fn look(&self, look: &Look, rows: usize, q: &[f32], ends: &[f32], tiles: Option<&Angles>) -> Seen {
        let (g, own) = (self.geometry, &look.own);
        let block = self.block(own, rows, q, tiles);
        let vectors = block.vectors();
        let ends = &ends[2 * (own.head * rows + own.rows.start) * g.group()..][..2 * vectors];
        let seq = &*self.segments[own.segment].seq;
        thread_local! {
            static LOCAL: RefCell<Local> = RefCell::default();
        }
        LOCAL.with_borrow_mut(|local| {
            let mut prepared = std::mem::take(&mut local.prepared);
            if let Some(body) = &block.lane.plan.body {
                body.k.prepare(self.isa, block.q, vectors, &mut prepared);
            }
            let mut each = |page: usize, add: &mut dyn FnMut(&PageShares<'_>)| {
                block.shares(page, ends, &prepared, local, |shares| add(&shares));
            };
            let seen = match &look.what {
                What::Chunk(chunk) => {
                    let spans: Vec<&Range<usize>> = seq.chunks.iter().flat_map(|chunks| chunks.spans()).collect();
                    let count = own.rows.len();
                    let (mut to, mut outside) = (vec![0.0; chunk + 1], vec![0.0; count]);
                    let mut sums = vec![0.0; vectors];
                    for (at, span) in spans.iter().take(chunk + 1).enumerate() {
                        sums.fill(0.0);
                        for page in span.start / PAGE_TOKENS..span.end.div_ceil(PAGE_TOKENS) {
                            let start = page * PAGE_TOKENS;
                            let (from, end) = (span.start.max(start) - start, span.end - start);
                            each(page, &mut |shares| {
                                add_rows(self.isa, shares.scores(), from, end.min(PAGE_TOKENS), &mut sums)
                            });
                        }
                        to[at] += sums.iter().sum::<f64>();
                        if at < *chunk {
                            let of_row = sums.chunks_exact(g.group()).map(|row| row.iter().sum::<f64>());
                            outside.iter_mut().zip(of_row).for_each(|(to, sum)| *to += sum);
                        }
                    }
                    let positions = (0..count).map(|row| block.places.slot(row)).collect();
                    Seen::Part(Part { chunk: *chunk, to, outside, positions })
                }
                What::Stale(some) => {
                    let stale = &seq.stale_rows().unwrap_or_default()[some.clone()];
                    let mut received = vec![0.0; stale.len()];
                    let mut first = 0;
                    for run in stale.chunk_by(|a, b| *a as usize / PAGE_TOKENS == *b as usize / PAGE_TOKENS) {
                        let to = &mut received[first..first + run.len()];
                        first += run.len();
                        each(run[0] as usize / PAGE_TOKENS, &mut |shares| {
                            for row in shares.rows() {
                                for (to, &position) in to.iter_mut().zip(run) {
                                    *to += (f64::from(row[position as usize % PAGE_TOKENS]) + ROUNDING) - ROUNDING;
                                }
                            }
                        });
                    }
                    Seen::Received(some.start, received)
                }
            };
            local.prepared = prepared;
            self.local_peak.fetch_max(local.bytes() as u64, std::sync::atomic::Ordering::Relaxed);
            seen
        })
    }
}

dispatch! {
    /// Adds the shares of some slots of a page, rounded, for every row of [`PAGE_TOKENS`] of them.
    fn add_rows(shares: &[f32], from: usize, end: usize, sums: &mut [f64]) = add_rows_body
}

/// # Safety
/// `S`'s instructions are present: the compiler makes use of them.
#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)]
unsafe fn add_rows_body<S: Simd>(shares: &[f32], from: usize, end: usize, sums: &mut [f64]) {
    for (row, to) in shares.chunks_exact(PAGE_TOKENS).zip(sums) {
        // Exact, so in any order.
        let mut parts = [0.0f64; LANES];
        let slots = row[from..end].chunks_exact(LANES);
        let rest = slots.remainder();
        for slots in slots {
            parts.iter_mut().zip(slots).for_each(|(to, &x)| *to += (f64::from(x) + ROUNDING) - ROUNDING);
        }
        *to += parts.iter().sum::<f64>();
        *to += rest.iter().map(|&x| (f64::from(x) + ROUNDING) - ROUNDING).sum::<f64>();
    }
}
