//! Rows of eight-bit floats: with one constant scale (FP8 as serving engines keep caches in), or with a power of two for 32
//! channels of a token (MXFP8, OCP microscaling).
//!
//! A page is the elements as a tile lies, keys `[channels][tokens]` and values `[tokens][channels]`, then the scales, keys
//! `[blocks][tokens]` and values `[tokens][blocks]`.

use crate::encode::codec::{Hints, Item, Part, Shape, Side, Work};
use crate::encode::quantizer::float8::{Float8, exponent, power_of_two};
use crate::encode::stage::{Args, Built, Context, StageEntry, StageError};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::simd::Simd;
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

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let Shape { side, tokens, channels } = self.shape;
        // Lines of elements that lie together, and the scale of every element of a line.
        let (line, stride) = if side == Side::Keys { (tokens, PAGE_TOKENS) } else { (channels, self.shape.width()) };
        work.floats.clear();
        work.floats.resize(line, 0.0);
        for (i, codes) in page[..self.shape.elements()].chunks_exact(line).enumerate() {
            match (self.scaling, side) {
                (Scaling::Constant(scale), _) => work.floats.fill(scale),
                (Scaling::Blocks, Side::Keys) => {
                    let scales = &page[self.scale_at(0, i / BLOCK)..];
                    work.floats.iter_mut().zip(scales).for_each(|(to, &byte)| *to = power(byte));
                }
                (Scaling::Blocks, Side::Values) => {
                    let scales = &page[self.scale_at(i, 0)..];
                    work.floats.chunks_mut(BLOCK).zip(scales).for_each(|(to, &byte)| to.fill(power(byte)));
                }
            }
            let to = &mut tile[i * stride..][..line];
            match self.kind {
                Float8::E4m3 => widen_e4m3(isa, codes, &work.floats, to),
                Float8::E5m2 => widen_e5m2(isa, codes, &work.floats, to),
            }
        }
    }
}

cachalot_kernels::dispatch! {
    fn widen_e4m3(codes: &[u8], scales: &[f32], to: &mut [f32]) = widen_e4m3_body
}
cachalot_kernels::dispatch! {
    fn widen_e5m2(codes: &[u8], scales: &[f32], to: &mut [f32]) = widen_e5m2_body
}

/// Plain loops, which the compiler makes vectors of.
///
/// # Safety
/// `S`'s instructions are present.
#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)]
unsafe fn widen_e4m3_body<S: Simd>(codes: &[u8], scales: &[f32], to: &mut [f32]) {
    for ((&code, scale), to) in codes.iter().zip(scales).zip(to) {
        *to += Float8::E4m3.decode(code) * scale;
    }
}

/// # Safety
/// `S`'s instructions are present.
#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)]
unsafe fn widen_e5m2_body<S: Simd>(codes: &[u8], scales: &[f32], to: &mut [f32]) {
    for ((&code, scale), to) in codes.iter().zip(scales).zip(to) {
        *to += Float8::E5m2.decode(code) * scale;
    }
}
