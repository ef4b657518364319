//! Some rows of one sequence with one KV head, over splits of the context.

use crate::LayerGeometry;
use crate::lane::Lane;
use cachalot_kernels::Isa;
use cachalot_kernels::attention::{
    DIRECT_ROWS, Element, PAGE_TOKENS, PageView, Rows, SPLIT_PAGES, Visible, attend_page, widen_page,
};
use std::ops::Range;

/// Buffers of one thread: one page widened, one block's scores and results.
#[derive(Default)]
pub(super) struct Local {
    pub(super) total: Vec<f32>,
    part: Vec<f32>,
    scores: Vec<f32>,
    visible: Vec<Visible>,
    k: Vec<f32>,
    v: Vec<f32>,
}

pub(super) struct Block<'a> {
    pub(super) isa: Isa,
    pub(super) lane: &'a Lane,
    /// `[rows][group][width]`, rotated and scaled.
    pub(super) q: &'a [f32],
    pub(super) geometry: &'a LayerGeometry,
    /// Position of the first row.
    pub(super) first: usize,
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
    pub(super) fn all(&self, splits: Range<usize>, local: &mut Local, total: &mut Rows<'_>) {
        total.clear();
        let mut part = std::mem::take(&mut local.part);
        part.resize(Self::state_len(self.vectors(), self.geometry.width()), 0.0);
        for split in splits {
            let mut part = Self::state(self.vectors(), &mut part);
            self.split(split, local, &mut part);
            total.merge(self.isa, &part);
        }
        local.part = part;
    }

    /// The pages of one split.
    pub(super) fn split(&self, split: usize, local: &mut Local, rows: &mut Rows<'_>) {
        rows.clear();
        let g = self.geometry;
        let width = g.width();
        let last = self.first + self.vectors() / g.group() - 1;
        local.scores.resize(self.vectors() * PAGE_TOKENS, 0.0);
        for page in split * SPLIT_PAGES..((split + 1) * SPLIT_PAGES).min(last / PAGE_TOKENS + 1) {
            local.visible.clear();
            for vector in 0..self.vectors() {
                local.visible.push(self.visible(page * PAGE_TOKENS, self.first + vector / g.group()));
            }
            if local.visible.iter().all(|v| v.from >= v.to) {
                continue;
            }
            let Some(view) = self.lane.view(page) else { continue };
            let many = self.vectors() > DIRECT_ROWS;
            let wide = view.k_element == Element::F32 && view.v_element == Element::F32;
            let view = if many && !wide { widen(self.isa, view, width, &mut local.k, &mut local.v) } else { view };
            let softcap = g.softcap.unwrap_or(0.0);
            attend_page(self.isa, self.q, width, view, &local.visible, softcap, rows, &mut local.scores);
        }
    }

    /// What the row at `position` sees of the page whose tokens start at `start`.
    fn visible(&self, start: usize, position: usize) -> Visible {
        let from = self.geometry.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let clip = |at: usize| at.saturating_sub(start).min(PAGE_TOKENS) as u8;
        Visible { from: clip(from), to: clip(position + 1) }
    }
}

/// The page as `f32`, in the buffers of this thread.
fn widen<'a>(isa: Isa, view: PageView<'_>, width: usize, k: &'a mut Vec<f32>, v: &'a mut Vec<f32>) -> PageView<'a> {
    k.resize(width * PAGE_TOKENS, 0.0);
    v.resize(width * PAGE_TOKENS, 0.0);
    widen_page(isa, view, k, v);
    PageView { k: bytes(k), v: bytes(v), k_element: Element::F32, v_element: Element::F32 }
}

fn bytes(x: &[f32]) -> &[u8] {
    // SAFETY: any four bytes of an `f32` are bytes.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), std::mem::size_of_val(x)) }
}
