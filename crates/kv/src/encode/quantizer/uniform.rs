//! Evenly spaced levels, affine or symmetric: round-to-nearest quantization as most methods use it.
//!
//! With `s = (max - min) / (levels - 1)`, KIVI (arXiv 2402.02750) stores the minimum and codes `(x - min) / s`; SAW-INT4 and
//! quanto differ in what is stored; QuaRot (2404.00456) and RotateKV shrink the range by a clip ratio; symmetric levels
//! with `s = max|x| / (levels / 2 - 1)` are plain RTN and FireQ.

use super::{Group, GroupQuantizer, Kept, Offset, Packing, Parameters, Store, range, reach};
use crate::encode::part::matrix::Matrix;
use crate::encode::stage::{Args, Built, Context, StageEntry, StageError};
use cachalot_kernels::codes::Bits;
use cachalot_kernels::simd::{LANES, Simd};
use cachalot_kernels::{Isa, dispatch};

pub(super) const STAGE: StageEntry = StageEntry {
    name: "uniform",
    summary: "evenly spaced levels: bits=4 (1 to 8) or levels=N (2 to 256), axis=channel|token (keys: channel, values: \
              token), group=32 (0 for all), symmetric=false, clip=1, scale=f16|bf16|f32|e8m0|e4m3 (unit=1 for the last \
              two), zero=min|float|integer, offset=f16|bf16|f32 (type of min or float), round=even|up, balance=false \
              (divides channels by the root of their largest magnitude first; axis=token)",
    build,
    calibrate: None,
};

/// Where an affine quantizer counts from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Zero {
    /// Levels are symmetric about zero.
    Symmetric,
    /// The least number of the group is stored.
    Minimum(Store),
    /// A point in steps is stored: `x = (code - point) * scale`. The scale grows where the point would lose its unit.
    Point(Store),
}

/// What becomes of numbers half way between levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the even level.
    Even,
    /// To the level above.
    Up,
}

/// How numbers become codes: `round((x - from) / scale + inside) + outside` between zero and `top`.
#[derive(Clone, Copy)]
struct Steps {
    from: f32,
    scale: f32,
    inside: f32,
    outside: f32,
    top: f32,
    /// See [`Rounding`].
    up: bool,
}

impl Steps {
    /// The code of a number no steps from the first.
    fn of_nothing(self) -> u8 {
        let rounded = if self.up { (self.inside + 0.5).floor() } else { self.inside.round_ties_even() };
        (rounded + self.outside).clamp(0.0, self.top) as u8
    }
}

dispatch! {
    fn round(x: &[f32], steps: Steps, codes: &mut [u8]) = round_body
}

#[inline(always)]
unsafe fn round_body<S: Simd>(x: &[f32], steps: Steps, codes: &mut [u8]) {
    let Steps { from, scale, inside, outside, top, up } = steps;
    for (x, codes) in x.chunks(LANES).zip(codes.chunks_mut(LANES)) {
        let (mut lanes, mut found) = ([0.0; LANES], [0; LANES]);
        lanes[..x.len()].copy_from_slice(x);
        // SAFETY: the arrays have sixteen elements; the features are the dispatcher's business.
        unsafe {
            let steps = S::div(S::sub(S::load(lanes.as_ptr()), S::splat(from)), S::splat(scale));
            let place = S::add(steps, S::splat(inside));
            let rounded = if up {
                let (half, one) = (S::add(place, S::splat(0.5)), S::splat(1.0));
                let near = S::round(half);
                S::select(S::lt(half, near), S::sub(near, one), near)
            } else {
                S::round(place)
            };
            let code = S::max(S::splat(0.0), S::add(rounded, S::splat(outside)));
            S::store_bytes(found.as_mut_ptr(), S::to_i32(S::min(S::splat(top), code)));
        }
        codes.iter_mut().zip(found).for_each(|(code, found)| *code = found as u8);
    }
}

/// Evenly spaced levels.
#[derive(Clone, Debug, PartialEq)]
pub struct Uniform {
    /// How many, 2 to 256.
    pub levels: usize,
    /// Where they count from.
    pub zero: Zero,
    /// What the range is multiplied with before.
    pub clip: f32,
    /// How scales are stored.
    pub scale: Store,
    /// Ties.
    pub rounding: Rounding,
}

impl Uniform {
    /// Affine levels of so many bits with minimum and scale in half floats.
    pub fn affine(bits: usize) -> Uniform {
        let zero = Zero::Minimum(Store::F16);
        Uniform { levels: 1 << bits, zero, clip: 1.0, scale: Store::F16, rounding: Rounding::Even }
    }

    /// Symmetric levels of so many bits with the scale in half floats.
    pub fn symmetric(bits: usize) -> Uniform {
        Uniform { zero: Zero::Symmetric, ..Uniform::affine(bits) }
    }

    fn bits(&self) -> Bits {
        let bits = usize::BITS - (self.levels.max(2) - 1).leading_zeros();
        Bits::new(bits as usize).unwrap_or(Bits::B8)
    }

    fn top(&self) -> f32 {
        (self.levels - 1) as f32
    }
}

