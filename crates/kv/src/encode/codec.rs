//! What a format is made of: [`Transform`]s change the basis, [`Part`]s write what is left.
//!
//! A side of a page (its keys or its values) is written by a [`super::pipeline::Pipeline`]: transforms in order, then
//! one or more parts; each part after the first encodes what the parts before it left over. Scores and outputs are
//! sums over the parts, so every part only has to know its own bytes.

use super::part::Entry;
use cachalot_kernels::Isa;
use cachalot_kernels::attention::{PAGE_TOKENS, Visible};
use cachalot_kernels::simd::LANES;
use std::fmt;

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// What scores are taken with.
    Keys,
    /// What outputs are summed from.
    Values,
}

impl Side {
    /// `k` or `v`, as recipes and profiles name it.
    pub const fn letter(self) -> &'static str {
        match self {
            Side::Keys => "k",
            Side::Values => "v",
        }
    }
}

/// What a part writes: `tokens` rows (at most [`PAGE_TOKENS`], a multiple of sixteen) of `channels`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Keys or values.
    pub side: Side,
    /// Tokens of the page.
    pub tokens: usize,
    /// Channels in the basis of the part.
    pub channels: usize,
}

impl Shape {
    /// Channels rounded up to a vector: what queries, tiles and accumulators are padded to (with zeros).
    pub fn width(self) -> usize {
        self.channels.next_multiple_of(LANES)
    }

    /// Elements that count in "bits per element".
    pub fn elements(self) -> usize {
        self.tokens * self.channels
    }

    /// `f32`s of a decoded tile: keys `[width][PAGE_TOKENS]`, values `[PAGE_TOKENS][width]`.
    pub fn tile_len(self) -> usize {
        self.width() * PAGE_TOKENS
    }
}

/// Bytes of a page by what they hold: the lines of `kv show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// `codes`, `scales`, `minima`, `outliers`, …
    pub what: String,
    /// Bytes of a page.
    pub bytes: usize,
}

impl Item {
    /// A line.
    pub fn new(what: impl Into<String>, bytes: usize) -> Item {
        Item { what: what.into(), bytes }
    }
}

/// Buffers of one thread that parts may resize and use while they read one page. Bounded by a constant times one page.
#[derive(Default)]
pub struct Work {
    /// Unpacked levels.
    pub levels: cachalot_kernels::codes::Levels,
    /// Unpacked codes of more than eight bits.
    pub codes: Vec<u16>,
    /// Parameters widened to `f32`, lookup tables and the like.
    pub floats: Vec<f32>,
    /// A tile of `f32`.
    pub tile: Vec<f32>,
    /// Entries of a page that are kept one by one.
    pub entries: Vec<Entry>,
    /// What rows see, for kernels of plain pages.
    pub visible: Vec<Visible>,
    /// For the kernels' own use.
    pub kernel: cachalot_kernels::codes::Scratch,
}

impl Work {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.levels.capacity()
            + 2 * self.codes.capacity()
            + 4 * (self.floats.capacity() + self.tile.capacity())
            + 2 * self.visible.capacity()
            + size_of::<Entry>() * self.entries.capacity()
            + self.kernel.bytes()
    }
}

/// Query rows as a part sees them.
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    /// How many.
    pub rows: usize,
    /// In the basis of the part, `[rows][width]`, scaled, padded with zeros.
    pub q: &'a [f32],
    /// What [`Part::prepare`] left.
    pub state: &'a [f32],
}

/// What the caller of an encoder knows about the tokens beside their values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints<'a> {
    /// How much each token matters, larger is more; empty where the recipe did not ask.
    pub importance: &'a [f32],
    /// Position of the first token.
    pub start: usize,
}

/// A change of basis along the channels, before anything is quantized. Rows are single vectors.
///
/// Everything is plain `f32` arithmetic in a fixed order (no fast-math), so results are the same on every machine.
pub trait Transform: Send + Sync + fmt::Debug {
    /// Channels before.
    fn inputs(&self) -> usize;
    /// Channels after.
    fn outputs(&self) -> usize;
    /// `y = T (x - mean)`.
    fn forward(&self, x: &[f32], y: &mut [f32]);
    /// The query `y` with `y · forward(k) + returned == q · k` where nothing is dropped.
    fn query(&self, q: &[f32], y: &mut [f32]) -> f32;
    /// `x = T⁻¹ y + mean`.
    fn inverse(&self, y: &[f32], x: &mut [f32]);
    /// For outputs: `x = T⁻¹ y + weight · mean`, where `y` is a weighted sum of forwarded values and `weight` the sum
    /// of the weights.
    fn output(&self, y: &[f32], weight: f32, x: &mut [f32]);
    /// [`Transform::inverse_tile`] in place, where that needs no second tile; whether it did.
    fn inverse_in_place(&self, _tile: &mut [f32]) -> bool {
        false
    }
    /// [`Transform::inverse`] of [`PAGE_TOKENS`] keys at once: `[outputs padded][PAGE_TOKENS]` to
    /// `[inputs padded][PAGE_TOKENS]`. Override it where vectors of tokens make it cheap.
    fn inverse_tile(&self, from: &[f32], to: &mut [f32]) {
        let (mut y, mut x) = (vec![0.0; self.outputs()], vec![0.0; self.inputs()]);
        for token in 0..PAGE_TOKENS {
            y.iter_mut().enumerate().for_each(|(c, y)| *y = from[c * PAGE_TOKENS + token]);
            self.inverse(&y, &mut x);
            x.iter().enumerate().for_each(|(c, x)| to[c * PAGE_TOKENS + token] = *x);
        }
    }
    /// Whether it is the normalised Walsh-Hadamard transform of all channels, its own inverse.
    fn is_hadamard(&self) -> bool {
        false
    }
    /// One line for `kv show`.
    fn describe(&self) -> String;
    /// Bits per element that constants shared by all pages would add if they were counted: none are. Bytes of such
    /// constants (tables, bases), for `kv show`.
    fn shared_bytes(&self) -> usize {
        0
    }
}

