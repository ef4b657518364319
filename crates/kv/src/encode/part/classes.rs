//! Tokens of one page at two precisions: the important ones at more bits, as in ZipCache (arXiv 2405.14256) and MiKV
//! (2402.18096).
//!
//! A page is a bitmap of the important tokens, then the page of those, then the page of the others, each in order of
//! position. How many are important is fixed, so pages are all of one size.

use super::matrix::{Axis, Matrix};
use crate::encode::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use crate::encode::quantizer::Uniform;
use crate::encode::stage::{Args, Built, Context, StageEntry, StageError};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::subset::{SLACK, add_tokens, take_tokens};
use std::sync::Arc;

pub(super) const STAGE: StageEntry = StageEntry {
    name: "classes",
    summary: "important tokens of a page at more bits, uniform affine: important=16 (16, 32 or 48 of 64 tokens), high=4, \
              low=2 (bits), axis=channel|token (keys: channel, values: token), group=0 (0 for all of a class), \
              balance=false (divides channels by the root of their largest magnitude in the class; axis=token)",
    build,
    calibrate: None,
};

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let shape = context.shape();
    let important = args.integer("important", 16, 1..=shape.tokens)?;
    if !important.is_multiple_of(16) || important == shape.tokens || shape.tokens > PAGE_TOKENS {
        let what = format!("`important={important}` is not possible; take 16, 32 or 48 of a page of 64 tokens");
        return Err(args.error(what));
    }
    let (high, low) = (args.integer("high", 4, 1..=8)?, args.integer("low", 2, 1..=8)?);
    let axis = Axis::of_args(args, context.side, 0)?;
    let balance = args.flag("balance", false)?;
    args.done()?;
    let class = |tokens, bits| {
        Matrix::new(Shape { tokens, ..shape }, axis, Uniform::affine(bits), balance).map_err(|what| args.error(what))
    };
    let (high, low) = (class(important, high)?, class(shape.tokens - important, low)?);
    Ok(Built::Part(Arc::new(Classes { shape, high, low })))
}

#[derive(Debug)]
struct Classes {
    shape: Shape,
    high: Matrix,
    low: Matrix,
}

/// Bytes of the bitmap.
const BITMAP: usize = 8;

/// A bitmap with as many of `tokens` as there have to be: of one that does not fit (bytes may be anything) the first ones, or
/// with the first others.
fn fitted(bitmap: u64, count: usize, tokens: usize) -> u64 {
    let all = u64::MAX >> (PAGE_TOKENS - tokens);
    let mut bits = bitmap & all;
    while bits.count_ones() as usize > count {
        bits ^= 1 << bits.ilog2();
    }
    while (bits.count_ones() as usize) < count {
        bits |= 1 << (!bits).trailing_zeros();
    }
    bits
}

/// Tokens in the order of the two classes: those of the bitmap, then the others. Of any bitmap a permutation of `tokens`, and
/// zeros behind it.
fn order(bitmap: u64, tokens: usize) -> [u8; PAGE_TOKENS] {
    let all = u64::MAX >> (PAGE_TOKENS - tokens);
    let (mut order, mut n) = ([0; PAGE_TOKENS], 0);
    for mut class in [bitmap & all, !bitmap & all] {
        while class != 0 {
            order[n] = class.trailing_zeros() as u8;
            class &= class - 1;
            n += 1;
        }
    }
    order
}

/// The slot of a token in a row of a page's tokens: below [`PAGE_TOKENS`], which the compiler is told.
fn slot(token: u8) -> usize {
    usize::from(token) % PAGE_TOKENS
}

impl Classes {
    fn bitmap(&self, page: &[u8]) -> u64 {
        let bitmap = page.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        fitted(bitmap, self.high.shape().tokens, self.shape.tokens)
    }

