//! Stages that quantize nothing: `before-rope`, and the plain elements for a side that stays exact beside one that does
//! not.

use super::codec::{Hints, Item, Part, Queries, Shape, Side, Work, bytes_of};
use super::part::lanes::accumulate_elements;
use super::stage::{Args, Built, Context, StageEntry, StageError};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::{DIRECT_ROWS, Element, PAGE_TOKENS, score_page, widen};
use cachalot_kernels::float8::{e4m3_from_f32, e4m3_to_f32, e5m2_from_f32, e5m2_to_f32};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::sync::Arc;

/// One line a stage.
pub const STAGES: &[StageEntry] = &[
    StageEntry {
        name: "before-rope",
        summary: "keys are stored before rotary position and turned when they are read",
        build: before_rope,
        calibrate: None,
    },
    StageEntry { name: "f32", summary: "32-bit floats", build: plain::<{ Element::F32 as u8 }>, calibrate: None },
    StageEntry { name: "f16", summary: "half floats", build: plain::<{ Element::F16 as u8 }>, calibrate: None },
    StageEntry { name: "bf16", summary: "bfloat16", build: plain::<{ Element::Bf16 as u8 }>, calibrate: None },
];

fn before_rope(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    match (context.side, context.stage) {
        (Side::Values, _) => Err(args.error("only keys have a rotary position; take it out of `v`")),
        (Side::Keys, 0) => Ok(Built::BeforeRope),
        _ => Err(args.error("must be the first stage: what came before it would see keys after rotary position")),
    }
}

fn plain<const ELEMENT: u8>(_: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let element = [Element::F32, Element::F16, Element::Bf16].into_iter().find(|&e| e as u8 == ELEMENT);
    Ok(Built::Part(Arc::new(Plain { shape: context.shape(), element: element.unwrap_or_default() })))
}

/// Elements as they are: keys `[channels][tokens]`, values `[tokens][channels]`.
#[derive(Debug)]
struct Plain {
    shape: Shape,
    element: Element,
}

impl Plain {
    /// Consecutive values.
    fn read(&self, bytes: &[u8], to: &mut [f32]) {
        // A stack buffer, since the bytes need not be aligned.
        const STEP: usize = 64;
        match self.element {
            Element::F32 => to.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, &b)| *to = f32::from_le_bytes(b)),
            Element::F16 => {
                let mut buffer = [f16::ZERO; STEP];
                for (to, bytes) in to.chunks_mut(STEP).zip(bytes.chunks(2 * STEP)) {
                    buffer.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, &b)| *to = f16::from_le_bytes(b));
                    buffer[..to.len()].convert_to_f32_slice(to);
                }
            }
            Element::Bf16 => {
                let mut buffer = [bf16::ZERO; STEP];
                for (to, bytes) in to.chunks_mut(STEP).zip(bytes.chunks(2 * STEP)) {
                    buffer.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, &b)| *to = bf16::from_le_bytes(b));
                    buffer[..to.len()].convert_to_f32_slice(to);
                }
            }
            Element::E4m3 => to.iter_mut().zip(bytes).for_each(|(to, &b)| *to = e4m3_to_f32(b)),
            Element::E5m2 => to.iter_mut().zip(bytes).for_each(|(to, &b)| *to = e5m2_to_f32(b)),
        }
    }

    /// Whether a page lies as a tile does.
    fn is_tile(&self) -> bool {
        self.shape.tokens == PAGE_TOKENS && self.shape.channels == self.shape.width()
    }

    /// A page that lies as a tile does, as so many rows read it: widened once for many.
    fn for_rows<'a>(&self, isa: Isa, page: &'a [u8], rows: usize, tile: &'a mut Vec<f32>) -> (&'a [u8], Element) {
        if rows <= DIRECT_ROWS {
            return (page, self.element);
        }
        tile.resize(self.shape.tile_len(), 0.0);
        widen(isa, page, self.element, tile);
        (bytes_of(tile), Element::F32)
    }

    /// Where the value of a token and a channel lies.
    fn place(&self, token: usize, channel: usize) -> usize {
        let Shape { side, tokens, channels } = self.shape;
        match side {
            Side::Keys => channel * tokens + token,
            Side::Values => token * channels + channel,
        }
    }
}

