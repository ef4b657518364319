//! Some chunks of a page at four bits, one mean row for each of the others: the soft pruning of "KV Cache Quantization for
//! Self-Forcing Video Generation: A 33-Method Empirical Study", within a page.

use super::super::codec::{Hints, Item, Part, Shape, Side, Work};
use super::super::stage::{Args, Built, Context, StageEntry, StageError};
use super::fields::{self, half, halves, put_halves};
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::simd::Simd;
use cachalot_kernels::transpose::add_transposed;
use cachalot_kernels::{Isa, dispatch};
use std::sync::Arc;

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "softprune",
    summary: "keep=2 of the 4 chunks of 16 tokens, the most important or else the latest, at 4 symmetric bits by channel; \
              a mean row for each other",
    build,
    calibrate: None,
};

/// Tokens of a chunk.
const CHUNK: usize = 16;

/// Which chunks are kept (a bit each, in four bytes); their codes, two channels a byte, `[keep][CHUNK][channels]`; their
/// scales, `[keep][channels]`, and the means of the others, `[chunks - keep][channels]`, as half floats.
#[derive(Clone, Debug)]
struct SoftPrune {
    shape: Shape,
    keep: usize,
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let shape = context.shape();
    let keep = args.integer("keep", 2, 0..=shape.tokens / CHUNK)?;
    args.done()?;
    Ok(Built::Part(Arc::new(SoftPrune { shape, keep })))
}

impl SoftPrune {
    fn chunks(&self) -> usize {
        self.shape.tokens / CHUNK
    }

    /// Bytes of the codes, scales and means.
    fn sizes(&self) -> [usize; 3] {
        let (keep, channels) = (self.keep, self.shape.channels);
        let halves = |rows: usize| (2 * rows * channels).next_multiple_of(4);
        [(keep * CHUNK * channels.div_ceil(2)).next_multiple_of(4), halves(keep), halves(self.chunks() - keep)]
    }

    /// A page's codes, scales and means.
    fn parts<'a>(&self, page: &'a [u8]) -> [&'a [u8]; 3] {
        let [codes, scales, means] = self.sizes();
        [&page[4..4 + codes], &page[4 + codes..][..scales], &page[4 + codes + scales..][..means]]
    }

    /// Which chunks stay: those with the most importance; of equals the latest.
    fn kept(&self, importance: &[f32]) -> u32 {
        let score = |chunk: usize| importance.iter().skip(chunk * CHUNK).take(CHUNK).sum::<f32>();
        let mut order: Vec<usize> = (0..self.chunks()).collect();
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(b.cmp(&a)));
        order.iter().take(self.keep).fold(0, |mask, chunk| mask | 1 << chunk)
    }
}

impl SoftPrune {
    /// Adds the page to rows of `stride`, one a token.
    fn add_rows(&self, isa: Isa, page: &[u8], work: &mut Work, stride: usize, rows: &mut [f32]) {
        let channels = self.shape.channels;
        let mask = u32::from_le_bytes([page[0], page[1], page[2], page[3]]);
        let [codes, scales, means] = self.parts(page);
        let Work { levels, floats, .. } = work;
        let each = channels.next_multiple_of(2);
        levels.resize(self.keep * CHUNK * each, 0);
        nibbles(isa, codes, levels);
        floats.resize(self.chunks() * channels, 0.0);
        let (to_steps, to_means) = floats.split_at_mut(self.keep * channels);
        fields::read_halves(isa, scales, to_steps);
        fields::read_halves(isa, means, to_means);
        let mut kept = to_steps.chunks_exact(channels).zip(levels.chunks_exact(CHUNK * each));
        let mut means = to_means.chunks_exact(channels);
        for (chunk, rows) in rows.chunks_exact_mut(CHUNK * stride).take(self.chunks()).enumerate() {
            // As in `decode`, a mask that does not fit leaves what is missing at zero.
            if mask & (1 << chunk) == 0 {
                means.next().into_iter().for_each(|mean| add_mean(isa, mean, stride, rows));
            } else if let Some((steps, levels)) = kept.next() {
                add_levels(isa, levels, steps, stride, rows);
            }
        }
    }
}

