//! **attend**: how the cache is read. One layer of one step, for all segments of the batch.
//!
//! Passes, each a parallel region: keys and values are rotated and appended, queries rotated and scaled; pages that leave
//! the window are encoded; rows attend, page by page; partial results are merged. Few rows (a decode step) are divided by splits of the context, many
//! rows (a prefill chunk) by rows; both take the same steps in the same order for a row, so the bits are the same.

mod block;
mod columns;
mod disjoint;
mod encode;
mod repeated;

use crate::encode::pipeline::Prepared;
use crate::pool::ledger::{Ledger, Purpose, Reservation};
use crate::{KvError, LayerGeometry, Segment};
use block::Block;
pub(crate) use block::extend;
use cachalot_kernels::attention::{DIRECT_ROWS, PAGE_TOKENS, Rows, SPLIT_PAGES};
use cachalot_kernels::{Isa, Team};
use disjoint::Disjoint;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Fewest and most query vectors (rows times the heads of a group) that a prefill task attends for at once: the more
/// they are, the less the decoding of a page weighs; the fewer, the better threads share the work.
const BLOCK_VECTORS: [usize; 2] = [48, 192];
/// Prefill tasks that a thread should have at least, where blocks above the smallest leave so many.
const TASKS_OF_A_THREAD: usize = 8;
/// Rows below which the append pass is not worth waking the team.
const APPEND_ALONE: usize = 8;

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
    /// Queries of split tasks as the body format wants them, `[segment][kv_head]`.
    prepared: Vec<Mutex<Prepared>>,
}

impl Scratch {
    pub(crate) fn new(ledger: &Ledger) -> Scratch {
        let ledger = ledger.clone();
        Scratch { ledger, held: None, q: Vec::new(), partial: Vec::new(), ends: Vec::new(), prepared: Vec::new() }
    }

