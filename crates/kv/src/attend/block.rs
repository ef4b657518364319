//! Some rows of one sequence with one KV head, over splits of the context.

use crate::LayerGeometry;
use crate::encode::codec::{Work, bytes_of};
use crate::encode::pipeline::{Pipeline, Prepared};
use crate::lane::Lane;
use crate::plan::Body;
use cachalot_kernels::attention::{
    DIRECT_ROWS, Element, PAGE_TOKENS, PageView, Rows, SPLIT_PAGES, Visible, accumulate_page, attend_page, score_page,
    soften, widen_page,
};
use cachalot_kernels::simd::{LANES, Simd};
use cachalot_kernels::{Isa, dispatch, prefetch};
use std::ops::Range;

/// Buffers of one thread: one page decoded, one block's scores and results. Nothing here grows with the context.
#[derive(Default)]
pub(super) struct Local {
    pub(super) total: Vec<f32>,
    pub(super) prepared: Prepared,
    part: Vec<f32>,
    body: Vec<f32>,
    scores: Vec<f32>,
    visible: Vec<Visible>,
    k: Vec<f32>,
    v: Vec<f32>,
    work: Work,
}

impl Local {
    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let floats = [&self.total, &self.part, &self.body, &self.scores, &self.k, &self.v];
        4 * floats.map(Vec::capacity).iter().sum::<usize>() + 2 * self.visible.capacity() + self.work.bytes()
    }
}

pub(super) struct Block<'a> {
    pub(super) isa: Isa,
    pub(super) lane: &'a Lane,
    /// `[rows][group][width]`, rotated and scaled.
    pub(super) q: &'a [f32],
    pub(super) geometry: &'a LayerGeometry,
    /// Position of the first row.
    pub(super) first: usize,
    /// Cosines and sines of pages, where a format keeps keys before rotary position.
    pub(super) tiles: Option<&'a [f32]>,
}

