//! Half-quadratic quantization: uniform levels whose zero point is refined for a norm that tolerates outliers.
//!
//! Hicham Badri and Appu Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023), as the HQQ back end
//! of the quantized cache in Hugging Face transformers uses it, with groups along the channels of a token.

use super::{Group, GroupQuantizer, Kept, Offset, Packing, Parameters, Store, range, reach};
use crate::encode::part::matrix::{Axis, Matrix};
use crate::encode::stage::StageEntry;
use cachalot_kernels::codes::Bits;

pub(super) const STAGE: StageEntry = StageEntry {
    name: "hqq",
    summary: "uniform levels with a refined zero point, per token: bits=4 (1, 2, 3, 4 or 8), group=64 (0 for all) \
              channels, refine=true (up to 20 iterations), offset=f16",
    build: |args, context| {
        let bits = args.integer("bits", 4, 1..=8)?;
        let Some(bits) = Bits::new(bits).filter(|&bits| bits <= Bits::B4 || bits == Bits::B8) else {
            return Err(args.error(format!("has no codes of {bits} bits; 1, 2, 3, 4 and 8 are possible")));
        };
        let group = args.integer("group", 64, 0..=4096)?;
        let refine = args.flag("refine", true)?;
        Matrix::finish(args, context, Axis::Token { group }, Hqq { bits, refine }, false)
    },
    calibrate: None,
};

/// Exponent of the norm that is minimized.
const NORM: f32 = 0.7;
/// Iterations at most.
const ITERATIONS: usize = 20;
/// Steps in one unit at most, so that constant groups stay finite.
const STEEPEST: f32 = 2e4;

#[derive(Clone, Debug)]
struct Hqq {
    bits: Bits,
    refine: bool,
}

impl Hqq {
    fn code(&self, x: f32, scale: f32, point: f32) -> f32 {
        let top = ((1u32 << self.bits.count()) - 1) as f32;
        (x / scale + point).round_ties_even().clamp(0.0, top)
    }

    /// Moves the zero point to where `Σ |x - x̂|^0.7` is smaller, by half-quadratic splitting.
    fn refined(&self, x: &[f32], scale: f32, start: f32) -> f32 {
        let (mut point, mut best, mut least, mut beta) = (start, start, f32::INFINITY, 10f32);
        for _ in 0..ITERATIONS {
            // Errors up to here shrink to nothing; most are, and need no power.
            let nothing = f64::from(beta).powf(1.0 / (f64::from(NORM) - 2.0)) as f32;
            let (mut error, mut next) = (0.0, 0.0);
            for &x in x {
                let code = self.code(x, scale, point);
                let off = x - (code - point) * scale;
                error += off.abs();
                let shrunk = if off.abs() <= nothing { 0.0 } else { shrink(off, beta) };
                next += code - (x - shrunk) / scale;
            }
            if error >= least {
                break;
            }
            (least, best) = (error, point);
            point = next / x.len() as f32;
            beta *= 1.01;
        }
        best
    }
}

/// The proximal step of the norm. In double precision, so that nobody's power function shows in the result.
fn shrink(off: f32, beta: f32) -> f32 {
    let by = f64::from(off.abs()).powf(f64::from(NORM) - 1.0) as f32 / beta;
    (off.abs() - by).max(0.0).copysign(off)
}

impl GroupQuantizer for Hqq {
    fn packing(&self) -> Packing {
        Packing::Planes { bits: self.bits, table: None }
    }

    fn zero(&self) -> u8 {
        0
    }

    fn scale(&self) -> Kept {
        Kept::Stored(Store::F16)
    }

    fn offset(&self) -> Offset {
        Offset::Point(Store::F16)
    }

    fn quantize(&self, _: Group, x: &[f32], codes: &mut [u8]) -> Parameters {
        let (low, high) = range(x);
        let top = ((1u32 << self.bits.count()) - 1) as f32;
        // Beyond some steps a zero point in half floats would lose its unit.
        let widest = reach(x) / Store::F16.whole_steps();
        let scale = Store::F16.round(((high - low) / top).max(1.0 / STEEPEST).max(widest));
        let mut point = -low / scale;
        if self.refine {
            point = self.refined(x, scale, point);
        }
        let point = Store::F16.round(point);
        x.iter().zip(codes).for_each(|(&x, code)| *code = self.code(x, scale, point) as u8);
        Parameters { scale, offset: point }
    }

    fn describe(&self) -> String {
        let refined = if self.refine { "refined " } else { "" };
        format!("{} bits, f16 scale and {refined}zero point", self.bits.count())
    }
}
