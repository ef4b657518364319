//! One row for all tokens of a page: the soft pruning of the self-forcing study, and a base that residuals build on.
//!
//! Keys of a page share most of what makes them long: a bias of their channels, and rotary pairs that turn slowly. It moves all
//! scores of the page alike, so what is left after the mean is what tells tokens apart, and worth the bits.

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::stage::{Args, Built, Context, StageEntry, StageError};
use super::fields::{half, put_halves, read_halves};
use super::lanes::{add_scaled, dot_body};
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::simd::{LANES, Simd};
use cachalot_kernels::{Isa, dispatch};
use half::f16;
use std::sync::Arc;

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "mean",
    summary: "one mean row for all tokens of a page; mean(bits=16): half floats, or 8 for bytes with one scale",
    build,
    calibrate: None,
};

/// Half floats, `[channels]`; or a scale in f16, two bytes of nothing and signed bytes.
#[derive(Clone, Debug)]
struct Mean {
    shape: Shape,
    bytes: bool,
}

/// Where the signed bytes begin.
const BYTES: usize = 4;

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let bits = args.integer("bits", 16, 8..=16)?;
    args.done()?;
    if ![8, 16].contains(&bits) {
        return Err(args.error(format!("`bits={bits}` is neither 8 nor 16")));
    }
    Ok(Built::Part(Arc::new(Mean { shape: context.shape(), bytes: bits == 8 })))
}

impl Mean {
    /// The row, padded to the width.
    fn row<'a>(&self, isa: Isa, page: &[u8], floats: &'a mut Vec<f32>) -> &'a [f32] {
        let channels = self.shape.channels;
        floats.resize(self.shape.width(), 0.0);
        if self.bytes {
            let scale = f16::from_le_bytes([page[0], page[1]]).to_f32();
            // Bytes may be anything.
            let scale = if scale.is_finite() { scale } else { 0.0 };
            widen_bytes(isa, &page[BYTES..], scale, &mut floats[..channels]);
        } else {
            read_halves(isa, page, &mut floats[..channels]);
        }
        floats[channels..].fill(0.0);
        floats
    }
}

impl Part for Mean {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        let bytes = if self.bytes { BYTES + self.shape.channels } else { 2 * self.shape.channels };
        vec![Item::new("means", bytes.next_multiple_of(4))]
    }

    fn describe(&self) -> String {
        let kept = if self.bytes { "8 bits with an f16 scale" } else { "f16" };
        format!("the mean of {} tokens in {kept}", self.shape.tokens)
    }

    fn encode(&self, x: &[f32], _hints: Hints<'_>, to: &mut [u8]) {
        let mean = super::super::math::dense::mean(x, self.shape.channels);
        if !self.bytes {
            return put_halves(to, mean.into_iter().map(|x| x as f32));
        }
        let most = mean.iter().fold(0f64, |most, x| most.max(x.abs()));
        to.fill(0);
        let scale = half((most / 127.0) as f32);
        to[..2].copy_from_slice(&scale.to_le_bytes());
        let scale = f64::from(scale.to_f32());
        for (to, x) in to[BYTES..].iter_mut().zip(mean) {
            let level = if scale > 0.0 { (x / scale).round_ties_even().clamp(-127.0, 127.0) } else { 0.0 };
            *to = level as i8 as u8;
        }
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let mut row = Vec::new();
        let row = self.row(Isa::Portable, page, &mut row);
        for to in x.chunks_exact_mut(self.shape.channels) {
            to.iter_mut().zip(row).for_each(|(x, mean)| *x += mean);
        }
    }

    fn fused(&self) -> bool {
        true
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let row = self.row(isa, page, &mut work.floats);
        add_scores(isa, queries.q, row, self.shape.tokens, &mut scores[..queries.rows * PAGE_TOKENS]);
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        let row = self.row(isa, page, &mut work.floats);
        let out = out.chunks_exact_mut(self.shape.width()).take(rows);
        for (weights, out) in weights.chunks_exact(PAGE_TOKENS).zip(out) {
            let weight = weights[..self.shape.tokens].iter().sum();
            add_scaled(isa, weight, row, out);
        }
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let Shape { side, tokens, channels } = self.shape;
        let row = self.row(isa, page, &mut work.floats);
        match side {
            Side::Keys => {
                let tile = tile.chunks_exact_mut(PAGE_TOKENS).take(channels);
                tile.zip(row).for_each(|(tile, mean)| tile[..tokens].iter_mut().for_each(|x| *x += mean));
            }
            Side::Values => {
                let tile = tile.chunks_exact_mut(self.shape.width()).take(tokens);
                tile.for_each(|tile| tile.iter_mut().zip(row).for_each(|(x, mean)| *x += mean));
            }
        }
    }
}

dispatch! {
    /// Signed bytes in steps of `scale`.
    fn widen_bytes(from: &[u8], scale: f32, to: &mut [f32]) = widen_bytes_body
}

// The set only says which features the loop is compiled with.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn widen_bytes_body<S: Simd>(from: &[u8], scale: f32, to: &mut [f32]) {
    for (to, &byte) in to.iter_mut().zip(from) {
        *to = scale * f32::from(byte as i8);
    }
}

dispatch! {
    /// Adds the product of each query with a row, both as long as the row, to the scores of the first `tokens`. Rows of
    /// [`PAGE_TOKENS`] scores; `tokens` are whole vectors.
    fn add_scores(q: &[f32], row: &[f32], tokens: usize, scores: &mut [f32]) = add_scores_body
}

#[inline(always)]
unsafe fn add_scores_body<S: Simd>(q: &[f32], row: &[f32], tokens: usize, scores: &mut [f32]) {
    for (q, scores) in q.chunks_exact(row.len()).zip(scores.as_chunks_mut::<PAGE_TOKENS>().0) {
        // SAFETY: chunks have sixteen elements; the features are the dispatcher's business.
        unsafe {
            let score = S::splat(dot_body::<S>(q, row));
            for to in scores[..tokens].as_chunks_mut::<LANES>().0 {
                S::store(to.as_mut_ptr(), S::add(S::load(to.as_ptr()), score));
            }
        }
    }
}
