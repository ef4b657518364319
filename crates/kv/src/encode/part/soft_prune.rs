//! Some chunks of a page at four bits, one mean row for each of the others: the soft pruning of "KV Cache Quantization for
//! Self-Forcing Video Generation: A 33-Method Empirical Study", within a page.
//!
//! A page says which chunks are kept (a bit each, in four bytes), then come those as a page of their own, then the means of the
//! others as half floats, `[chunks - keep][channels]`. Scores with a mean are taken once for its chunk.

mod read;

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::quantizer::Uniform;
use super::super::stage::{Args, Built, Context, StageEntry, StageError};
use super::fields::{halves, put_halves, read_halves};
use super::matrix::{Axis, Matrix};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::simd::LANES;
use read::{add_columns, add_outputs, add_rows, add_scores};
use std::sync::Arc;

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "softprune",
    summary: "keep=2 of the 4 chunks of 16 tokens, the most important or else the latest, at 4 symmetric bits by channel; \
              a mean row for each other",
    build,
    calibrate: None,
};

/// Tokens of a chunk: those of one vector.
const CHUNK: usize = LANES;

/// Chunks of a page at most.
const CHUNKS: usize = PAGE_TOKENS / CHUNK;

/// Bytes that say which chunks are kept.
const MASK: usize = 4;

#[derive(Debug)]
struct SoftPrune {
    shape: Shape,
    /// Those that are kept, one after the other; none where all chunks are their mean.
    kept: Option<Matrix>,
}

/// Where a chunk of a page is found.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// Among those that are kept.
    Kept(usize),
    /// Among the means.
    Mean(usize),
    /// Nowhere: its mask does not fit the page (bytes may be anything). It holds zeros.
    Nowhere,
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let shape = context.shape();
    let keep = args.integer("keep", 2, 0..=shape.tokens / CHUNK)?;
    args.done()?;
    let axis = Axis::Channel { group: CHUNK };
    let kept = |keep| Matrix::new(Shape { tokens: keep * CHUNK, ..shape }, axis, Uniform::symmetric(4), false);
    let kept = if keep == 0 { None } else { Some(kept(keep).map_err(|what| args.error(what))?) };
    Ok(Built::Part(Arc::new(SoftPrune { shape, kept })))
}

impl SoftPrune {
    fn chunks(&self) -> usize {
        self.shape.tokens / CHUNK
    }

    /// How many are kept.
    fn keep(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.shape().tokens / CHUNK)
    }

    /// Bytes of what is kept, and of the means.
    fn sizes(&self) -> [usize; 2] {
        let means = 2 * (self.chunks() - self.keep()) * self.shape.channels;
        [self.kept.as_ref().map_or(0, Part::bytes), means.next_multiple_of(4)]
    }

    /// A page's kept chunks and means.
    fn parts<'a>(&self, page: &'a [u8]) -> [&'a [u8]; 2] {
        let [kept, means] = self.sizes();
        [&page[MASK..][..kept], &page[MASK + kept..][..means]]
    }

    /// Where each chunk of a page is.
    fn places(&self, page: &[u8]) -> [Place; CHUNKS] {
        let mask = page.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let (mut kept, mut means) = (0..self.keep(), 0..self.chunks() - self.keep());
        let mut places = [Place::Nowhere; CHUNKS];
        for (chunk, place) in places.iter_mut().enumerate().take(self.chunks()) {
            let found = match mask >> chunk & 1 {
                1 => kept.next().map(Place::Kept),
                _ => means.next().map(Place::Mean),
            };
            *place = found.unwrap_or(Place::Nowhere);
        }
        places
    }

    /// Which chunks stay: those with the most importance; of equals the latest.
    fn choose(&self, importance: &[f32]) -> u32 {
        let score = |chunk: usize| importance.iter().skip(chunk * CHUNK).take(CHUNK).sum::<f32>();
        let mut order: Vec<usize> = (0..self.chunks()).collect();
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(b.cmp(&a)));
        order.iter().take(self.keep()).fold(0, |mask, chunk| mask | 1 << chunk)
    }

    /// The means of a page, padded to the width.
    fn read_means<'a>(&self, isa: Isa, means: &[u8], floats: &'a mut Vec<f32>) -> &'a [f32] {
        let Shape { channels, .. } = self.shape;
        floats.resize((self.chunks() - self.keep()) * self.shape.width(), 0.0);
        for (row, means) in floats.chunks_exact_mut(self.shape.width()).zip(means.chunks_exact(2 * channels)) {
            read_halves(isa, means, &mut row[..channels]);
            row[channels..].fill(0.0);
        }
        floats
    }
}

