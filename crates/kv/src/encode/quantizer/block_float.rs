//! Blocks that share an exponent: block floating point with integer mantissas, and the four-bit formats with E2M1
//! elements, MXFP4 (OCP microscaling) and NVFP4.

use super::float8::{exponent, power_of_two};
use super::{Group, GroupQuantizer, Kept, Offset, Packing, Parameters, Store, reach};
use crate::encode::codec::Side;
use crate::encode::part::matrix::{Axis, Matrix};
use crate::encode::stage::{Args, Built, Context, NamedTensor, Samples, StageEntry, StageError};
use cachalot_kernels::codes::Bits;

pub(super) const MXFP4: StageEntry = StageEntry {
    name: "mxfp4",
    summary: "OCP microscaling: E2M1 elements, a power of two for 32 channels of a token, 4.25 bits; no arguments",
    build: |args, context| Matrix::finish(args, context, Axis::Token { group: 32 }, E2m1 { scale: POWER }, false),
    calibrate: None,
};

pub(super) const NVFP4: StageEntry = StageEntry {
    name: "nvfp4",
    summary: "E2M1 elements, an E4M3 scale for 16 channels of a token, 4.5 bits: max=448 for keys, 128 for values (the \
              largest magnitude that the scales reach), calibrated=false (take it from the profile)",
    build: build_nvfp4,
    calibrate: Some(calibrate_nvfp4),
};

pub(super) const BFP: StageEntry = StageEntry {
    name: "bfp",
    summary: "block floating point: mantissas of bits=4 (2 to 8) and one exponent of eight bits for group=32 (0 for \
              all) channels of a token",
    build: |args, context| {
        let bits = args.integer("bits", 4, 2..=8)?;
        let group = args.integer("group", 32, 0..=4096)?;
        Matrix::finish(args, context, Axis::Token { group }, Mantissas { bits: bits as i32 }, false)
    },
    calibrate: None,
};

/// Magnitudes of E2M1 in halves.
const HALVES: [u8; 8] = [0, 1, 2, 3, 4, 6, 8, 12];
/// The largest of them.
const LARGEST: u8 = HALVES[7];
/// A scale counts halves.
const POWER: Store = Store::E8m0 { unit: 0.5 };

/// E2M1 elements with a scale as it is stored.
#[derive(Clone, Debug)]
struct E2m1 {
    scale: Store,
}

/// Index of the nearest magnitude, ties to the even mantissa; saturates.
fn element(halves: f32) -> u8 {
    let past = |pair: &[u8], even: bool| {
        let middle = f32::from(pair[0] + pair[1]) / 2.0;
        if even { halves > middle } else { halves >= middle }
    };
    HALVES.windows(2).enumerate().filter(|&(i, pair)| past(pair, i % 2 == 0)).count() as u8
}

impl GroupQuantizer for E2m1 {
    fn packing(&self) -> Packing {
        let level = |code: usize| {
            let magnitude = HALVES[code % 8];
            if code < 8 { LARGEST + magnitude } else { LARGEST - magnitude }
        };
        Packing::Planes { bits: Bits::B4, table: Some(std::array::from_fn(level)) }
    }

    fn zero(&self) -> u8 {
        LARGEST
    }

    fn scale(&self) -> Kept {
        Kept::Stored(self.scale)
    }

    fn offset(&self) -> Offset {
        Offset::None
    }

    fn quantize(&self, _: Group, x: &[f32], codes: &mut [u8]) -> Parameters {
        let reach = reach(x);
        let scale = match self.scale {
            // The exponent is rounded down, so that values in (6, 8) * 2^e saturate: the rule of the format.
            Store::E8m0 { unit } => self.scale.round(power_of_two((exponent(reach) - 2).max(-127)) * unit),
            _ => self.scale.round(reach / f32::from(LARGEST)),
        };
        for (&x, code) in x.iter().zip(codes) {
            let index = if scale > 0.0 { element(x.abs() / scale) } else { 0 };
            *code = u8::from(x < 0.0) << 3 | index;
        }
        Parameters { scale, offset: 0.0 }
    }

    fn describe(&self) -> String {
        format!("E2M1 elements, {} scale", self.scale)
    }
}

fn build_nvfp4(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let most = if context.side == Side::Keys { 448.0 } else { 128.0 };
    let mut most = args.number("max", most, 1e-6..=1e6)?;
    if args.flag("calibrated", false)? {
        most = context.tensor(args, "max", &[1])?[0];
    }
    // The largest block scale, 448, stands for a sixth of the largest magnitude; levels are halves.
    let unit = most / (448.0 * f32::from(LARGEST));
    if !(unit.is_finite() && unit > 0.0) {
        return Err(args.error(format!("a largest magnitude of {most} is not possible")));
    }
    Matrix::finish(args, context, Axis::Token { group: 16 }, E2m1 { scale: Store::E4m3 { unit } }, false)
}

fn calibrate_nvfp4(_: &Args, context: &Context<'_>, samples: &Samples<'_>) -> Result<Vec<NamedTensor>, StageError> {
    let most = reach(samples.rows).max(1e-6);
    Ok(vec![NamedTensor { name: context.tensor_name("max"), shape: vec![1], data: vec![most] }])
}

/// Integer mantissas of so many bits with a shared exponent: the step is `2^(floor(log2 max|x|) - (bits - 2))`.
#[derive(Clone, Debug)]
struct Mantissas {
    bits: i32,
}

impl GroupQuantizer for Mantissas {
    fn packing(&self) -> Packing {
        Packing::Planes { bits: Bits::new(self.bits as usize).unwrap_or(Bits::B8), table: None }
    }

    fn zero(&self) -> u8 {
        1 << (self.bits - 1)
    }

    fn scale(&self) -> Kept {
        Kept::Stored(Store::E8m0 { unit: power_of_two(2 - self.bits) })
    }

    fn offset(&self) -> Offset {
        Offset::None
    }

    fn quantize(&self, _: Group, x: &[f32], codes: &mut [u8]) -> Parameters {
        let step = power_of_two(exponent(reach(x))) * power_of_two(2 - self.bits);
        let zero = f32::from(self.zero());
        for (&x, code) in x.iter().zip(codes) {
            *code = ((x / step).round_ties_even() + zero).clamp(0.0, 2.0 * zero - 1.0) as u8;
        }
        Parameters { scale: step, offset: 0.0 }
    }

    fn describe(&self) -> String {
        format!("block floating point, mantissas of {} bits", self.bits)
    }
}