impl Part for SoftPrune {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        let [codes, scales, means] = self.sizes();
        let items = [("chunks", 4), ("codes", codes), ("scales", scales), ("means", means)];
        items.into_iter().filter(|&(_, bytes)| bytes > 0).map(|(what, bytes)| Item::new(what, bytes)).collect()
    }

    fn describe(&self) -> String {
        format!("{} of {} chunks at 4 bits, the others by their mean", self.keep, self.chunks())
    }

    fn encode(&self, x: &[f32], hints: Hints<'_>, to: &mut [u8]) {
        let channels = self.shape.channels;
        let mask = self.kept(hints.importance);
        to.fill(0);
        to[..4].copy_from_slice(&mask.to_le_bytes());
        let [codes, _, _] = self.sizes();
        let (mut scales, mut means) = (Vec::new(), Vec::new());
        let mut lines = to[4..4 + codes].chunks_exact_mut(channels.div_ceil(2));
        for (chunk, rows) in x.chunks_exact(CHUNK * channels).enumerate() {
            let column = |c: usize| rows.iter().skip(c).step_by(channels);
            if mask & (1 << chunk) == 0 {
                means.extend((0..channels).map(|c| column(c).sum::<f32>() / CHUNK as f32));
                continue;
            }
            let reach = |c: usize| column(c).fold(0.0f32, |reach, x| reach.max(x.abs()));
            let steps: Vec<f32> = (0..channels).map(|c| half(reach(c) / 7.0).to_f32()).collect();
            for (row, line) in rows.chunks_exact(channels).zip(&mut lines) {
                for (c, (&x, &step)) in row.iter().zip(&steps).enumerate() {
                    let level = if step > 0.0 { (x / step).round_ties_even().clamp(-8.0, 7.0) } else { 0.0 };
                    line[c / 2] |= ((level as i8 + 8) as u8) << (4 * (c % 2));
                }
            }
            scales.extend(steps);
        }
        let [codes, scale_bytes, _] = self.sizes();
        put_halves(&mut to[4 + codes..][..scale_bytes], scales.into_iter());
        put_halves(&mut to[4 + codes + scale_bytes..], means.into_iter());
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let channels = self.shape.channels;
        let mask = u32::from_le_bytes([page[0], page[1], page[2], page[3]]);
        let [codes, scales, means] = self.parts(page);
        let scales: Vec<f32> = halves(scales).collect();
        let means: Vec<f32> = halves(means).collect();
        let mut lines = codes.chunks_exact(channels.div_ceil(2));
        let (mut scales, mut means) = (scales.chunks_exact(channels), means.chunks_exact(channels));
        for (chunk, rows) in x.chunks_exact_mut(CHUNK * channels).enumerate() {
            // A mask that does not fit (bytes may be anything) leaves what is missing at zero.
            if mask & (1 << chunk) == 0 {
                let Some(mean) = means.next() else { continue };
                for row in rows.chunks_exact_mut(channels) {
                    row.iter_mut().zip(mean).for_each(|(x, mean)| *x += mean);
                }
                continue;
            }
            let Some(steps) = scales.next() else { continue };
            for (row, line) in rows.chunks_exact_mut(channels).zip(&mut lines) {
                for (c, (x, step)) in row.iter_mut().zip(steps).enumerate() {
                    let level = (line[c / 2] >> (4 * (c % 2))) & 15;
                    *x += (f32::from(level) - 8.0) * step;
                }
            }
        }
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let Shape { side, tokens, channels } = self.shape;
        let width = self.shape.width();
        if side == Side::Values {
            return self.add_rows(isa, page, work, width, tile);
        }
        let mut rows = std::mem::take(&mut work.tile);
        rows.clear();
        rows.resize(tokens * width, 0.0);
        self.add_rows(isa, page, work, width, &mut rows);
        add_transposed(isa, &rows, width, tokens, channels, tile, PAGE_TOKENS);
        work.tile = rows;
    }
}

dispatch! {
    /// The nibbles of bytes, the low one first.
    fn nibbles(from: &[u8], to: &mut [u8]) = nibbles_body
}

// The set only says which features the loops are compiled with.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn nibbles_body<S: Simd>(from: &[u8], to: &mut [u8]) {
    for (to, &from) in to.as_chunks_mut::<2>().0.iter_mut().zip(from) {
        let both = u16::from(from);
        *to = ((both | both << 4) & 0x0f0f).to_le_bytes();
    }
}

dispatch! {
    /// `row[c] += mean[c]` for rows of `stride`.
    fn add_mean(mean: &[f32], stride: usize, rows: &mut [f32]) = add_mean_body
}

// The set only says which features the loops are compiled with.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn add_mean_body<S: Simd>(mean: &[f32], stride: usize, rows: &mut [f32]) {
    for row in rows.chunks_exact_mut(stride) {
        for (x, mean) in row.iter_mut().zip(mean) {
            *x += mean;
        }
    }
}

dispatch! {
    /// `row[c] += (level[c] - 8) steps[c]` for rows of `stride`, as many levels a row as channels rounded up to an even
    /// number.
    fn add_levels(levels: &[u8], steps: &[f32], stride: usize, rows: &mut [f32]) = add_levels_body
}

// The set only says which features the loops are compiled with.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn add_levels_body<S: Simd>(levels: &[u8], steps: &[f32], stride: usize, rows: &mut [f32]) {
    let levels = levels.chunks_exact(steps.len().next_multiple_of(2));
    for (row, levels) in rows.chunks_exact_mut(stride).zip(levels) {
        for ((x, &level), step) in row.iter_mut().zip(levels).zip(steps) {
            *x += (f32::from(level) - 8.0) * step;
        }
    }
}
