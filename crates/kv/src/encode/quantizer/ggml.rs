//! The block formats of ggml that llama.cpp keeps KV caches in: blocks of 32 channels of one token.
//!
//! Codes and half-float parameters are those ggml's reference quantizers write, bit for bit, including that codes are
//! computed with the inverse of the scale before it is rounded. [`Kind::to_blocks`] gives ggml's bytes.

mod blocks;

use super::{Group, GroupQuantizer, Kept, Offset, Packing, Parameters, Store, range, reach};
use crate::encode::part::matrix::{Axis, Matrix};
use crate::encode::stage::{Args, Built, Context, StageEntry, StageError};
use cachalot_kernels::codes::Bits;

/// Values of a block.
pub const BLOCK: usize = 32;

/// A block format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes, scaled by the largest magnitude.
    Q8_0,
    /// Five bits with a minimum.
    Q5_1,
    /// Five bits, scaled so that the value of largest magnitude is the lowest code.
    Q5_0,
    /// Four bits with a minimum.
    Q4_1,
    /// Four bits, scaled so that the value of largest magnitude is the lowest code.
    Q4_0,
    /// Four bits that index a table of uneven levels.
    Iq4Nl,
}

/// Levels of `iq4_nl`.
const UNEVEN: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Blocks of smaller magnitude are all zero in `iq4_nl`.
const NOTHING: f32 = 1e-15;

const fn entry(name: &'static str, summary: &'static str, build: crate::encode::stage::Build) -> StageEntry {
    StageEntry { name, summary, build, calibrate: None }
}

pub(super) const Q8_0: StageEntry =
    entry("q8_0", "ggml's 8.5 bits per value, blocks of 32 channels; no arguments", |a, c| build(Kind::Q8_0, a, c));
pub(super) const Q5_1: StageEntry =
    entry("q5_1", "ggml's 6 bits per value, with a minimum; no arguments", |a, c| build(Kind::Q5_1, a, c));
pub(super) const Q5_0: StageEntry =
    entry("q5_0", "ggml's 5.5 bits per value; no arguments", |a, c| build(Kind::Q5_0, a, c));
pub(super) const Q4_1: StageEntry =
    entry("q4_1", "ggml's 5 bits per value, with a minimum; no arguments", |a, c| build(Kind::Q4_1, a, c));
pub(super) const Q4_0: StageEntry =
    entry("q4_0", "ggml's 4.5 bits per value; no arguments", |a, c| build(Kind::Q4_0, a, c));
pub(super) const IQ4_NL: StageEntry =
    entry("iq4_nl", "ggml's 4.5 bits per value with uneven levels; no arguments", |a, c| build(Kind::Iq4Nl, a, c));

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] = [Kind::Q8_0, Kind::Q5_1, Kind::Q5_0, Kind::Q4_1, Kind::Q4_0, Kind::Iq4Nl];

    /// As ggml and recipes name it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Q8_0 => "q8_0",
            Kind::Q5_1 => "q5_1",
            Kind::Q5_0 => "q5_0",
            Kind::Q4_1 => "q4_1",
            Kind::Q4_0 => "q4_0",
            Kind::Iq4Nl => "iq4_nl",
        }
    }

    /// The matrix part of these blocks.
    ///
    /// # Errors
    /// Where the channels are no multiple of 32.
    pub fn matrix(self, shape: crate::encode::codec::Shape) -> Result<Matrix, String> {
        if !shape.channels.is_multiple_of(BLOCK) {
            let mend = "use `uniform` or a transform that pads";
            return Err(format!("needs a multiple of {BLOCK} channels, not {}; {mend}", shape.channels));
        }
        Matrix::new(shape, Axis::Token { group: BLOCK }, self, false)
    }

    const fn bits(self) -> Bits {
        match self {
            Kind::Q8_0 => Bits::B8,
            Kind::Q5_1 | Kind::Q5_0 => Bits::B5,
            Kind::Q4_1 | Kind::Q4_0 | Kind::Iq4Nl => Bits::B4,
        }
    }

    const fn has_minimum(self) -> bool {
        matches!(self, Kind::Q5_1 | Kind::Q4_1)
    }
}

