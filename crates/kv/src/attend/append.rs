//! The rows of a step: rotated, and written to their slots.

use super::Attention;
use super::disjoint::Disjoint;
use crate::Segment;
use crate::encode::{read_keys, read_values};
use crate::mend::Deviation;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::ops::Range;

/// Rows below which the pass is not worth waking the team.
const ALONE: usize = 8;

/// Rows of one page of one KV head.
struct Append {
    segment: usize,
    head: usize,
    page: usize,
    /// First row of the segment within the step.
    row0: usize,
    /// Rows of the segment.
    rows: Range<usize>,
    /// What of them is compared with what they are written over.
    compares: Option<Deviation>,
}

impl Attention<'_, '_> {
    pub(super) fn append(&mut self, rows: usize, q: &[f32], k: &[f32], v: &[f32], queries: &mut [f32]) {
        let tasks = self.appends();
        let compared = tasks.iter().any(|task| task.compares.is_some());
        let heads = self.geometry.kv_heads;
        let mut deviations = vec![0.0; if compared { rows * heads } else { 0 }];
        {
            let (queries, to) = (Disjoint::new(queries), Disjoint::new(&mut deviations));
            let run = |i: usize| self.append_page(&tasks[i], rows, [q, k, v], &queries, &to);
            if rows < ALONE { (0..tasks.len()).for_each(run) } else { self.team.for_each(tasks.len(), run) }
        }
        if compared {
            self.tell_deviations(rows, &deviations);
        }
    }

    fn appends(&self) -> Vec<Append> {
        let mut tasks = Vec::new();
        for (segment, (row0, s)) in self.starts().enumerate().filter(|(_, (_, s))| s.rows > 0) {
            let compares = s.seq.compares(self.layer);
            for head in 0..self.geometry.kv_heads {
                let places = self.places_of(segment, head);
                let mut rows = 0..s.rows;
                while !rows.is_empty() {
                    let page = places.slot(rows.start) / PAGE_TOKENS;
                    let here = places.within(rows.clone(), page * PAGE_TOKENS..(page + 1) * PAGE_TOKENS);
                    rows.start = here.end;
                    tasks.push(Append { segment, head, page, row0, rows: here, compares });
                }
            }
        }
        tasks
    }

    fn append_page(
        &self,
        task: &Append,
        rows: usize,
        [q, k, v]: [&[f32]; 3],
        queries: &Disjoint<'_, f32>,
        deviations: &Disjoint<'_, f32>,
    ) {
        let Append { segment, head, page, row0, .. } = *task;
        let g = self.geometry;
        let seq = &*self.segments[segment].seq;
        let (lane, places) = (seq.lane(self.layer, head), self.places_of(segment, head));
        let last = |s: &Segment<'_>| s.seq.staged().unwrap_or(0).max(s.seq.len + s.rows);
        let table = g.rope.as_ref().map(|rope| rope.table(last(&self.segments[segment])));
        let rotate = |position: usize, x: &mut [f32]| {
            if let (Some(rope), Some(table)) = (&g.rope, &table) {
                rope.rotate(table, position, x);
            }
        };
        let (dim, width, group) = (g.head_dim, g.width(), g.group());
        let mut local = vec![0.0; 2 * task.rows.len() * width];
        let (keys, values) = local.split_at_mut(task.rows.len() * width);
        for (i, own) in task.rows.clone().enumerate() {
            let (row, at) = (row0 + own, i * width);
            let position = lane.position(places.slot(own));
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
        if let Some(of) = task.compares {
            let at = head * rows + row0 + task.rows.start;
            // SAFETY: row and head belong to this task alone.
            let to = unsafe { deviations.part(at..at + task.rows.len()) };
            self.compare(task, of, (keys, values), to);
        }
        let Some(page) = lane.writable(page) else { return };
        // Consecutive slots together.
        let slots: Vec<usize> = task.rows.clone().map(|row| places.slot(row) % PAGE_TOKENS).collect();
        let mut first = 0;
        for run in slots.chunk_by(|a, b| a + 1 == *b) {
            let span = first * width..(first + run.len()) * width;
            // SAFETY: this task alone has these rows of this page; nobody reads it in this pass.
            unsafe { page.write(&keys[span.clone()], &values[span], run[0]) };
            first += run.len();
        }
    }

    /// How far rows are from what they are about to replace.
    fn compare(&self, task: &Append, of: Deviation, (keys, values): (&[f32], &[f32]), to: &mut [f32]) {
        let (dim, width) = (self.geometry.head_dim, self.geometry.width());
        let lane = self.segments[task.segment].seq.lane(self.layer, task.head);
        let places = self.places_of(task.segment, task.head);
        let Some(view) = lane.exact(task.page) else { return };
        let mut old = vec![0.0; PAGE_TOKENS * dim];
        let mut add = |old: &[f32], new: &[f32]| {
            for ((row, new), to) in task.rows.clone().zip(new.chunks_exact(width)).zip(to.iter_mut()) {
                let old = &old[places.slot(row) % PAGE_TOKENS * dim..][..dim];
                *to += old.iter().zip(new).map(|(old, new)| (old - new) * (old - new)).sum::<f32>();
            }
        };
        if of != Deviation::Values {
            read_keys(view.k_element, view.k, width, dim, &mut old);
            add(&old, keys);
        }
        if of != Deviation::Keys {
            read_values(view.v_element, view.v, width, dim, &mut old);
            add(&old, values);
        }
    }

    /// Gives sequences the deviations of their rows, `[kv_head][rows]`, added up over heads.
    fn tell_deviations(&mut self, rows: usize, deviations: &[f32]) {
        let (heads, layer, mut row0) = (self.geometry.kv_heads, self.layer, 0);
        for segment in self.segments.iter_mut() {
            let own = row0..row0 + segment.rows;
            row0 = own.end;
            if segment.seq.compares(layer).is_some() {
                let sum = |row: usize| (0..heads).map(|head| deviations[head * rows + row]).sum();
                segment.seq.deviate(&own.map(sum).collect::<Vec<f32>>());
            }
        }
    }
}
