//! **attend**: how the cache is read. One layer of one step, for all segments of the batch.
//!
//! Passes, each a parallel region: keys and values are rotated and appended, queries rotated and scaled; pages that leave
//! the window are encoded; rows attend, page by page; partial results are merged. Few rows (a decode step) are divided by splits of the context, many
//! rows (a prefill chunk) by rows; both take the same steps in the same order for a row, so the bits are the same.

mod append;
mod block;
mod columns;
mod company;
mod course;
mod disjoint;
mod encode;
mod join;
mod local;
mod merge;
mod parallel;
mod place;
mod repeated;
mod run;
mod shares;
mod tasks;
mod watched;

use crate::encode::pipeline::Prepared;
use crate::pool::ledger::{Ledger, Purpose, Reservation};
use crate::rope::Angles;
use crate::{KvError, LayerGeometry, Segment};
use block::Block;
pub(crate) use block::extend;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::{Isa, Team};
use disjoint::Disjoint;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

/// Buffers that live from step to step; counted in the ledger as [`Purpose::Scratch`].
pub(crate) struct Scratch {
    ledger: Ledger,
    held: Option<Reservation>,
    /// Rotated and scaled queries, `[kv_head][row][group][width]`.
    q: Vec<f32>,
    /// Partial results of split tasks.
    partial: Vec<f32>,
    /// Maximum and sum of every query vector's softmax, `[kv_head][row][group][2]`, where a sequence gathers columns.
    ends: Vec<f32>,
    /// Queries of companies, `[member][row][group][width]` each.
    gathered: Vec<f32>,
    /// Queries as the body format wants them: those of units, then those of companies.
    prepared: Vec<Mutex<Prepared>>,
}

impl Scratch {
    pub(crate) fn new(ledger: &Ledger) -> Scratch {
        Scratch {
            ledger: ledger.clone(),
            held: None,
            q: Vec::new(),
            partial: Vec::new(),
            ends: Vec::new(),
            gathered: Vec::new(),
            prepared: Vec::new(),
        }
    }

    fn resize(&mut self, q: usize, partial: usize, ends: usize, gathered: usize) {
        let mut floats = 0;
        let buffers = [&mut self.q, &mut self.partial, &mut self.ends, &mut self.gathered];
        for (buffer, len) in buffers.into_iter().zip([q, partial, ends, gathered]) {
            buffer.resize(len, 0.0);
            floats += buffer.capacity();
        }
        let bytes = 4 * floats as u64;
        if self.held.as_ref().map(Reservation::bytes) != Some(bytes) {
            self.held = None;
            self.held = self.ledger.reserve(Purpose::Scratch, bytes).ok();
        }
    }
}

pub(crate) struct Attention<'a, 'b> {
    pub(crate) team: &'a Team,
    pub(crate) isa: Isa,
    pub(crate) layer: usize,
    pub(crate) geometry: &'a LayerGeometry,
    pub(crate) segments: &'a mut [Segment<'b>],
    /// The most bytes of buffers that any thread held.
    pub(crate) local_peak: &'a AtomicU64,
    /// Whether sequences read pages that they share together.
    pub(crate) sharing: bool,
    /// Pages that companies spared their members.
    pub(crate) spared: &'a AtomicU64,
}

/// Some rows of one segment, and the lane they attend to.
#[derive(Clone)]
struct Own {
    segment: usize,
    head: usize,
    /// Rows of the step.
    rows: Range<usize>,
}

/// What the second pass reads beside the pages.
struct Input<'a> {
    /// Rows of the step.
    rows: usize,
    /// See [`Scratch::q`], and the fields below there.
    q: &'a [f32],
    gathered: &'a [f32],
    prepared: &'a [&'a Prepared],
    tiles: Option<&'a Angles>,
}

/// Where finished rows go.
struct Results<'a> {
    /// Rows of the step.
    rows: usize,
    out: Disjoint<'a, f32>,
    /// See [`Scratch::ends`]; empty where nobody wants them.
    ends: Disjoint<'a, f32>,
}

impl Attention<'_, '_> {
    pub(crate) fn run(
        mut self,
        scratch: &mut Scratch,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &mut [f32],
    ) -> Result<usize, KvError> {
        let g = self.geometry;
        let rows: usize = self.segments.iter().map(|s| s.rows).sum();
        self.check(rows, q, k, v, out)?;
        let tasks = self.tasks();
        let gathers = self.gathers();
        let watches = self.watches();
        let ends = if gathers || watches { 2 * rows * g.heads } else { 0 };
        scratch.resize(rows * g.heads * g.width(), tasks.partials, ends, tasks.gathered);
        self.append(rows, q, k, v, &mut scratch.q);
        let odd = self.encode()?;
        let queries = &scratch.q[..];
        self.prepare(&tasks, rows, queries, &mut scratch.gathered, &mut scratch.prepared);
        let prepared: Vec<_> =
            scratch.prepared.iter().map(|p| p.lock().unwrap_or_else(PoisonError::into_inner)).collect();
        let prepared: Vec<&Prepared> = prepared.iter().map(|p| &**p).collect();
        let tiles = self.tiles();
        let tiles = tiles.as_deref();
        let input = Input { rows, q: queries, gathered: &scratch.gathered, prepared: &prepared, tiles };
        let partial = Disjoint::new(&mut scratch.partial);
        let result = Results { rows, out: Disjoint::new(out), ends: Disjoint::new(&mut scratch.ends) };
        self.team.for_each(tasks.len(), |i| self.run_task(&tasks, i, &input, &partial, &result));
        self.merge(&tasks, &input, &partial, &result);
        if gathers {
            self.gather(rows, &scratch.q, &scratch.ends, tiles);
        }
        if watches {
            self.watch(rows, &scratch.q, &scratch.ends, tiles);
        }
        self.let_go();
        self.observe(rows, q, &scratch.q);
        Ok(odd)
    }

