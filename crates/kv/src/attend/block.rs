//! Some query vectors with one KV head, over splits of the context.

use super::course::Course;
use super::local::Local;
use super::place::Places;
use crate::LayerGeometry;
use crate::encode::codec::bytes_of;
use crate::encode::pipeline::{Pipeline, Prepared};
use crate::lane::Lane;
use crate::plan::Body;
use crate::rope::Angles;
use cachalot_kernels::attention::{
    DIRECT_ROWS, Element, PAGE_TOKENS, PageView, Rows, Visible, accumulate_page, score_page, score_turned, soften,
    widen_page,
};
use cachalot_kernels::{Isa, prefetch};
use std::ops::Range;

pub(super) struct Block<'a> {
    pub(super) isa: Isa,
    pub(super) lane: &'a Lane,
    /// `[rows][group][width]`, rotated and scaled.
    pub(super) q: &'a [f32],
    pub(super) geometry: &'a LayerGeometry,
    /// Slots of the rows. Where rows of several sequences read pages that they share: no matter which, since they see these
    /// pages wholly.
    pub(super) places: Places<'a>,
    /// Whether they do.
    pub(super) whole: bool,
    /// Slots that rows see, of those that they would.
    pub(super) slots: Range<usize>,
    /// Cosines and sines of pages, where a format keeps keys before rotary position.
    pub(super) tiles: Option<&'a Angles>,
}