impl GroupQuantizer for Uniform {
    fn packing(&self) -> Packing {
        Packing::Planes { bits: self.bits(), table: None }
    }

    fn zero(&self) -> u8 {
        if self.zero == Zero::Symmetric { (self.levels / 2) as u8 } else { 0 }
    }

    fn scale(&self) -> Kept {
        Kept::Stored(self.scale)
    }

    fn offset(&self) -> Offset {
        match self.zero {
            Zero::Symmetric => Offset::None,
            Zero::Minimum(store) => Offset::Added(Kept::Stored(store)),
            Zero::Point(store) => Offset::Point(store),
        }
    }

    fn quantize(&self, _: Group, x: &[f32], codes: &mut [u8]) -> Parameters {
        let (low, high) = range(x);
        let (low, high) = (low * self.clip, high * self.clip);
        let (scale, offset, from, point) = match self.zero {
            Zero::Symmetric => {
                let scale = self.scale.round(reach(x) * self.clip / ((self.levels - 1) / 2) as f32);
                (scale, 0.0, 0.0, (self.levels / 2) as f32)
            }
            Zero::Minimum(store) => {
                let least = store.round(low);
                (self.scale.round((high - low) / self.top()), least, least, 0.0)
            }
            Zero::Point(store) => {
                let widest = reach(&[low, high]) / store.whole_steps();
                let scale = self.scale.round(((high - low) / self.top()).max(widest));
                let point = if scale > 0.0 { store.round(-low / scale) } else { 0.0 };
                (scale, point, 0.0, point)
            }
        };
        // A whole point is added to the rounded quotient, so that both ways of writing it agree on ties.
        let (inside, outside) = if point == point.trunc() { (0.0, point) } else { (point, 0.0) };
        let steps = Steps { from, scale, inside, outside, top: self.top(), up: self.rounding == Rounding::Up };
        if scale > 0.0 {
            round(Isa::detect(), x, steps, codes)
        } else {
            codes[..x.len()].fill(steps.of_nothing())
        }
        Parameters { scale, offset }
    }

    fn describe(&self) -> String {
        let kind = match self.zero {
            Zero::Symmetric => "symmetric".to_owned(),
            Zero::Minimum(store) => format!("affine, {store} minimum"),
            Zero::Point(store) => format!("affine, {store} zero point"),
        };
        let clip = if self.clip == 1.0 { String::new() } else { format!(", range clipped to {}", self.clip) };
        format!("{} uniform levels, {kind}, {} scale{clip}", self.levels, self.scale)
    }
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let bits = args.integer("bits", 4, 1..=8)?;
    let levels = args.integer("levels", 1 << bits, 2..=256)?;
    let symmetric = args.flag("symmetric", false)?;
    if symmetric && levels < 3 {
        return Err(args.error("symmetric levels are at least three; use `sign` for one bit"));
    }
    let zero = match args.word("zero", &["min", "float", "integer"])? {
        _ if symmetric => Zero::Symmetric,
        "integer" => Zero::Point(Store::I16),
        "float" => Zero::Point(store(args, "offset", 1.0, false)?),
        _ => Zero::Minimum(store(args, "offset", 1.0, false)?),
    };
    let unit = args.number("unit", 1.0, 1e-6..=1e6)?;
    let scale = store(args, "scale", unit, true)?;
    let rounding = if args.word("round", &["even", "up"])? == "up" { Rounding::Up } else { Rounding::Even };
    let clip = args.number("clip", 1.0, 0.05..=1.0)?;
    let balance = args.flag("balance", false)?;
    Matrix::build(args, context, 32, Uniform { levels, zero, clip, scale, rounding }, balance)
}

/// The argument that says how parameters are stored.
fn store(args: &Args, key: &'static str, unit: f32, small: bool) -> Result<Store, StageError> {
    let all = ["f16", "bf16", "f32", "e8m0", "e4m3"];
    Ok(match args.word(key, if small { &all } else { &all[..3] })? {
        "bf16" => Store::Bf16,
        "f32" => Store::F32,
        "e8m0" => Store::E8m0 { unit },
        "e4m3" => Store::E4m3 { unit },
        _ => Store::F16,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_round_as_numbers_do() {
        // Halves among them, and what lies far outside.
        let x: Vec<f32> = (-40..90).map(|i| i as f32 * 0.25).chain([1e30, -1e30, 3.4e38]).collect();
        for (from, scale, inside, outside) in [(0.0, 0.5, 0.0, 8.0), (-1.25, 1.0, 0.0, 0.0), (0.0, 0.7, 3.3, 0.0)] {
            for up in [false, true] {
                let steps = Steps { from, scale, inside, outside, top: 15.0, up };
                let alone: Vec<u8> =
                    x.iter().map(|x| Steps { inside: (x - from) / scale + inside, ..steps }.of_nothing()).collect();
                for isa in Isa::available() {
                    let mut codes = vec![9; x.len()];
                    round(isa, &x, steps, &mut codes);
                    assert_eq!(codes, alone, "{isa} {from} {up}");
                }
            }
        }
    }
}
