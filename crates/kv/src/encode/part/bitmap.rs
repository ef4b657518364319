//! Unstructured sparsity: Mustafar (Joo et al., 2025). The largest elements of every token stay, as half floats, and a bit
//! an element says where.

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::stage::{Args, Built, Context, StageEntry, StageError};
use super::fields::{half, halves};
use super::lanes::accumulate_tile;
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::lookup::score_tile;
use cachalot_kernels::simd::LANES;
use cachalot_kernels::sparse::{SLACK, accumulate_rows, add_rows, score_rows};
use std::sync::Arc;

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "bitmap",
    summary: "the largest elements of every token in f16, the others zero; bitmap(sparsity=0.7)",
    build,
    calibrate: None,
};

/// Half floats of the page, then bits in words of sixteen: keys a channel after the other, sixteen tokens a word; values
/// a token after the other, sixteen channels a word. The half floats lie in the order of the bits.
#[derive(Clone, Debug)]
struct Bitmap {
    shape: Shape,
    keep: usize,
}

/// Elements of `d` that stay: with `k = max(1, ⌊sparsity d⌋)`, those not smaller than the `k`-th smallest, without the
/// ties beyond.
fn kept(sparsity: f32, d: usize) -> usize {
    d + 1 - ((f64::from(sparsity) * d as f64 + 1e-4) as usize).max(1)
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let sparsity = args.number("sparsity", 0.7, 0.0..=0.99)?;
    args.done()?;
    let keep = kept(sparsity, context.channels);
    Ok(Built::Part(Arc::new(Bitmap { shape: context.shape(), keep })))
}

/// Rows up to which elements are spread in registers, once for every few rows; above it once for all, to memory.
fn direct_rows(isa: Isa) -> usize {
    if isa >= Isa::Avx512 { 6 } else { 2 }
}

impl Bitmap {
    fn count(&self) -> usize {
        self.keep * self.shape.tokens
    }

    /// Rows of bits, and words a row.
    fn rows(&self) -> (usize, usize) {
        match self.shape.side {
            Side::Keys => (self.shape.channels, self.shape.tokens / LANES),
            Side::Values => (self.shape.tokens, self.shape.width() / LANES),
        }
    }

    fn masks_len(&self) -> usize {
        let (rows, words) = self.rows();
        2 * rows * words
    }

    /// Where an element's bit lies among all of them.
    fn bit(&self, token: usize, channel: usize) -> usize {
        let (_, words) = self.rows();
        match self.shape.side {
            Side::Keys => channel * words * LANES + token,
            Side::Values => token * words * LANES + channel,
        }
    }

    fn masks<'a>(&self, page: &'a [u8]) -> &'a [u8] {
        &page[2 * self.count()..][..self.masks_len()]
    }

    fn decoded<'a>(&self, isa: Isa, page: &[u8], tile: &'a mut Vec<f32>) -> &'a [f32] {
        tile.clear();
        tile.resize(self.shape.tile_len(), 0.0);
        self.add(isa, page, tile);
        tile
    }

    fn add(&self, isa: Isa, page: &[u8], tile: &mut [f32]) {
        let (_, words) = self.rows();
        let stride = if self.shape.side == Side::Keys { PAGE_TOKENS } else { self.shape.width() };
        add_rows(isa, self.masks(page), words, page, self.count(), stride, tile);
    }
}

impl Part for Bitmap {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        // Vectors of half floats may be read from behind the last one.
        let slack = (2 * SLACK).saturating_sub(self.masks_len());
        let both = 2 * self.count() + self.masks_len() + slack;
        let padding = slack + both.next_multiple_of(4) - both;
        let mut items = vec![Item::new("elements", 2 * self.count()), Item::new("bitmap", self.masks_len())];
        items.extend((padding > 0).then(|| Item::new("padding", padding)));
        items
    }

    fn describe(&self) -> String {
        format!("the {} largest of {} elements a token, in f16", self.keep, self.shape.channels)
    }

    fn encode(&self, x: &[f32], _hints: Hints<'_>, to: &mut [u8]) {
        to.fill(0);
        let Shape { tokens, channels, .. } = self.shape;
        let (elements, masks) = to.split_at_mut(2 * self.count());
        let mut order: Vec<usize> = Vec::with_capacity(channels);
        for (token, row) in x.chunks_exact(channels).enumerate() {
            order.clear();
            order.extend(0..channels);
            // Stable: of equal magnitudes the first stay.
            order.sort_by(|&a, &b| row[b].abs().total_cmp(&row[a].abs()));
            for &channel in &order[..self.keep] {
                let bit = self.bit(token, channel);
                masks[bit / 8] |= 1 << (bit % 8);
            }
        }
        let mut elements = elements.chunks_exact_mut(2);
        let mut put = |token: usize, channel: usize| {
            let bit = self.bit(token, channel);
            if masks[bit / 8] >> (bit % 8) & 1 == 1
                && let Some(to) = elements.next()
            {
                to.copy_from_slice(&half(x[token * channels + channel]).to_le_bytes());
            }
        };
        match self.shape.side {
            Side::Keys => (0..channels).for_each(|c| (0..tokens).for_each(|t| put(t, c))),
            Side::Values => (0..tokens).for_each(|t| (0..channels).for_each(|c| put(t, c))),
        }
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let Shape { tokens, channels, .. } = self.shape;
        let masks = &page[2 * self.count()..];
        let mut elements = halves(&page[..2 * self.count()]);
        let mut take = |token: usize, channel: usize| {
            let bit = self.bit(token, channel);
            if masks[bit / 8] >> (bit % 8) & 1 == 1 {
                x[token * channels + channel] += elements.next().unwrap_or(0.0);
            }
        };
        match self.shape.side {
            Side::Keys => (0..channels).for_each(|c| (0..tokens).for_each(|t| take(t, c))),
            Side::Values => (0..tokens).for_each(|t| (0..channels).for_each(|c| take(t, c))),
        }
    }

    fn fused(&self) -> bool {
        true
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let (d, width) = (self.shape.channels, self.shape.width());
        if queries.rows <= direct_rows(isa) && self.shape.tokens == PAGE_TOKENS {
            score_rows(isa, queries.q, width, self.masks(page), page, self.count(), scores);
            return;
        }
        let tile = self.decoded(isa, page, &mut work.tile);
        score_tile(isa, queries.q, width, tile, d, d, scores);
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        let Shape { tokens, .. } = self.shape;
        let width = self.shape.width();
        if rows <= direct_rows(isa) {
            let out = &mut out[..rows * width];
            accumulate_rows(isa, weights, tokens, self.masks(page), page, self.count(), width, out);
            return;
        }
        let tile = self.decoded(isa, page, &mut work.tile);
        accumulate_tile(isa, tile, self.shape, weights, rows, out);
    }

    fn tile(&self, isa: Isa, page: &[u8], _work: &mut Work, tile: &mut [f32]) {
        self.add(isa, page, tile);
    }
}
