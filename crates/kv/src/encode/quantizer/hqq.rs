//! Half-quadratic quantization: uniform levels whose zero point is refined for a norm that tolerates outliers.
//!
//! Hicham Badri and Appu Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023), as the HQQ back end
//! of the quantized cache in Hugging Face transformers uses it, with groups along the channels of a token.

use super::{Group, GroupQuantizer, Kept, Offset, Packing, Parameters, Store, range, reach};
use crate::encode::part::matrix::{Axis, Matrix};
use crate::encode::stage::StageEntry;
use cachalot_kernels::codes::Bits;
use cachalot_kernels::simd::{LANES, Simd};
use cachalot_kernels::{Isa, dispatch};

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
/// An error that shrinks to nothing in every iteration: `|e|^0.7` gets steeper the smaller it is.
const SMALL: f32 = 0.1;
/// Steps in one unit at most, so that constant groups stay finite.
const STEEPEST: f32 = 2e4;

#[derive(Clone, Debug)]
struct Hqq {
    bits: Bits,
    refine: bool,
}

impl Hqq {
    fn code(&self, x: f32, scale: f32, point: f32) -> f32 {
        (x / scale + point).round_ties_even().clamp(0.0, self.top())
    }

    /// Moves the zero point to where `Σ |x - x̂|^0.7` is smaller, by half-quadratic splitting.
    fn refined(&self, x: &[f32], scale: f32, start: f32) -> f32 {
        let (mut point, mut best, mut least, mut beta) = (start, start, f32::INFINITY, 10f32);
        let (isa, count) = (Isa::detect(), x.len());
        let mut padded = x.to_vec();
        padded.resize(count.next_multiple_of(LANES), 0.0);
        for _ in 0..ITERATIONS {
            let (error, next) = step(isa, &padded, count, Levels { scale, point, top: self.top() }, beta);
            if error >= least {
                break;
            }
            (least, best) = (error, point);
            point = next / count as f32;
            beta *= 1.01;
        }
        best
    }

    fn top(&self) -> f32 {
        ((1u32 << self.bits.count()) - 1) as f32
    }
}

/// Evenly spaced levels from zero to `top`, in steps.
#[derive(Clone, Copy)]
struct Levels {
    scale: f32,
    point: f32,
    top: f32,
}

dispatch! {
    /// The absolute errors of the first `count` numbers, and the zero points that each would have where what tolerates
    /// outliers is left out of it; sums of both.
    fn step(x: &[f32], count: usize, levels: Levels, beta: f32) -> (f32, f32) = step_body
}

#[inline(always)]
unsafe fn step_body<S: Simd>(x: &[f32], count: usize, levels: Levels, beta: f32) -> (f32, f32) {
    // SAFETY: chunks have sixteen elements; the features are the dispatcher's business.
    unsafe {
        let (zero, scale, point) = (S::splat(0.0), S::splat(levels.scale), S::splat(levels.point));
        let (mut errors, mut nexts) = (zero, zero);
        for (first, x) in (0..count).step_by(LANES).zip(x.as_chunks::<LANES>().0) {
            let there = if count - first >= LANES { u16::MAX } else { (1 << (count - first)) - 1 };
            let x = S::load(x.as_ptr());
            let code = S::round(S::add(S::div(x, scale), point));
            let code = S::min(S::splat(levels.top), S::max(code, zero));
            let off = S::sub(x, S::mul(S::sub(code, point), scale));
            let size = S::select(there, S::abs(off), zero);
            errors = S::add(errors, size);
            let mut shrunk = zero;
            if S::lt(S::splat(SMALL), size) != 0 {
                let by = S::div(power::<S>(S::max(size, S::splat(SMALL))), S::splat(beta));
                let left = S::max(S::sub(size, by), zero);
                shrunk = S::select(S::lt(off, zero), S::sub(zero, left), left);
            }
            let next = S::sub(code, S::div(S::sub(x, shrunk), scale));
            nexts = S::add(nexts, S::select(there, next, zero));
        }
        (S::reduce_add(errors), S::reduce_add(nexts))
    }
}

/// `x^(NORM - 1)` of numbers from [`SMALL`] to 1e5, to a few units of the last place: with `y = x^-0.3`, `y^-10 = x^3`, which
/// Newton's method solves by multiplications.
#[inline(always)]
unsafe fn power<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the features are the dispatcher's business.
    unsafe {
        // The bits of a number are its logarithm but for a few hundredths.
        let log2 = S::fma(S::to_f32(S::abs_bits(x)), S::splat(1.0 / (1 << 23) as f32), S::splat(-126.957));
        let mut y = S::exp(S::mul(log2, S::splat((NORM - 1.0) * std::f32::consts::LN_2)));
        let cube = S::mul(x, S::mul(x, x));
        for _ in 0..3 {
            let square = S::mul(y, y);
            let fourth = S::mul(square, square);
            let tenth = S::mul(square, S::mul(fourth, fourth));
            let off = S::sub(S::splat(1.0), S::mul(cube, tenth));
            y = S::fma(S::mul(y, S::splat(0.1)), off, y);
        }
        y
    }
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
        let ((low, high), top) = (range(x), self.top());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::math::Rng;

    /// The step as the paper writes it, in double precision.
    fn written_out(x: &[f32], levels: Levels, beta: f32) -> (f64, f64) {
        let Levels { scale, point, top } = levels;
        let (mut errors, mut nexts) = (0.0, 0.0);
        for &x in x {
            let code = (x / scale + point).round_ties_even().clamp(0.0, top);
            let off = f64::from(x - (code - point) * scale);
            let shrunk = (off.abs() - off.abs().powf(f64::from(NORM) - 1.0) / f64::from(beta)).max(0.0).copysign(off);
            errors += off.abs();
            nexts += f64::from(code) - (f64::from(x) - shrunk) / f64::from(scale);
        }
        (errors, nexts)
    }

    #[test]
    fn a_step_is_that_of_the_paper_on_every_instruction_set() {
        let mut rng = Rng::new(9, 1);
        for (count, reach) in [(64usize, 0.1), (64, 3.0), (37, 50.0), (96, 3000.0), (1, 60_000.0)] {
            let mut x: Vec<f32> = (0..count).map(|_| (reach * rng.normal()) as f32).collect();
            let levels = Levels { scale: reach as f32 / 7.0, point: 7.3, top: 15.0 };
            for beta in [10.0, 12.1] {
                let exact = written_out(&x, levels, beta);
                x.resize(count.next_multiple_of(LANES), 0.0);
                let portable = step(Isa::Portable, &x, count, levels, beta);
                for isa in Isa::available() {
                    assert_eq!(step(isa, &x, count, levels, beta), portable, "{isa} {count} {reach}");
                }
                x.truncate(count);
                let near = |got: f32, exact: f64, size: f64| (f64::from(got) - exact).abs() <= 2e-6 * size;
                assert!(near(portable.0, exact.0, exact.0), "{portable:?} {exact:?}");
                assert!(near(portable.1, exact.1, 8.0 * count as f64), "{portable:?} {exact:?}");
            }
        }
    }
}