impl Block<'_> {
    /// Query vectors: rows times the heads of the group.
    pub(super) fn vectors(&self) -> usize {
        self.q.len() / self.geometry.width()
    }

    /// `f32`s of the state of so many query vectors.
    pub(super) fn state_len(vectors: usize, width: usize) -> usize {
        vectors * (2 + width)
    }

    /// The state that lies in `buffer`.
    pub(super) fn state(vectors: usize, buffer: &mut [f32]) -> Rows<'_> {
        let (max, rest) = buffer.split_at_mut(vectors);
        let (sum, out) = rest.split_at_mut(vectors);
        Rows { max, sum, out }
    }

    /// All splits, each with a softmax of its own, merged in order.
    pub(super) fn all(&self, splits: Range<usize>, prepared: &Prepared, local: &mut Local, total: &mut Rows<'_>) {
        total.clear();
        let mut part = std::mem::take(&mut local.part);
        part.resize(Self::state_len(self.vectors(), self.geometry.width()), 0.0);
        for split in splits {
            let mut part = Self::state(self.vectors(), &mut part);
            self.split(split, prepared, local, &mut part);
            total.merge(self.isa, &part);
        }
        local.part = part;
    }

    /// The pages of one split: those of the body in their own format, then the exact ones.
    pub(super) fn split(&self, split: usize, prepared: &Prepared, local: &mut Local, rows: &mut Rows<'_>) {
        rows.clear();
        let pages = split * SPLIT_PAGES..((split + 1) * SPLIT_PAGES).min(self.last() / PAGE_TOKENS + 1);
        local.scores.resize(self.vectors() * PAGE_TOKENS, 0.0);
        if let Some(body) = &self.lane.plan.body {
            let start = pages.start.max(self.lane.plan.sink_pages());
            self.body(body, start..pages.end.min(self.lane.body_end(self.last())), prepared, local, rows);
        }
        self.exact(pages, local, rows);
    }

    /// Position of the last row.
    fn last(&self) -> usize {
        self.first + self.vectors() / self.geometry.group() - 1
    }

    fn position(&self, vector: usize) -> usize {
        self.first + vector / self.geometry.group()
    }

    /// Position in the sequence of a query vector's row.
    pub(super) fn row_position(&self, vector: usize) -> usize {
        self.lane.position(self.position(vector))
    }

    /// Whether a row reads this page in its body format.
    fn reads_body(&self, page: usize, position: usize) -> bool {
        page >= self.lane.plan.sink_pages() && page < self.lane.body_end(position)
    }

    /// What each row sees of a page in one of its forms; whether any row sees anything.
    fn look(&self, page: usize, body: bool, visible: &mut Vec<Visible>) -> bool {
        visible.clear();
        visible.extend((0..self.vectors()).map(|vector| {
            let position = self.position(vector);
            match self.reads_body(page, position) == body {
                true => self.visible(page * PAGE_TOKENS, position),
                false => Visible { from: 0, to: 0 },
            }
        }));
        visible.iter().any(|v| v.from < v.to)
    }

    fn exact(&self, pages: Range<usize>, local: &mut Local, rows: &mut Rows<'_>) {
        let width = self.geometry.width();
        for page in pages {
            if !self.look(page, false, &mut local.visible) {
                continue;
            }
            let Some(view) = self.lane.exact(page) else { continue };
            let many = self.vectors() > DIRECT_ROWS;
            if !many && let Some(next) = self.lane.exact(page + 1) {
                [next.k, next.v].into_iter().for_each(prefetch);
            }
            let wide = view.k_element == Element::F32 && view.v_element == Element::F32;
            let view = if many && !wide { widen(self.isa, view, width, &mut local.k, &mut local.v) } else { view };
            let softcap = self.geometry.softcap.unwrap_or(0.0);
            match self.lane.extra(page) {
                None => attend_page(self.isa, self.q, width, view, &local.visible, softcap, rows, &mut local.scores),
                Some(_) => {
                    score_page(self.isa, self.q, width, view.k, view.k_element, &mut local.scores);
                    let softcap = self.extend(page, &mut local.scores);
                    soften(self.isa, &mut local.scores, &local.visible, softcap, rows);
                    let (v, element) = (view.v, view.v_element);
                    accumulate_page(self.isa, &local.scores, v, element, width, &local.visible, rows.out);
                }
            }
        }
    }

    /// Body pages: scores from the codes, outputs in the basis of the values, brought back to the model's at the end.
    fn body(&self, body: &Body, pages: Range<usize>, prepared: &Prepared, local: &mut Local, rows: &mut Rows<'_>) {
        let (vectors, basis) = (self.vectors(), body.v.basis().width());
        let mut buffer = std::mem::take(&mut local.body);
        buffer.resize(Self::state_len(vectors, basis), 0.0);
        let mut state = Self::state(vectors, &mut buffer);
        state.clear();
        let mut seen = false;
        for page in pages {
            if !self.look(page, true, &mut local.visible) {
                continue;
            }
            let Some((k, v)) = self.lane.body(page) else { continue };
            let next = if vectors <= DIRECT_ROWS { self.lane.body(page + 1) } else { None };
            let (next_k, next_v) = next.unwrap_or_default();
            seen = true;
            // In parts between the work: a processor waits that asks for more lines at once than it can have under way.
            let (first, second) = next_k.split_at(next_k.len() / 2);
            prefetch(first);
            self.score(&body.k, k, page, prepared, local);
            prefetch(second);
            let softcap = self.extend(page, &mut local.scores);
            soften(self.isa, &mut local.scores, &local.visible, softcap, &mut state);
            let (first, second) = next_v.split_at(next_v.len() / 2);
            prefetch(first);
            if body.v.fused() {
                body.v.accumulate(self.isa, v, &local.scores, vectors, &mut local.work, state.out);
            } else {
                local.v.resize(basis * PAGE_TOKENS, 0.0);
                body.v.tile(self.isa, v, &mut local.work, &mut local.v);
                let tile = bytes_of(&local.v);
                accumulate_page(self.isa, &local.scores, tile, Element::F32, basis, &local.visible, state.out);
            }
            prefetch(second);
        }
        if seen {
            let width = self.geometry.width();
            rows.max.copy_from_slice(state.max);
            rows.sum.copy_from_slice(state.sum);
            for vector in 0..vectors {
                let out = &mut rows.out[vector * width..][..width];
                body.v.output(&state.out[vector * basis..][..basis], state.sum[vector], out);
            }
        }
        local.body = buffer;
    }

    /// Adds to the scores of a page what its slots get beyond them; returns the cap that is still to be applied.
    fn extend(&self, page: usize, scores: &mut [f32]) -> f32 {
        extend(self.geometry, self.lane, page, scores)
    }

    /// Shares of attention that the rows give the tokens of a page, where any row sees it: once for each form that rows read
    /// it in. `ends` has maximum and sum of every row's softmax.
    pub(super) fn shares(
        &self,
        page: usize,
        ends: &[f32],
        prepared: &Prepared,
        local: &mut Local,
        mut each: impl FnMut(PageShares<'_>),
    ) {
        let (vectors, width) = (self.vectors(), self.geometry.width());
        local.scores.resize(vectors * PAGE_TOKENS, 0.0);
        for encoded in [true, false] {
            if !self.look(page, encoded, &mut local.visible) {
                continue;
            }
            let body = self.lane.plan.body.as_ref().filter(|_| encoded);
            match (body, self.lane.body(page).filter(|_| encoded), self.lane.exact(page)) {
                (Some(body), Some((k, _)), _) => self.score(&body.k, k, page, prepared, local),
                (None, _, Some(view)) => {
                    let wide = view.k_element == Element::F32 && view.v_element == Element::F32;
                    let many = vectors > DIRECT_ROWS && !wide;
                    let view = if many { widen(self.isa, view, width, &mut local.k, &mut local.v) } else { view };
                    score_page(self.isa, self.q, width, view.k, view.k_element, &mut local.scores);
                }
                _ => continue,
            }
            let softcap = self.extend(page, &mut local.scores);
            let mut max: Vec<f32> = ends.chunks_exact(2).map(|end| end[0]).collect();
            let mut sum = vec![0.0; vectors];
            let mut state = Rows { max: &mut max, sum: &mut sum, out: &mut [] };
            soften(self.isa, &mut local.scores, &local.visible, softcap, &mut state);
            divide(self.isa, &mut local.scores, ends);
            each(PageShares { block: self, scores: &local.scores, visible: &local.visible });
        }
    }

    fn score(&self, k: &Pipeline, page: &[u8], index: usize, prepared: &Prepared, local: &mut Local) {
        if k.fused() {
            k.score(self.isa, page, prepared, &mut local.work, &mut local.scores);
            return;
        }
        local.k.resize(k.basis().width() * PAGE_TOKENS, 0.0);
        k.tile(self.isa, page, &mut local.work, &mut local.k);
        let mut width = k.basis().width();
        if k.before_rope() {
            k.untransform_tile(&mut local.k, &mut local.work.tile);
            width = k.shape().width();
            if let (Some(rope), Some(tiles)) = (&self.geometry.rope, self.tiles) {
                match self.lane.is_moved(index) {
                    false => rope.rotate_tile(self.isa, tiles, index, &mut local.k),
                    true => {
                        let positions = std::array::from_fn(|i| self.lane.position(index * PAGE_TOKENS + i));
                        rope.rotate_tile_at(&positions, &mut local.k);
                    }
                }
            }
        }
        score_page(self.isa, prepared.q(), width, bytes_of(&local.k), Element::F32, &mut local.scores);
        for (scores, &constant) in local.scores.chunks_exact_mut(PAGE_TOKENS).zip(prepared.constant()) {
            if constant != 0.0 {
                scores.iter_mut().for_each(|score| *score += constant);
            }
        }
    }

    /// What the row at `position` sees of the page whose tokens start at `start`.
    fn visible(&self, start: usize, position: usize) -> Visible {
        let from = self.geometry.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let clip = |at: usize| at.saturating_sub(start).min(PAGE_TOKENS) as u8;
        Visible { from: clip(from), to: clip(position + 1) }
    }
}