    fn check(&mut self, rows: usize, q: &[f32], k: &[f32], v: &[f32], out: &[f32]) -> Result<(), KvError> {
        let g = self.geometry;
        let (wide, narrow) = (rows * g.heads * g.head_dim, rows * g.kv_heads * g.head_dim);
        if q.len() != wide || out.len() != wide || k.len() != narrow || v.len() != narrow {
            let lens = [q.len(), k.len(), v.len(), out.len()];
            return Err(KvError::Misuse(format!("q, k, v, out of {lens:?} values for {rows} rows of {g:?}")));
        }
        for segment in self.segments.iter_mut().filter(|s| s.rows > 0) {
            let (from, to) = (segment.seq.len, segment.seq.len + segment.rows);
            if segment.rows > segment.seq.rows_to_reduction() {
                return Err(KvError::Misuse(format!("the tokens {from}..{to} reach beyond the end of the context")));
            }
            if let Some(rows) = segment.seq.mended() {
                for (head, &row) in (0..g.kv_heads).flat_map(|head| rows[..segment.rows].iter().map(move |r| (head, r)))
                {
                    let page = row as usize / PAGE_TOKENS;
                    if segment.seq.lane(self.layer, head).writable(page).is_none() {
                        return Err(KvError::Misuse(format!("token {row} cannot be computed over what is there")));
                    }
                }
                continue;
            }
            for head in 0..g.kv_heads {
                let lane = segment.seq.lane(self.layer, head);
                let pages = lane.slots(from) / PAGE_TOKENS..lane.slots(to).div_ceil(PAGE_TOKENS);
                let bytes = lane.exact_bytes();
                while segment.seq.lane(self.layer, head).end() < pages.end {
                    let Some(page) = segment.seq.take_spare(bytes) else { break };
                    segment.seq.lane_mut(self.layer, head).push(page);
                }
                let lane = segment.seq.lane(self.layer, head);
                if !pages.clone().all(|page| lane.writable(page).is_some()) {
                    return Err(KvError::Misuse(format!("no room reserved for the tokens {from}..{to}")));
                }
            }
        }
        Ok(())
    }

    /// The first row of each segment within the step, with the segment.
    fn starts(&self) -> impl Iterator<Item = (usize, &Segment<'_>)> {
        self.segments.iter().scan(0, |row, segment| {
            *row += segment.rows;
            Some((*row - segment.rows, segment))
        })
    }

    /// Shows the queries to those sequences that gather them.
    fn observe(&mut self, rows: usize, plain: &[f32], q: &[f32]) {
        let (mut first, wide) = (0, self.geometry.heads * self.geometry.head_dim);
        for Segment { seq, rows: count } in self.segments.iter_mut() {
            // Rows that are mended are not those that a recipe looks at.
            if seq.mended().is_none()
                && let Some(observed) = seq.pending.as_mut().and_then(|pending| pending.observed.as_mut())
            {
                observed.push(self.layer, self.geometry, q, rows, first, *count);
                observed.push_plain(
                    self.layer,
                    self.geometry,
                    &plain[first * wide..][..*count * wide],
                    seq.len,
                    self.team,
                );
            }
            first += *count;
        }
    }

    /// Cosines and sines of all pages, where a body keeps keys before rotary position.
    fn tiles(&self) -> Option<std::sync::Arc<Angles>> {
        let before = |s: &Segment<'_>| {
            let mut bodies = (0..self.geometry.kv_heads).filter_map(|h| s.seq.lane(self.layer, h).plan.body.as_ref());
            bodies.any(|body| body.k.before_rope())
        };
        let end = self.segments.iter().filter(|s| before(s)).map(|s| s.seq.len + s.rows).max()?;
        Some(self.geometry.rope.as_ref()?.tiles(end))
    }

    fn block<'c>(&'c self, own: &Own, rows: usize, q: &'c [f32], tiles: Option<&'c Angles>) -> Block<'c> {
        let g = self.geometry;
        let (seq, group, width) = (&*self.segments[own.segment].seq, g.group(), g.width());
        Block {
            isa: self.isa,
            lane: seq.lane(self.layer, own.head),
            q: &q[(own.head * rows + own.rows.start) * group * width..][..own.rows.len() * group * width],
            geometry: g,
            places: self.places(own),
            whole: false,
            slots: 0..usize::MAX,
            tiles,
        }
    }
}
