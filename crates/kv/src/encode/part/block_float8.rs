//! Rows of eight-bit floats: with one constant scale (FP8 as serving engines keep caches in), or with a power of two for 32
//! channels of a token (MXFP8, OCP microscaling).
//!
//! A page is the elements as a tile lies, keys `[channels][tokens]` and values `[tokens][channels]`, then the scales, keys
//! `[blocks][tokens]` and values `[tokens][blocks]`.

mod read;

use crate::encode::codec::{Hints, Item, Part, Queries, Shape, Side, Work, bytes_of};
use crate::encode::quantizer::float8::{Float8, exponent, power_of_two};
use crate::encode::stage::{Args, Built, Context, StageEntry, StageError};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::{
    DIRECT_ROWS, Element, PAGE_TOKENS, PageView, Visible, accumulate_page, score_page, widen_page,
};
use cachalot_kernels::simd::{LANES, Simd};
use std::sync::Arc;

pub(super) const FP8: StageEntry = StageEntry {
    name: "fp8",
    summary: "eight-bit floats with one constant scale, saturating: type=e4m3|e5m2, scale=1",
    build: |args, context| {
        let kind = kind(args)?;
        let scale = args.number("scale", 1.0, 1e-6..=1e6)?;
        finish(args, BlockFloat8 { shape: context.shape(), kind, scaling: Scaling::Constant(scale) })
    },
    calibrate: None,
};

pub(super) const MXFP8: StageEntry = StageEntry {
    name: "mxfp8",
    summary: "OCP microscaling: eight-bit floats, a power of two for 32 channels of a token, 8.25 bits: type=e4m3|e5m2",
    build: |args, context: &Context<'_>| {
        finish(args, BlockFloat8 { shape: context.shape(), kind: kind(args)?, scaling: Scaling::Blocks })
    },
    calibrate: None,
};

fn kind(args: &Args) -> Result<Float8, StageError> {
    Ok(if args.word("type", &["e4m3", "e5m2"])? == "e5m2" { Float8::E5m2 } else { Float8::E4m3 })
}

fn finish(args: &Args, part: BlockFloat8) -> Result<Built, StageError> {
    args.done()?;
    Ok(Built::Part(Arc::new(part)))
}

/// Channels that share a power of two.
const BLOCK: usize = 32;

#[derive(Clone, Copy, Debug)]
enum Scaling {
    Constant(f32),
    Blocks,
}

/// Eight-bit floats.
#[derive(Debug)]
struct BlockFloat8 {
    shape: Shape,
    kind: Float8,
    scaling: Scaling,
}

impl BlockFloat8 {
    fn blocks(&self) -> usize {
        match self.scaling {
            Scaling::Constant(_) => 0,
            Scaling::Blocks => self.shape.channels.div_ceil(BLOCK),
        }
    }

    /// Whether a line is whole vectors.
    fn whole(&self) -> bool {
        self.shape.channels == self.shape.width()
    }

    /// Whether elements mean what they say, without a scale.
    fn is_plain(&self) -> bool {
        matches!(self.scaling, Scaling::Constant(1.0))
    }

    /// The scales, one for each block of channels of each token.
    fn scales(&self, page: &[u8], to: &mut Vec<f32>) {
        let Shape { tokens, channels, .. } = self.shape;
        to.clear();
        match self.scaling {
            Scaling::Constant(scale) => to.resize(channels.div_ceil(BLOCK) * tokens, scale),
            Scaling::Blocks => {
                let scales = &page[self.shape.elements()..][..self.blocks() * tokens];
                to.extend(scales.iter().map(|&byte| power(byte)));
            }
        }
    }

    fn floats<'a>(&self, page: &'a [u8], scales: &'a [f32]) -> Floats<'a> {
        let Shape { tokens, channels, .. } = self.shape;
        Floats { codes: &page[..self.shape.elements()], scales, tokens, channels, width: self.shape.width() }
    }