/// Attention of some rows with one page.
pub(super) struct PageShares<'a> {
    block: &'a Block<'a>,
    scores: &'a [f32],
    visible: &'a [Visible],
}

impl PageShares<'_> {
    /// `[vectors][PAGE_TOKENS]`.
    pub(super) fn scores(&self) -> &[f32] {
        &self.scores[..self.visible.len() * PAGE_TOKENS]
    }

    /// `[PAGE_TOKENS]` for every query vector.
    pub(super) fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.scores.chunks_exact(PAGE_TOKENS).take(self.visible.len())
    }

    /// What a query vector sees of the page, and how many slots it sees in all.
    pub(super) fn seen(&self, vector: usize) -> (Visible, usize) {
        (self.visible[vector], self.block.position(vector) + 1)
    }
}

dispatch! {
    /// Divides every row of a page by the sum of its softmax, the second of its `ends`.
    fn divide(scores: &mut [f32], ends: &[f32]) = divide_body
}

/// # Safety
/// `S`'s instructions are present.
#[inline(always)]
unsafe fn divide_body<S: Simd>(scores: &mut [f32], ends: &[f32]) {
    for (weights, end) in scores.chunks_exact_mut(PAGE_TOKENS).zip(ends.chunks_exact(2)) {
        for at in (0..PAGE_TOKENS).step_by(LANES) {
            // SAFETY: a row has `PAGE_TOKENS` numbers.
            unsafe {
                let to = weights.as_mut_ptr().add(at);
                S::store(to, S::mul(S::load(to), S::splat(1.0 / end[1])));
            }
        }
    }
}

/// Adds to the scores of a page, `[vectors][PAGE_TOKENS]`, what slots that stand for several tokens get beyond them. The cap
/// comes before that: it is applied here, and what is returned is the one still to be applied.
pub(crate) fn extend(g: &LayerGeometry, lane: &Lane, page: usize, scores: &mut [f32]) -> f32 {
    let softcap = g.softcap.unwrap_or(0.0);
    let Some(extra) = lane.extra(page) else { return softcap };
    for scores in scores.chunks_exact_mut(PAGE_TOKENS) {
        if softcap > 0.0 {
            scores.iter_mut().for_each(|score| *score = softcap * (*score / softcap).tanh());
        }
        scores.iter_mut().zip(extra).for_each(|(score, extra)| *score += extra);
    }
    0.0
}

/// The page as `f32`, in the buffers of this thread.
fn widen<'a>(isa: Isa, view: PageView<'_>, width: usize, k: &'a mut Vec<f32>, v: &'a mut Vec<f32>) -> PageView<'a> {
    k.resize(width * PAGE_TOKENS, 0.0);
    v.resize(width * PAGE_TOKENS, 0.0);
    widen_page(isa, view, k, v);
    PageView { k: bytes_of(k), v: bytes_of(v), k_element: Element::F32, v_element: Element::F32 }
}