    /// Each class with its bytes and the bits of its tokens.
    fn sets<'a>(&'a self, page: &'a [u8]) -> [(&'a Matrix, &'a [u8], u64); 2] {
        let high = self.bitmap(page);
        let low = !high & (u64::MAX >> (PAGE_TOKENS - self.shape.tokens));
        let (a, b) = page[BITMAP..].split_at(self.high.bytes());
        [(&self.high, a, high), (&self.low, b, low)]
    }

    /// Each class with its bytes and its tokens, which are contiguous in the order of classes.
    fn classes<'a>(&'a self, page: &'a [u8], order: &'a [u8; PAGE_TOKENS]) -> [(&'a Matrix, &'a [u8], &'a [u8]); 2] {
        let (high, low) = order[..self.shape.tokens].split_at(self.high.shape().tokens);
        let (a, b) = page[BITMAP..].split_at(self.high.bytes());
        [(&self.high, a, high), (&self.low, b, low)]
    }

    fn order(&self, page: &[u8]) -> [u8; PAGE_TOKENS] {
        order(self.bitmap(page), self.shape.tokens)
    }

    /// The most important tokens, the earlier of equals; where nobody knows, those of the largest norm.
    fn choose(&self, x: &[f32], importance: &[f32]) -> u64 {
        let tokens = self.shape.tokens;
        let norm = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() as f32;
        let scores: Vec<f32> = match importance.len() == tokens {
            true => importance.to_vec(),
            false => x.chunks_exact(self.shape.channels).map(norm).collect(),
        };
        let mut order: Vec<usize> = (0..tokens).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        order[..self.high.shape().tokens].iter().fold(0, |bitmap, token| bitmap | 1 << token)
    }
}

impl Part for Classes {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        let mut items = vec![Item::new("bitmap", BITMAP)];
        for (class, part) in [("important", &self.high), ("other", &self.low)] {
            items.extend(
                part.breakdown()
                    .into_iter()
                    .map(|item| Item::new(format!("{} of {class} tokens", item.what), item.bytes)),
            );
        }
        items
    }

    fn describe(&self) -> String {
        let of = |part: &Matrix| format!("{} tokens {}", part.shape().tokens, part.describe());
        format!("important {}; other {}", of(&self.high), of(&self.low))
    }

    fn encode(&self, x: &[f32], hints: Hints<'_>, to: &mut [u8]) {
        let channels = self.shape.channels;
        let bitmap = self.choose(x, hints.importance);
        let (head, rest) = to.split_at_mut(BITMAP);
        head.copy_from_slice(&bitmap.to_le_bytes());
        let order = order(bitmap, self.shape.tokens);
        let row = |&token: &u8| &x[slot(token) * channels..][..channels];
        let rows: Vec<f32> = order[..self.shape.tokens].iter().flat_map(row).copied().collect();
        let (high, low) = rows.split_at(self.high.shape().elements());
        let (a, b) = rest.split_at_mut(self.high.bytes());
        self.high.encode(high, Hints::default(), a);
        self.low.encode(low, Hints::default(), b);
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let channels = self.shape.channels;
        for (part, page, tokens) in self.classes(page, &self.order(page)) {
            let mut rows = vec![0.0; part.shape().elements()];
            part.decode(page, &mut rows);
            for (row, token) in rows.chunks_exact(channels).zip(tokens) {
                x[slot(*token) * channels..][..channels].iter_mut().zip(row).for_each(|(x, row)| *x += row);
            }
        }
    }

    fn fused(&self) -> bool {
        true
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let mut class = std::mem::take(&mut work.tile);
        for (part, page, tokens) in self.sets(page) {
            class.clear();
            class.resize(queries.rows * PAGE_TOKENS + SLACK, 0.0);
            part.score(isa, page, queries, work, &mut class);
            add_tokens(isa, tokens, &class, &mut scores[..queries.rows * PAGE_TOKENS]);
        }
        work.tile = class;
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        let mut class = std::mem::take(&mut work.tile);
        class.resize(rows * PAGE_TOKENS + SLACK, 0.0);
        for (part, page, tokens) in self.sets(page) {
            take_tokens(isa, tokens, &weights[..rows * PAGE_TOKENS], &mut class);
            part.accumulate(isa, page, &class, rows, work, out);
        }
        work.tile = class;
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let mut class = std::mem::take(&mut work.tile);
        let width = self.shape.width();
        for (part, page, tokens) in self.classes(page, &self.order(page)) {
            class.clear();
            class.resize(part.shape().tile_len(), 0.0);
            part.tile(isa, page, work, &mut class);
            match self.shape.side {
                Side::Keys => {
                    for (from, to) in class.chunks_exact(PAGE_TOKENS).zip(tile.chunks_exact_mut(PAGE_TOKENS)) {
                        tokens.iter().zip(from).for_each(|(&token, x)| to[slot(token)] += x);
                    }
                }
                Side::Values => {
                    for (from, token) in class.chunks_exact(width).zip(tokens) {
                        tile[slot(*token) * width..][..width].iter_mut().zip(from).for_each(|(to, x)| *to += x);
                    }
                }
            }
        }
        work.tile = class;
    }
}