impl Part for SoftPrune {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        let mut items = vec![Item::new("chunks", MASK)];
        items.extend(self.kept.iter().flat_map(|kept| kept.breakdown()));
        let [_, means] = self.sizes();
        items.extend((means > 0).then(|| Item::new("means", means)));
        items
    }

    fn describe(&self) -> String {
        let kept = self.kept.as_ref().map_or_else(String::new, |kept| format!(" in {}", kept.describe()));
        format!("{} of {} chunks{kept}, the others by their mean", self.keep(), self.chunks())
    }

    fn encode(&self, x: &[f32], hints: Hints<'_>, to: &mut [u8]) {
        let channels = self.shape.channels;
        let mask = self.choose(hints.importance);
        to[..MASK].copy_from_slice(&mask.to_le_bytes());
        let (mut rows, mut means) = (Vec::new(), Vec::new());
        for (chunk, x) in x.chunks_exact(CHUNK * channels).enumerate() {
            if mask & (1 << chunk) == 0 {
                let column = |c: usize| x.iter().skip(c).step_by(channels).sum::<f32>();
                means.extend((0..channels).map(|c| column(c) / CHUNK as f32));
            } else {
                rows.extend_from_slice(x);
            }
        }
        let (to_kept, to_means) = to[MASK..].split_at_mut(self.sizes()[0]);
        if let Some(kept) = &self.kept {
            kept.encode(&rows, Hints::default(), to_kept);
        }
        to_means.fill(0);
        put_halves(to_means, means.into_iter());
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let channels = self.shape.channels;
        let [kept, means] = self.parts(page);
        let means: Vec<f32> = halves(means).collect();
        let mut rows = vec![0.0; self.keep() * CHUNK * channels];
        if let Some(part) = &self.kept {
            part.decode(kept, &mut rows);
        }
        for (x, place) in x.chunks_exact_mut(CHUNK * channels).zip(self.places(page)) {
            match place {
                Place::Kept(i) => x.iter_mut().zip(&rows[i * CHUNK * channels..]).for_each(|(x, row)| *x += row),
                Place::Mean(i) => {
                    let mean = &means[i * channels..][..channels];
                    x.chunks_exact_mut(channels).for_each(|x| x.iter_mut().zip(mean).for_each(|(x, mean)| *x += mean));
                }
                Place::Nowhere => {}
            }
        }
    }

    fn fused(&self) -> bool {
        true
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let (rows, [kept, means]) = (queries.rows, self.parts(page));
        let mut chunks = std::mem::take(&mut work.tile);
        chunks.clear();
        chunks.resize(rows * PAGE_TOKENS, 0.0);
        if let Some(part) = &self.kept {
            part.score(isa, kept, queries, work, &mut chunks);
        }
        let means = self.read_means(isa, means, &mut work.floats);
        add_scores(isa, self.places(page), queries.q, means, &chunks, &mut scores[..rows * PAGE_TOKENS]);
        work.tile = chunks;
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        let [kept, means] = self.parts(page);
        let out = &mut out[..rows * self.shape.width()];
        let mut chunks = std::mem::take(&mut work.tile);
        chunks.resize(rows * PAGE_TOKENS, 0.0);
        let means = self.read_means(isa, means, &mut work.floats);
        add_outputs(isa, self.places(page), &weights[..rows * PAGE_TOKENS], means, &mut chunks, out);
        if let Some(part) = &self.kept {
            part.accumulate(isa, kept, &chunks, rows, work, out);
        }
        work.tile = chunks;
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let (width, [kept, means]) = (self.shape.width(), self.parts(page));
        let mut chunks = std::mem::take(&mut work.tile);
        if let Some(part) = &self.kept {
            chunks.resize(part.shape().tile_len(), 0.0);
            part.write_tile(isa, kept, work, &mut chunks);
        }
        let (means, places) = (self.read_means(isa, means, &mut work.floats), self.places(page));
        match self.shape.side {
            Side::Keys => add_columns(isa, places, means, &chunks, tile),
            Side::Values => add_rows(isa, places, means, width, &chunks, tile),
        }
        work.tile = chunks;
    }
}
