//! One row for all tokens of a page: the soft pruning of the self-forcing study, and a base that residuals build on.

use super::super::codec::{Hints, Item, Part, Queries, Shape, Work};
use super::super::stage::{Args, Built, Context, StageEntry, StageError};
use super::fields::{halves, put_halves};
use super::lanes::{add_scaled, dot};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::sync::Arc;

/// Registry line.
pub(super) const STAGE: StageEntry =
    StageEntry { name: "mean", summary: "one mean row for all tokens of a page", build, calibrate: None };

/// Half floats, `[channels]`.
#[derive(Clone, Debug)]
struct Mean {
    shape: Shape,
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    args.done()?;
    Ok(Built::Part(Arc::new(Mean { shape: context.shape() })))
}

impl Mean {
    /// The row, padded to the width.
    fn row<'a>(&self, page: &[u8], floats: &'a mut Vec<f32>) -> &'a [f32] {
        floats.clear();
        floats.extend(halves(page).take(self.shape.channels));
        floats.resize(self.shape.width(), 0.0);
        floats
    }
}

impl Part for Mean {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        vec![Item::new("means", (2 * self.shape.channels).next_multiple_of(4))]
    }

    fn describe(&self) -> String {
        format!("the mean of {} tokens in f16", self.shape.tokens)
    }

    fn encode(&self, x: &[f32], _hints: Hints<'_>, to: &mut [u8]) {
        let mean = super::super::math::dense::mean(x, self.shape.channels);
        put_halves(to, mean.into_iter().map(|x| x as f32));
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        for row in x.chunks_exact_mut(self.shape.channels) {
            row.iter_mut().zip(halves(page)).for_each(|(x, mean)| *x += mean);
        }
    }

    fn fused(&self) -> bool {
        true
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let row = self.row(page, &mut work.floats);
        let queries = queries.q.chunks_exact(self.shape.width());
        for (q, scores) in queries.zip(scores.chunks_exact_mut(PAGE_TOKENS)) {
            let score = dot(isa, q, row);
            scores[..self.shape.tokens].iter_mut().for_each(|s| *s += score);
        }
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        let row = self.row(page, &mut work.floats);
        let out = out.chunks_exact_mut(self.shape.width()).take(rows);
        for (weights, out) in weights.chunks_exact(PAGE_TOKENS).zip(out) {
            let weight = weights[..self.shape.tokens].iter().sum();
            add_scaled(isa, weight, row, out);
        }
    }
}