/// A way of writing the rows of one side of a page.
///
/// [`Part::encode`] and [`Part::decode`] are the definition (plain scalar code: the oracle); the others must agree with
/// them: `score` and `accumulate` within the bound of the part, `tile` to the bit with `decode`. A part computes the same
/// bits for a row whatever rows travel with it, on every instruction set and number of threads.
pub trait Part: Send + Sync + fmt::Debug {
    /// What it writes.
    fn shape(&self) -> Shape;
    /// Bytes of a page, always the same: a multiple of four.
    fn bytes(&self) -> usize {
        self.breakdown().iter().map(|item| item.bytes).sum()
    }
    /// The bytes by what they hold.
    fn breakdown(&self) -> Vec<Item>;
    /// One line for `kv show`.
    fn describe(&self) -> String;
    /// Bytes of constants that all pages share (tables, codebooks), for `kv show`.
    fn shared_bytes(&self) -> usize {
        0
    }

    /// Writes `x`, `[tokens][channels]`, all finite. `to` has [`Part::bytes`]; every byte is set.
    fn encode(&self, x: &[f32], hints: Hints<'_>, to: &mut [u8]);
    /// **Adds** what the page says to `x`, `[tokens][channels]`. Any bytes are decoded without panic.
    fn decode(&self, page: &[u8], x: &mut [f32]);

    /// Whether `score` (of keys) or `accumulate` (of values) read the codes themselves; else pages go through `tile`.
    fn fused(&self) -> bool {
        false
    }
    /// Work on the query side, once per query and not once per page: lookup tables, sketches. `q` is `[rows][width]`.
    fn prepare(&self, isa: Isa, q: &[f32], rows: usize, state: &mut Vec<f32>) {
        let _ = (isa, q, rows);
        state.clear();
    }
    /// Keys: **adds** `q · key` to `scores`, `[rows][PAGE_TOKENS]`; only where [`Part::fused`].
    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let _ = (isa, page, queries, work, scores);
        debug_assert!(false, "{self:?} is not fused");
    }
    /// Values: **adds** `Σ weight · value` to `out`, `[rows][width]`; `weights` is `[rows][PAGE_TOKENS]`, zero where a
    /// row sees nothing; only where [`Part::fused`].
    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        let _ = (isa, page, weights, rows, work, out);
        debug_assert!(false, "{self:?} is not fused");
    }
    /// As [`Part::tile`], over whatever the tile holds: all of it is set. Override it where zeros need not be written first.
    fn write_tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        tile.fill(0.0);
        self.tile(isa, page, work, tile);
    }
    /// Keys: as [`Part::write_tile`], of what a Walsh-Hadamard transform over all channels makes of them; within the rounding
    /// of these two steps one after the other. Whether the part can do both at once; else the tile holds anything.
    fn write_hadamard_tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) -> bool {
        let _ = (isa, page, work, tile);
        false
    }
    /// Scores of few rows, `[rows][width]`, with the keys of [`Part::write_hadamard_tile`] turned by the angles of their page:
    /// the bits of [`cachalot_kernels::attention::score_turned`] of that tile. Whether the part can do it without one; else
    /// `scores` are as they were.
    fn score_hadamard(
        &self,
        isa: Isa,
        page: &[u8],
        q: &[f32],
        angles: &[f32],
        work: &mut Work,
        scores: &mut [f32],
    ) -> bool {
        let _ = (isa, page, q, angles, work, scores);
        false
    }
    /// **Adds** the page to a tile: keys `[width][PAGE_TOKENS]`, values `[PAGE_TOKENS][width]`. Must equal
    /// [`Part::decode`] to the bit. Override it where it is worth a vector loop.
    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let _ = isa;
        let Shape { side, tokens, channels } = self.shape();
        let width = self.shape().width();
        work.floats.clear();
        work.floats.resize(tokens * channels, 0.0);
        self.decode(page, &mut work.floats);
        for (token, row) in work.floats.chunks_exact(channels).enumerate() {
            match side {
                Side::Keys => row.iter().enumerate().for_each(|(c, x)| tile[c * PAGE_TOKENS + token] += x),
                Side::Values => row.iter().zip(&mut tile[token * width..]).for_each(|(x, to)| *to += x),
            }
        }
    }
}

/// The bytes of a tile, as kernels of plain pages read them.
pub(crate) fn bytes_of(x: &[f32]) -> &[u8] {
    // SAFETY: any four bytes of an `f32` are bytes.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), std::mem::size_of_val(x)) }
}