    /// The elements for so many rows: as they lie for a few, where they have no scale, else as a tile. Both mean the same numbers.
    fn plain<'a>(
        &self,
        isa: Isa,
        page: &'a [u8],
        rows: usize,
        work: &mut Work,
        tile: &'a mut Vec<f32>,
    ) -> (&'a [u8], Element) {
        let codes = &page[..self.shape.elements()];
        let element = if self.kind == Float8::E4m3 { Element::E4m3 } else { Element::E5m2 };
        if !self.is_plain() {
            tile.clear();
            tile.resize(self.shape.tile_len(), 0.0);
            self.tile(isa, page, work, tile);
        } else if rows <= DIRECT_ROWS {
            return (codes, element);
        } else {
            tile.resize(codes.len(), 0.0);
            widen_page(isa, PageView { k: codes, v: &[], k_element: element, v_element: element }, tile, &mut []);
        }
        (bytes_of(tile), Element::F32)
    }

    /// Place of an element.
    fn at(&self, token: usize, channel: usize) -> usize {
        match self.shape.side {
            Side::Keys => channel * self.shape.tokens + token,
            Side::Values => token * self.shape.channels + channel,
        }
    }

    /// Place of a scale.
    fn scale_at(&self, token: usize, block: usize) -> usize {
        self.shape.elements()
            + match self.shape.side {
                Side::Keys => block * self.shape.tokens + token,
                Side::Values => token * self.blocks() + block,
            }
    }

    fn scale(&self, page: &[u8], token: usize, channel: usize) -> f32 {
        match self.scaling {
            Scaling::Constant(scale) => scale,
            Scaling::Blocks => power(page[self.scale_at(token, channel / BLOCK)]),
        }
    }
}

/// `2^(byte - 127)`; the code of NaN, which is never written, continues the others.
#[inline(always)]
fn power(byte: u8) -> f32 {
    f32::from_bits(if byte == 0 { 1 << 22 } else { u32::from(byte.min(254)) << 23 })
}

impl Part for BlockFloat8 {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        let scales = self.blocks() * self.shape.tokens;
        let elements = self.shape.elements();
        let padding = (elements + scales).next_multiple_of(4) - elements - scales;
        let items = [("elements", elements), ("scales", scales), ("padding", padding)];
        items.into_iter().filter(|&(_, bytes)| bytes > 0).map(|(what, bytes)| Item::new(what, bytes)).collect()
    }

    fn describe(&self) -> String {
        match self.scaling {
            Scaling::Constant(scale) => format!("{} floats, scale {scale}", self.kind.name()),
            Scaling::Blocks => format!("{} floats, a power of two per token and {BLOCK} channels", self.kind.name()),
        }
    }

    fn encode(&self, x: &[f32], _: Hints<'_>, to: &mut [u8]) {
        to.fill(0);
        for (token, row) in x.chunks_exact(self.shape.channels).enumerate() {
            for (block, numbers) in row.chunks(BLOCK).enumerate() {
                let scale = match self.scaling {
                    Scaling::Constant(scale) => scale,
                    Scaling::Blocks => {
                        let reach = numbers.iter().fold(0f32, |reach, x| reach.max(x.abs()));
                        let e = (exponent(reach) - self.kind.largest_exponent()).max(-127);
                        to[self.scale_at(token, block)] = (e + 127) as u8;
                        power_of_two(e)
                    }
                };
                for (i, &x) in numbers.iter().enumerate() {
                    to[self.at(token, block * BLOCK + i)] = self.kind.encode(x / scale);
                }
            }
        }
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let channels = self.shape.channels;
        for (i, x) in x.iter_mut().enumerate() {
            let (token, channel) = (i / channels, i % channels);
            *x += self.kind.decode(page[self.at(token, channel)]) * self.scale(page, token, channel);
        }
    }

    /// Whole pages are read as they lie, as those of plain elements.
    fn fused(&self) -> bool {
        self.shape.tokens == PAGE_TOKENS && self.whole()
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let q = &queries.q[..queries.rows * self.shape.width()];
        if !self.is_plain() && queries.rows <= DIRECT_ROWS {
            self.scales(page, &mut work.floats);
            return read::score(isa, self.kind == Float8::E4m3, self.floats(page, &work.floats), q, scores);
        }
        let mut tile = std::mem::take(&mut work.tile);
        let (bytes, element) = self.plain(isa, page, queries.rows, work, &mut tile);
        work.floats.resize(queries.rows * PAGE_TOKENS, 0.0);
        score_page(isa, q, self.shape.width(), bytes, element, &mut work.floats);
        scores.iter_mut().zip(&work.floats).for_each(|(to, score)| *to += score);
        work.tile = tile;
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        // What a row does not see has no weight, and all elements are finite.
        if !self.is_plain() && rows <= DIRECT_ROWS {
            self.scales(page, &mut work.floats);
            let page = self.floats(page, &work.floats);
            return read::accumulate(isa, self.kind == Float8::E4m3, page, weights, rows, out);
        }
        work.visible.clear();
        work.visible.resize(rows, Visible { from: 0, to: PAGE_TOKENS as u8 });
        let mut tile = std::mem::take(&mut work.tile);
        let (bytes, element) = self.plain(isa, page, rows, work, &mut tile);
        accumulate_page(isa, weights, bytes, element, self.shape.width(), &work.visible, out);
        work.tile = tile;
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        self.scales(page, &mut work.floats);
        let floats = self.floats(page, &work.floats);
        match (self.kind, self.shape.side) {
            (Float8::E4m3, Side::Keys) => add_e4m3_keys(isa, floats, tile),
            (Float8::E4m3, Side::Values) => add_e4m3_values(isa, floats, tile),
            (Float8::E5m2, Side::Keys) => add_e5m2_keys(isa, floats, tile),
            (Float8::E5m2, Side::Values) => add_e5m2_values(isa, floats, tile),
        }
    }
}