impl Part for Plain {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        vec![Item::new(format!("{} elements", self.element), self.shape.elements() * self.element.bytes())]
    }

    fn describe(&self) -> String {
        format!("{} elements", self.element)
    }

    fn encode(&self, x: &[f32], _: Hints<'_>, to: &mut [u8]) {
        for (at, &x) in x.iter().enumerate() {
            let (token, channel) = (at / self.shape.channels, at % self.shape.channels);
            let to = &mut to[self.place(token, channel) * self.element.bytes()..];
            match self.element {
                Element::F32 => to[..4].copy_from_slice(&x.to_le_bytes()),
                // The largest half float is not enough for what rounds up beyond it.
                Element::F16 => to[..2].copy_from_slice(&f16::from_f32(x.clamp(-65504.0, 65504.0)).to_le_bytes()),
                Element::Bf16 => to[..2].copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
                Element::E4m3 => to[0] = e4m3_from_f32(x),
                Element::E5m2 => to[0] = e5m2_from_f32(x),
            }
        }
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let mut values = vec![0.0; self.shape.elements()];
        self.read(page, &mut values);
        for (at, x) in x.iter_mut().enumerate() {
            *x += values[self.place(at / self.shape.channels, at % self.shape.channels)];
        }
    }

    fn fused(&self) -> bool {
        self.is_tile()
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let (width, rows) = (self.shape.width(), queries.rows);
        let q = &queries.q[..rows * width];
        work.floats.resize(work.floats.len().max(rows * PAGE_TOKENS), 0.0);
        let found = &mut work.floats[..rows * PAGE_TOKENS];
        let (keys, element) = self.for_rows(isa, page, rows, &mut work.tile);
        score_page(isa, q, width, keys, element, found);
        scores.iter_mut().zip(found).for_each(|(score, found)| *score += *found);
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        let (values, element) = self.for_rows(isa, page, rows, &mut work.tile);
        accumulate_elements(isa, values, element, self.shape, weights, rows, out);
    }

    fn tile(&self, _: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let Shape { side, tokens, channels } = self.shape;
        let (row, stride) = match side {
            Side::Keys => (tokens, PAGE_TOKENS),
            Side::Values => (channels, self.shape.width()),
        };
        work.floats.resize(row, 0.0);
        for (bytes, tile) in page.chunks_exact(row * self.element.bytes()).zip(tile.chunks_exact_mut(stride)) {
            self.read(bytes, &mut work.floats);
            tile.iter_mut().zip(&work.floats).for_each(|(to, x)| *to += x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(side: Side, element: Element) -> Plain {
        Plain { shape: Shape { side, tokens: 64, channels: 80 }, element }
    }

    #[test]
    fn representable_values_come_back_and_tiles_are_the_decoded_page() {
        for side in [Side::Keys, Side::Values] {
            for element in [Element::F32, Element::F16, Element::Bf16] {
                let part = part(side, element);
                let x: Vec<f32> = (0..64 * 80).map(|i| (i % 251) as f32 - 125.0).collect();
                let mut page = vec![0xff; part.bytes()];
                part.encode(&x, Hints::default(), &mut page);
                let mut decoded = vec![1.0; x.len()];
                part.decode(&page, &mut decoded);
                // Decoding adds.
                assert!(x.iter().zip(&decoded).all(|(x, d)| x + 1.0 == *d), "{side:?} {element}");
                let mut tile = vec![1.0; part.shape().tile_len()];
                part.tile(Isa::Portable, &page, &mut Work::default(), &mut tile);
                for token in 0..64 {
                    for c in 0..80 {
                        let at = if side == Side::Keys { c * PAGE_TOKENS + token } else { token * 80 + c };
                        assert_eq!(tile[at], decoded[token * 80 + c]);
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_values_stay_finite_in_half_floats() {
        let part = part(Side::Values, Element::F16);
        let x = vec![65503.9; 64 * 80];
        let mut page = vec![0; part.bytes()];
        part.encode(&x, Hints::default(), &mut page);
        let mut decoded = vec![0.0; x.len()];
        part.decode(&page, &mut decoded);
        assert!(decoded.iter().all(|&x| x == 65504.0));
    }
}