fn build(kind: Kind, args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    args.done()?;
    let matrix = kind.matrix(context.shape()).map_err(|what| args.error(what))?;
    Ok(Built::Part(std::sync::Arc::new(matrix)))
}

impl GroupQuantizer for Kind {
    fn packing(&self) -> Packing {
        let table = (*self == Kind::Iq4Nl).then(|| UNEVEN.map(|level| level.wrapping_add(-128) as u8));
        Packing::Planes { bits: self.bits(), table }
    }

    fn zero(&self) -> u8 {
        match self {
            Kind::Q8_0 | Kind::Iq4Nl => 128,
            Kind::Q5_0 => 16,
            Kind::Q4_0 => 8,
            Kind::Q5_1 | Kind::Q4_1 => 0,
        }
    }

    fn scale(&self) -> Kept {
        Kept::Stored(Store::F16)
    }

    fn offset(&self) -> Offset {
        if self.has_minimum() { Offset::Added(Kept::Stored(Store::F16)) } else { Offset::None }
    }

    fn quantize(&self, _: Group, x: &[f32], codes: &mut [u8]) -> Parameters {
        let inverse = |d: f32| if d == 0.0 { 0.0 } else { 1.0 / d };
        let (scale, offset) = match self {
            Kind::Q8_0 => {
                let d = reach(x) / 127.0;
                each(x, codes, |x| (x * inverse(d)).round() as i8 as u8 ^ 128);
                (d, 0.0)
            }
            Kind::Q5_1 | Kind::Q4_1 => {
                let top = if *self == Kind::Q5_1 { 31 } else { 15 };
                let (low, high) = range(x);
                let d = (high - low) / f32::from(top);
                each(x, codes, |x| (((x - low) * inverse(d) + 0.5) as u8).min(top));
                (d, low)
            }
            Kind::Q5_0 | Kind::Q4_0 => {
                let middle = self.zero();
                let d = largest(x) / -f32::from(middle);
                each(x, codes, |x| ((x * inverse(d) + (f32::from(middle) + 0.5)) as u8).min(2 * middle - 1));
                (d, 0.0)
            }
            Kind::Iq4Nl => (uneven(x, codes), 0.0),
        };
        let offset = if self.has_minimum() { Store::F16.round(offset) } else { 0.0 };
        Parameters { scale: Store::F16.round(scale), offset }
    }

    fn describe(&self) -> String {
        format!("ggml {}", self.name())
    }
}

fn each(x: &[f32], codes: &mut [u8], code: impl Fn(f32) -> u8) {
    x.iter().zip(codes).for_each(|(&x, to)| *to = code(x));
}

/// The first value of largest magnitude.
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |largest: f32, &x| if x.abs() > largest.abs() { x } else { largest })
}

/// `iq4_nl`: nearest levels with the largest on the lowest level, then the scale refitted, errors weighted by `x²`.
fn uneven(x: &[f32], codes: &mut [u8]) -> f32 {
    let largest = largest(x);
    if largest.abs() < NOTHING {
        codes.fill(8);
        return 0.0;
    }
    let inverse = 1.0 / (largest / f32::from(UNEVEN[0]));
    let (mut along, mut across) = (0f32, 0f32);
    for (&x, code) in x.iter().zip(codes) {
        let index = nearest(inverse * x);
        *code = index as u8;
        let level = f32::from(UNEVEN[index]);
        let weight = x * x;
        along += weight * level * x;
        across += weight * level * level;
    }
    let scale = along / across;
    if scale.is_finite() { scale } else { 0.0 }
}

/// Index of the nearest level, the upper of two equally near.
fn nearest(x: f32) -> usize {
    let above = UNEVEN.partition_point(|&level| f32::from(level) <= x);
    match above {
        0 => 0,
        16 => 15,
        _ if x - f32::from(UNEVEN[above - 1]) < f32::from(UNEVEN[above]) - x => above - 1,
        _ => above,
    }
}