/// A page as vectors of its elements see it.
#[derive(Clone, Copy)]
struct Floats<'a> {
    codes: &'a [u8],
    /// Of blocks, `[blocks][tokens]` of keys and `[tokens][blocks]` of values.
    scales: &'a [f32],
    tokens: usize,
    channels: usize,
    width: usize,
}

impl Floats<'_> {
    /// # Panics
    /// If anything is missing of a whole page, or its lines are no whole vectors.
    fn check(&self) {
        assert!(self.tokens == PAGE_TOKENS && self.channels == self.width && self.channels.is_multiple_of(LANES));
        assert!(self.codes.len() >= PAGE_TOKENS * self.channels);
        assert!(self.scales.len() >= PAGE_TOKENS * self.channels.div_ceil(BLOCK));
    }
}

macro_rules! add {
    ($name:ident, $body:ident, $e4m3:literal, $keys:literal) => {
        cachalot_kernels::dispatch! {
            /// Adds the elements to a tile.
            fn $name(page: Floats<'_>, tile: &mut [f32]) = $body
        }

        /// # Safety
        /// `S`'s instructions are present.
        #[inline(always)]
        unsafe fn $body<S: Simd>(page: Floats<'_>, tile: &mut [f32]) {
            // SAFETY: the caller's promise.
            unsafe { add::<S, $e4m3, $keys>(page, tile) }
        }
    };
}
add!(add_e4m3_keys, add_e4m3_keys_body, true, true);
add!(add_e4m3_values, add_e4m3_values_body, true, false);
add!(add_e5m2_keys, add_e5m2_keys_body, false, true);
add!(add_e5m2_values, add_e5m2_values_body, false, false);

/// Line by line: the tokens of a channel for keys, the channels of a token for values.
///
/// # Safety
/// `S`'s instructions are present.
#[inline(always)]
unsafe fn add<S: Simd, const E4M3: bool, const KEYS: bool>(page: Floats<'_>, tile: &mut [f32]) {
    let (line, stride) = if KEYS { (page.tokens, PAGE_TOKENS) } else { (page.channels, page.width) };
    let blocks = page.channels.div_ceil(BLOCK);
    for (i, (codes, to)) in page.codes.chunks_exact(line).zip(tile.chunks_mut(stride)).enumerate() {
        let scales = if KEYS { &page.scales[i / BLOCK * line..][..line] } else { &page.scales[i * blocks..][..blocks] };
        let (whole, last) = to[..line].as_chunks_mut::<LANES>();
        let at = whole.len() * LANES;
        for (v, (to, codes)) in whole.iter_mut().zip(codes.as_chunks::<LANES>().0).enumerate() {
            // SAFETY: a vector of tokens lies within one channel and, since blocks are whole vectors, one of channels
            // within one block.
            unsafe {
                let scale =
                    if KEYS { S::load(scales.as_ptr().add(v * LANES)) } else { S::splat(scales[v * LANES / BLOCK]) };
                let x = S::mul(load::<S, E4M3>(codes.as_ptr()), scale);
                S::store(to.as_mut_ptr(), S::add(S::load(to.as_ptr()), x));
            }
        }
        for (channel, (to, &code)) in last.iter_mut().zip(&codes[at..]).enumerate() {
            let x = if E4M3 { Float8::E4m3.decode(code) } else { Float8::E5m2.decode(code) };
            *to += x * scales[(at + channel) / BLOCK];
        }
    }
}

/// # Safety
/// Sixteen bytes lie there, and `S`'s instructions are present.
#[inline(always)]
unsafe fn load<S: Simd, const E4M3: bool>(codes: *const u8) -> S::F {
    // SAFETY: the caller's promise.
    unsafe { if E4M3 { S::load_e4m3(codes) } else { S::load_e5m2(codes) } }
}