/// Pages before a page is read that what says where it lies is asked for.
const AHEAD: usize = 4;

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
        self.read(&self.course(split), prepared, local, rows);
    }

    /// The pages of a course, into rows that have seen nothing yet.
    pub(super) fn read(&self, course: &Course, prepared: &Prepared, local: &mut Local, rows: &mut Rows<'_>) {
        if let (Some(body), false) = (&self.lane.plan.body, course.body.is_empty()) {
            let mut buffer = std::mem::take(&mut local.body);
            buffer.resize(Self::state_len(self.vectors(), body.v.basis().width()), 0.0);
            let mut state = Self::state(self.vectors(), &mut buffer);
            state.clear();
            if self.body(body, course.body.clone(), prepared, local, &mut state) {
                self.output(body, &state, rows);
            }
            local.body = buffer;
        }
        course.exact.iter().for_each(|pages| self.exact(pages.clone(), local, rows));
    }

    /// The pages that a company reads, into a buffer; `each` gets what they gave: the state of the body where the course ends
    /// within it.
    pub(super) fn together(
        &self,
        course: &Course,
        prepared: &Prepared,
        local: &mut Local,
        buffer: &mut Vec<f32>,
        each: impl FnOnce(&Rows<'_>),
    ) {
        let within = self.lane.plan.body.as_ref().filter(|_| course.within_body());
        let width = within.map_or(self.geometry.width(), |body| body.v.basis().width());
        buffer.resize(Self::state_len(self.vectors(), width), 0.0);
        let mut rows = Self::state(self.vectors(), buffer);
        rows.clear();
        match within {
            Some(body) => _ = self.body(body, course.body.clone(), prepared, local, &mut rows),
            None => self.read(course, prepared, local, &mut rows),
        }
        each(&rows);
    }

    /// What is left of a course when a company has read the first pages of it; what these gave lies in `part`, and there the
    /// result goes. `within`: the company stopped within the body.
    pub(super) fn resume(&self, rest: &Course, within: bool, prepared: &Prepared, local: &mut Local, part: &mut [f32]) {
        let vectors = self.vectors();
        let len = Self::state_len(vectors, self.geometry.width());
        if let (Some(body), true) = (&self.lane.plan.body, within) {
            let mut buffer = std::mem::take(&mut local.body);
            buffer.resize(Self::state_len(vectors, body.v.basis().width()), 0.0);
            let taken = buffer.len();
            buffer.copy_from_slice(&part[..taken]);
            let mut state = Self::state(vectors, &mut buffer);
            self.body(body, rest.body.clone(), prepared, local, &mut state);
            self.output(body, &state, &mut Self::state(vectors, &mut part[..len]));
            local.body = buffer;
        }
        let mut rows = Self::state(vectors, &mut part[..len]);
        rest.exact.iter().for_each(|pages| self.exact(pages.clone(), local, &mut rows));
    }

    /// The pages of a split in the order in which they are read.
    pub(super) fn course(&self, split: usize) -> Course {
        Course::of(self.lane, self.position(0), self.last(), self.geometry.window, split)
    }

    /// Position of the last row.
    fn last(&self) -> usize {
        self.position(self.vectors() - 1)
    }

    pub(super) fn position(&self, vector: usize) -> usize {
        self.places.slot(vector / self.geometry.group())
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
    pub(super) fn look(&self, page: usize, body: bool, visible: &mut Vec<Visible>) -> bool {
        visible.clear();
        if self.whole {
            visible.resize(self.vectors(), Visible { from: 0, to: PAGE_TOKENS as u8 });
            return true;
        }
        // What the first and the last row see wholly, all do.
        let sees = |position: usize| self.reads_body(page, position) == body && self.whole_page(page, position);
        if sees(self.position(0)) && sees(self.last()) {
            visible.resize(self.vectors(), Visible { from: 0, to: PAGE_TOKENS as u8 });
            return true;
        }
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
        local.scores.resize(self.vectors() * PAGE_TOKENS, 0.0);
        for page in pages {
            if !self.look(page, false, &mut local.visible) {
                continue;
            }
            let Some(view) = self.lane.exact(page) else { continue };
            self.lane.expect(page + AHEAD);
            let many = self.vectors() > DIRECT_ROWS;
            let next = if many { None } else { self.lane.exact(page + 1) };
            let [next_k, next_v] = next.map_or([&[][..]; 2], |next| [next.k, next.v]);
            // In parts between the work: a processor waits that asks for more lines at once than it can have under way.
            let [k, v] = [next_k, next_v].map(|side| side.split_at(side.len() / 2));
            let wide = view.k_element == Element::F32 && view.v_element == Element::F32;
            let view = if many && !wide { widen(self.isa, view, width, &mut local.k, &mut local.v) } else { view };
            prefetch(k.0);
            score_page(self.isa, self.q, width, view.k, view.k_element, &mut local.scores);
            prefetch(k.1);
            let softcap = self.extend(page, &mut local.scores);
            soften(self.isa, &mut local.scores, &local.visible, softcap, rows);
            prefetch(v.0);
            accumulate_page(self.isa, &local.scores, view.v, view.v_element, width, &local.visible, rows.out);
            prefetch(v.1);
        }
    }

    /// Body pages: scores from the codes, outputs in the basis of the values. Whether any row saw anything.
    fn body(
        &self,
        body: &Body,
        pages: Range<usize>,
        prepared: &Prepared,
        local: &mut Local,
        state: &mut Rows<'_>,
    ) -> bool {
        let (vectors, basis) = (self.vectors(), body.v.basis().width());
        local.scores.resize(vectors * PAGE_TOKENS, 0.0);
        let mut seen = false;
        for page in pages {
            if !self.look(page, true, &mut local.visible) {
                continue;
            }
            let Some((k, v)) = self.lane.body(page) else { continue };
            self.lane.expect(page + AHEAD);
            let next = if vectors <= DIRECT_ROWS { self.lane.body(page + 1) } else { None };
            let (next_k, next_v) = next.unwrap_or_default();
            seen = true;
            local.work.kernel.expect(next_k);
            self.score(&body.k, k, page, prepared, local);
            local.work.kernel.expect_rest();
            let softcap = self.extend(page, &mut local.scores);
            soften(self.isa, &mut local.scores, &local.visible, softcap, state);
            local.work.kernel.expect(next_v);
            if body.v.fused() {
                body.v.accumulate(self.isa, v, &local.scores, vectors, &mut local.work, state.out);
            } else {
                local.v.resize(basis * PAGE_TOKENS, 0.0);
                body.v.tile(self.isa, v, &mut local.work, &mut local.v);
                let tile = bytes_of(&local.v);
                accumulate_page(self.isa, &local.scores, tile, Element::F32, basis, &local.visible, state.out);
            }
            local.work.kernel.expect_rest();
        }
        seen
    }

    /// Brings what body pages gave back to the basis of the model.
    fn output(&self, body: &Body, state: &Rows<'_>, rows: &mut Rows<'_>) {
        let (width, basis) = (self.geometry.width(), body.v.basis().width());
        rows.max.copy_from_slice(state.max);
        rows.sum.copy_from_slice(state.sum);
        for vector in 0..self.vectors() {
            let out = &mut rows.out[vector * width..][..width];
            body.v.output(&state.out[vector * basis..][..basis], state.sum[vector], out);
        }
    }

    /// The part of a company's state that is a member's, `vectors` of it.
    pub(super) fn hand_out(state: &Rows<'_>, vectors: Range<usize>, part: &mut [f32]) {
        let width = state.out.len() / state.max.len().max(1);
        let to = Self::state(vectors.len(), &mut part[..Self::state_len(vectors.len(), width)]);
        to.max.copy_from_slice(&state.max[vectors.clone()]);
        to.sum.copy_from_slice(&state.sum[vectors.clone()]);
        to.out.copy_from_slice(&state.out[vectors.start * width..vectors.end * width]);
    }

    /// Adds to the scores of a page what its slots get beyond them; returns the cap that is still to be applied.
    pub(super) fn extend(&self, page: usize, scores: &mut [f32]) -> f32 {
        extend(self.geometry, self.lane, page, scores)
    }

    pub(super) fn score(&self, k: &Pipeline, page: &[u8], index: usize, prepared: &Prepared, local: &mut Local) {
        if k.fused() {
            k.score(self.isa, page, prepared, &mut local.work, &mut local.scores);
            return;
        }
        if k.before_rope() {
            return self.score_turned(k, page, index, prepared, local);
        }
        let width = k.basis().width();
        local.k.resize(width * PAGE_TOKENS, 0.0);
        k.tile(self.isa, page, &mut local.work, &mut local.k);
        score_page(self.isa, prepared.q(), width, bytes_of(&local.k), Element::F32, &mut local.scores);
        for (scores, &constant) in local.scores.chunks_exact_mut(PAGE_TOKENS).zip(prepared.constant()) {
            if constant != 0.0 {
                scores.iter_mut().for_each(|score| *score += constant);
            }
        }
    }

    /// Whether the row at `position` sees all of a page.
    fn whole_page(&self, page: usize, position: usize) -> bool {
        let Visible { from, to } = self.visible(page * PAGE_TOKENS, position);
        from == 0 && usize::from(to) == PAGE_TOKENS
    }

    /// The scores of keys that are kept before rotary position.
    fn score_turned(&self, k: &Pipeline, page: &[u8], index: usize, prepared: &Prepared, local: &mut Local) {
        let (width, q) = (k.shape().width(), prepared.q());
        let moved = self.lane.is_moved(index);
        let turn = self.geometry.rope.as_ref().zip(self.tiles);
        let angles = turn.filter(|_| !moved).map(|(rope, tiles)| rope.page(tiles, index));
        if let Some(angles) = angles
            && k.score_keys(self.isa, page, q, angles, &mut local.work, &mut local.scores)
        {
            return;
        }
        k.key_tile(self.isa, page, &mut local.work, &mut local.k);
        let Some((rope, _)) = turn else {
            score_page(self.isa, q, width, bytes_of(&local.k), Element::F32, &mut local.scores);
            return;
        };
        if moved {
            let positions = std::array::from_fn(|i| self.lane.position(index * PAGE_TOKENS + i));
            rope.rotate_tile_at(&positions, &mut local.k);
        }
        score_turned(self.isa, q, width, rope.rotated() / 2, &mut local.k, angles, &mut local.scores);
    }

    /// What the row at `position` sees of the page whose tokens start at `start`.
    fn visible(&self, start: usize, position: usize) -> Visible {
        let from = self.geometry.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let clip = |at: usize| at.saturating_sub(start).min(PAGE_TOKENS) as u8;
        Visible { from: clip(from.max(self.slots.start)), to: clip((position + 1).min(self.slots.end)) }
    }
}

/// The page as `f32`, in the buffers of this thread.
pub(super) fn widen<'a>(
    isa: Isa,
    view: PageView<'_>,
    width: usize,
    k: &'a mut Vec<f32>,
    v: &'a mut Vec<f32>,
) -> PageView<'a> {
    k.resize(width * PAGE_TOKENS, 0.0);
    v.resize(width * PAGE_TOKENS, 0.0);
    widen_page(isa, view, k, v);
    PageView { k: bytes_of(k), v: bytes_of(v), k_element: Element::F32, v_element: Element::F32 }
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