    fn resize(&mut self, q: usize, partial: usize, ends: usize) {
        self.q.resize(q, 0.0);
        self.partial.resize(partial, 0.0);
        self.ends.resize(ends, 0.0);
        let bytes = 4 * (self.q.capacity() + self.partial.capacity() + self.ends.capacity()) as u64;
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
}

/// Rows of one page of one KV head to append.
struct Append {
    segment: usize,
    head: usize,
    page: usize,
    /// First row of the segment within the step.
    row0: usize,
}

/// A part of the attention of some rows with one KV head.
struct Task {
    segment: usize,
    head: usize,
    /// Rows of the step.
    rows: Range<usize>,
    /// Splits of the context.
    splits: Range<usize>,
    /// Where the partial result goes; `None` where the task sees all splits and finishes the rows itself.
    partial: Option<usize>,
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
        let (tasks, partials) = self.tasks();
        let gathers = self.gathers();
        scratch.resize(rows * g.heads * g.width(), partials, if gathers { 2 * rows * g.heads } else { 0 });
        self.append(rows, q, k, v, &mut scratch.q);
        let odd = self.encode()?;
        let queries = &scratch.q[..];
        self.prepare(&tasks, rows, queries, &mut scratch.prepared);
        let prepared: Vec<_> =
            scratch.prepared.iter().map(|p| p.lock().unwrap_or_else(PoisonError::into_inner)).collect();
        let prepared: Vec<&Prepared> = prepared.iter().map(|p| &**p).collect();
        let tiles = self.tiles();
        let partial = Disjoint::new(&mut scratch.partial);
        let result = Results { rows, out: Disjoint::new(out), ends: Disjoint::new(&mut scratch.ends) };
        let tiles = tiles.as_ref().map(|tiles| &tiles[..]);
        self.team.for_each(tasks.len(), |i| {
            let task = &tasks[i];
            let prepared = prepared.get(task.segment * self.geometry.kv_heads + task.head).copied();
            self.attend(task, self.block(task, rows, queries, tiles), prepared, &partial, &result);
        });
        self.merge(&tasks, &partial, &result);
        if gathers {
            self.gather(rows, &scratch.q, &scratch.ends, tiles);
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

    fn append(&self, rows: usize, q: &[f32], k: &[f32], v: &[f32], queries: &mut [f32]) {
        let g = self.geometry;
        let last = |s: &Segment<'_>| s.seq.staged().unwrap_or(0).max(s.seq.len + s.rows);
        let end = self.segments.iter().map(last).max().unwrap_or(0);
        let table = g.rope.as_ref().map(|rope| rope.table(end));
        let mut tasks = Vec::new();
        for (segment, (row0, s)) in self.starts().enumerate().filter(|(_, (_, s))| s.rows > 0) {
            for head in 0..g.kv_heads {
                let lane = s.seq.lane(self.layer, head);
                let pages = lane.slots(s.seq.len) / PAGE_TOKENS..lane.slots(s.seq.len + s.rows).div_ceil(PAGE_TOKENS);
                tasks.extend(pages.map(|page| Append { segment, head, page, row0 }));
            }
        }
        let queries = Disjoint::new(queries);
        let run = |i: usize| {
            let Append { segment, head, page, row0 } = tasks[i];
            let seq = &*self.segments[segment].seq;
            let dropped = seq.lane(self.layer, head).dropped();
            let start = (page * PAGE_TOKENS + dropped).max(seq.len);
            let end = ((page + 1) * PAGE_TOKENS + dropped).min(seq.len + self.segments[segment].rows);
            let rotate = |position: usize, x: &mut [f32]| {
                if let (Some(rope), Some(table)) = (&g.rope, &table) {
                    rope.rotate(table, position, x);
                }
            };
            let (dim, width, group) = (g.head_dim, g.width(), g.group());
            let mut local = vec![0.0; 2 * (end - start) * width];
            let (keys, values) = local.split_at_mut((end - start) * width);
            for token in start..end {
                let row = row0 + token - seq.len;
                let at = (token - start) * width;
                let position = seq.lane(self.layer, head).position(token - dropped);
                let from = (row * g.kv_heads + head) * dim;
                keys[at..at + dim].copy_from_slice(&k[from..from + dim]);
                rotate(position, &mut keys[at..at + dim]);
                values[at..at + dim].copy_from_slice(&v[from..from + dim]);
                let to = (head * rows + row) * group * width;
                // SAFETY: row and head belong to this task alone.
                let to = unsafe { queries.part(to..to + group * width) };
                for (i, to) in to.chunks_exact_mut(width).enumerate() {
                    let from = (row * g.heads + head * group + i) * dim;
                    to[..dim].copy_from_slice(&q[from..from + dim]);
                    to[dim..].fill(0.0);
                    rotate(position, &mut to[..dim]);
                    to[..dim].iter_mut().for_each(|x| *x *= g.scale);
                }
            }
            if let Some(page) = seq.lane(self.layer, head).writable(page) {
                // SAFETY: this task alone has these rows of this page; nobody reads it in this pass.
                unsafe { page.write(keys, values, (start - dropped) % PAGE_TOKENS) };
            }
        };
        if rows < APPEND_ALONE { (0..tasks.len()).for_each(run) } else { self.team.for_each(tasks.len(), run) }
    }

    /// Shows the queries to those sequences that gather them.
    fn observe(&mut self, rows: usize, plain: &[f32], q: &[f32]) {
        let (mut first, wide) = (0, self.geometry.heads * self.geometry.head_dim);
        for Segment { seq, rows: count } in self.segments.iter_mut() {
            if let Some(observed) = seq.pending.as_mut().and_then(|pending| pending.observed.as_mut()) {
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

    /// What the second pass consists of, and the `f32`s that its partial results take.
    fn tasks(&self) -> (Vec<Task>, usize) {
        let g = self.geometry;
        let mut tasks = Vec::new();
        let mut partials = 0;
        let vectors = g.heads * self.segments.iter().map(|s| s.rows).sum::<usize>();
        let [fewest, most] = BLOCK_VECTORS;
        let vectors = (vectors / (self.team.threads() * TASKS_OF_A_THREAD)).clamp(fewest, most) / fewest * fewest;
        for (segment, (row0, s)) in self.starts().enumerate() {
            let by_split = s.rows * g.group() <= DIRECT_ROWS;
            let block = if by_split { s.rows.max(1) } else { (vectors / g.group()).max(1) };
            for first in (0..s.rows).step_by(block) {
                let last = (first + block).min(s.rows) - 1;
                let seen = g.window.map_or(0, |window| (s.seq.len + first + 1).saturating_sub(window));
                let span = PAGE_TOKENS * SPLIT_PAGES;
                let rows = row0 + first..row0 + last + 1;
                for head in 0..g.kv_heads {
                    let splits = seen / span..s.seq.lane(self.layer, head).slots(s.seq.len + last) / span + 1;
                    let task = |splits, partial| Task { segment, head, rows: rows.clone(), splits, partial };
                    if by_split && splits.len() > 1 {
                        for split in splits.clone() {
                            tasks.push(task(split..split + 1, Some(partials)));
                            partials += Block::state_len(rows.len() * g.group(), g.width());
                        }
                    } else {
                        tasks.push(task(splits.clone(), None));
                    }
                }
            }
        }
        (tasks, partials)
    }

    /// Cosines and sines of all pages, where a body keeps keys before rotary position.
    fn tiles(&self) -> Option<std::sync::Arc<Vec<f32>>> {
        let before = |s: &Segment<'_>| {
            let mut bodies = (0..self.geometry.kv_heads).filter_map(|h| s.seq.lane(self.layer, h).plan.body.as_ref());
            bodies.any(|body| body.k.before_rope())
        };
        let end = self.segments.iter().filter(|s| before(s)).map(|s| s.seq.len + s.rows).max()?;
        Some(self.geometry.rope.as_ref()?.tiles(end))
    }

    fn block<'c>(&'c self, task: &Task, rows: usize, q: &'c [f32], tiles: Option<&'c [f32]>) -> Block<'c> {
        let g = self.geometry;
        let (seq, group, width) = (&*self.segments[task.segment].seq, g.group(), g.width());
        let row0: usize = self.segments[..task.segment].iter().map(|s| s.rows).sum();
        let lane = seq.lane(self.layer, task.head);
        Block {
            isa: self.isa,
            lane,
            q: &q[(task.head * rows + task.rows.start) * group * width..][..task.rows.len() * group * width],
            geometry: g,
            first: lane.slots(seq.len) + task.rows.start - row0,
            tiles,
        }
    }

    /// The queries of split tasks as their body format wants them: once for all splits.
    fn prepare(&self, tasks: &[Task], rows: usize, q: &[f32], prepared: &mut Vec<Mutex<Prepared>>) {
        let kv_heads = self.geometry.kv_heads;
        prepared.resize_with(self.segments.len() * kv_heads, Mutex::default);
        let mut done = None;
        for task in tasks.iter().filter(|task| task.partial.is_some()) {
            let at = task.segment * kv_heads + task.head;
            let lane = self.segments[task.segment].seq.lane(self.layer, task.head);
            if let (Some(body), true) = (&lane.plan.body, done.replace(at) != Some(at)) {
                let block = self.block(task, rows, q, None);
                let mut to = prepared[at].lock().unwrap_or_else(PoisonError::into_inner);
                body.k.prepare(self.isa, block.q, block.vectors(), &mut to);
            }
        }
    }

    fn attend(
        &self,
        task: &Task,
        block: Block<'_>,
        prepared: Option<&Prepared>,
        partial: &Disjoint<'_, f32>,
        out: &Results<'_>,
    ) {
        let width = self.geometry.width();
        thread_local! {
            static LOCAL: RefCell<block::Local> = RefCell::default();
        }
        LOCAL.with_borrow_mut(|local| {
            match task.partial {
                Some(at) => {
                    let Some(prepared) = prepared else { return };
                    // SAFETY: every task has a part of its own.
                    let state = unsafe { partial.part(at..at + Block::state_len(block.vectors(), width)) };
                    block.split(task.splits.start, prepared, local, &mut Block::state(block.vectors(), state));
                }
                None => {
                    let mut total = std::mem::take(&mut local.total);
                    total.resize(Block::state_len(block.vectors(), width), 0.0);
                    let mut prepared = std::mem::take(&mut local.prepared);
                    if let Some(body) = &block.lane.plan.body {
                        body.k.prepare(self.isa, block.q, block.vectors(), &mut prepared);
                    }
                    block.all(task.splits.clone(), &prepared, local, &mut Block::state(block.vectors(), &mut total));
                    local.prepared = prepared;
                    self.finish(task, &Block::state(block.vectors(), &mut total), out);
                    local.total = total;
                }
            }
            self.local_peak.fetch_max(local.bytes() as u64, Relaxed);
        });
    }

    /// Merges what split tasks left, in the order of the splits.
    fn merge(&self, tasks: &[Task], partial: &Disjoint<'_, f32>, out: &Results<'_>) {
        let g = self.geometry;
        let same = |a: &Task, b: &Task| a.rows == b.rows && a.head == b.head && b.partial.is_some();
        let groups: Vec<&[Task]> = tasks.chunk_by(same).filter(|tasks| tasks[0].partial.is_some()).collect();
        let run = |i: usize| {
            let tasks: &[Task] = groups[i];
            let vectors = tasks[0].rows.len() * g.group();
            let len = Block::state_len(vectors, g.width());
            let mut total = vec![0.0; len];
            let mut total = Block::state(vectors, &mut total);
            total.clear();
            for at in tasks.iter().filter_map(|task| task.partial) {
                // SAFETY: this group's parts belong to this task alone in this pass.
                let part = unsafe { partial.part(at..at + len) };
                total.merge(self.isa, &Block::state(vectors, part));
            }
            self.finish(&tasks[0], &total, out);
        };
        (0..groups.len()).for_each(run);
    }

    fn finish(&self, task: &Task, total: &Rows<'_>, to: &Results<'_>) {
        let g = self.geometry;
        for (i, row) in task.rows.clone().enumerate() {
            for head in 0..g.group() {
                let vector = i * g.group() + head;
                let at = (row * g.heads + task.head * g.group() + head) * g.head_dim;
                // SAFETY: row and head belong to this task alone.
                total.finish(vector, unsafe { to.out.part(at..at + g.head_dim) });
                if to.ends.len() > 0 {
                    let at = 2 * ((task.head * to.rows + row) * g.group() + head);
                    // SAFETY: as above.
                    unsafe { to.ends.part(at..at + 2) }.copy_from_slice(&[total.max[vector], total.sum[vector]]);
                }
            }
        }
    }
}
