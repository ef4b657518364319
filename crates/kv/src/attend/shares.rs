//! Shares of attention that rows give the tokens of a page, for those that gather them.

use super::block::{Block, widen};
use super::local::Local;
use crate::encode::pipeline::Prepared;
use cachalot_kernels::attention::{DIRECT_ROWS, Element, PAGE_TOKENS, Rows, Visible, score_page, soften};
use cachalot_kernels::dispatch;
use cachalot_kernels::simd::{LANES, Simd};

impl Block<'_> {
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
