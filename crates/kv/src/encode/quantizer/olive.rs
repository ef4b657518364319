//! Outlier-victim pairs (OliVe, arXiv 2304.07493): four bits a value and no index of outliers.
//!
//! A pair of neighbouring channels is one byte. Where one of them is an outlier, the other gives up its nibble to say so
//! and decodes to zero; the outlier's nibble is then a small float of its own.

use super::{Group, GroupQuantizer, Kept, Offset, Packing, Parameters, Store};
use crate::encode::codec::Side;
use crate::encode::part::matrix::{Axis, Matrix};
use crate::encode::stage::StageEntry;
use cachalot_kernels::simd::{LANES, Simd};
use cachalot_kernels::{Isa, dispatch};

pub(super) const STAGE: StageEntry = StageEntry {
    name: "olive",
    summary: "outlier-victim pairs of channels, 4 bits and a scale found by search: group=0 (channels of a token, 0 for \
              all), search=true",
    build: |args, context| {
        let group = args.integer("group", 0, 0..=4096)?;
        let search = args.flag("search", true)?;
        let distance = if context.side == Side::Keys { 1 } else { 4 };
        Matrix::finish(args, context, Axis::Token { group }, Olive { distance, search }, false)
    },
    calibrate: None,
};

/// The nibble of a victim.
const VICTIM: u8 = 8;
/// Magnitudes of outliers by their low three bits; the first would be the victim's nibble and is never written.
const OUTLIERS: [u8; 8] = [0, 12, 16, 24, 32, 48, 64, 96];
/// The largest of them: what zero is among levels.
const LARGEST: u8 = OUTLIERS[7];
/// The largest that is no outlier.
const NORMAL: f32 = 7.0;

/// Levels of a pair's nibbles: what [`table`] says of each.
#[cfg(test)]
pub(in crate::encode) const fn levels(pair: [u8; 2]) -> [u8; 2] {
    match pair {
        [VICTIM, VICTIM] => [LARGEST, LARGEST],
        [VICTIM, code] => [LARGEST, outlier(code)],
        [code, VICTIM] => [outlier(code), LARGEST],
        [a, b] => [normal(a), normal(b)],
    }
}

/// Levels of the sixteen codes beside a code that is no victim's, or beside a victim's. A victim decodes to zero beside any
/// code: the first of the magnitudes of outliers is zero.
pub(in crate::encode) const fn table(beside_victim: bool) -> [u8; 16] {
    let mut table = [LARGEST; 16];
    let mut code = 0;
    while code < 16 {
        if beside_victim {
            table[code as usize] = outlier(code);
        } else if code != VICTIM {
            table[code as usize] = normal(code);
        }
        code += 1;
    }
    table
}

const fn normal(code: u8) -> u8 {
    if code < 8 { LARGEST + code } else { LARGEST + code - 16 }
}

const fn outlier(code: u8) -> u8 {
    let magnitude = OUTLIERS[(code & 7) as usize];
    if code < 8 { LARGEST + magnitude } else { LARGEST - magnitude }
}

/// The nibble of a number in steps, and whether it is one of an outlier.
fn nearest(steps: f32) -> (u8, bool) {
    let magnitude = steps.abs();
    if magnitude <= INLIER {
        let level = magnitude.round_ties_even().min(NORMAL) as u8;
        return (if steps < 0.0 { (16 - level) & 15 } else { level }, false);
    }
    let above = OUTLIERS[1..].windows(2).filter(|pair| magnitude > f32::from(pair[0] + pair[1]) / 2.0).count();
    (u8::from(steps < 0.0) << 3 | (above as u8 + 1), true)
}

/// The nibbles of two neighbours in steps; of two outliers the first is kept.
fn pair(steps: [f32; 2]) -> [u8; 2] {
    match steps.map(nearest) {
        [(a, true), _] => [a, VICTIM],
        [_, (b, true)] => [VICTIM, b],
        [(a, _), (b, _)] => [a, b],
    }
}

#[derive(Clone, Debug)]
struct Olive {
    distance: usize,
    search: bool,
}

/// Neighbours; the last may be alone.
fn pairs(x: &[f32]) -> impl Iterator<Item = [f32; 2]> {
    x.chunks(2).map(|x| [x[0], x.get(1).copied().unwrap_or(0.0)])
}

/// Magnitudes of neighbours, first ones and second ones, with zeros up to whole vectors.
fn magnitudes(x: &[f32]) -> [Vec<f32>; 2] {
    let mut sides = [Vec::new(), Vec::new()];
    for pair in pairs(x) {
        sides.iter_mut().zip(pair).for_each(|(side, x)| side.push(x.abs()));
    }
    sides.iter_mut().for_each(|side| side.resize(side.len().next_multiple_of(LANES), 0.0));
    sides
}

/// The largest magnitude in steps that is no outlier's: half way between the largest normal level and the smallest outlier.
const INLIER: f32 = (NORMAL + OUTLIERS[1] as f32) / 2.0;

dispatch! {
    /// Squared error of neighbours of these magnitudes with this scale: what [`pair`] makes of them, sixteen at a time.
    fn error(a: &[f32], b: &[f32], scale: f32) -> f32 = error_body
}

#[inline(always)]
unsafe fn error_body<S: Simd>(a: &[f32], b: &[f32], scale: f32) -> f32 {
    // SAFETY: chunks have sixteen elements; the features are the dispatcher's business.
    unsafe {
        let (step, inlier, zero) = (S::splat(scale), S::splat(INLIER), S::splat(0.0));
        let mut sums = [zero; 2];
        for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
            let x = [S::load(a.as_ptr()), S::load(b.as_ptr())];
            let steps = [S::div(x[0], step), S::div(x[1], step)];
            let outliers = [S::lt(inlier, steps[0]), S::lt(inlier, steps[1])];
            for i in 0..2 {
                let mut level = S::min(S::round(steps[i]), S::splat(NORMAL));
                if outliers != [0; 2] {
                    // Of two outliers the first is kept; the neighbour of one that is kept becomes zero.
                    let (kept, victim) = match i {
                        0 => (outliers[0], outliers[1] & !outliers[0]),
                        _ => (outliers[1] & !outliers[0], outliers[0]),
                    };
                    level = S::select(victim, zero, S::select(kept, outlier_levels::<S>(steps[i]), level));
                }
                let off = S::sub(x[i], S::mul(level, step));
                sums[i] = S::fma(off, off, sums[i]);
            }
        }
        S::reduce_add(S::add(sums[0], sums[1]))
    }
}

/// The magnitude of an outlier nearest to each.
#[inline(always)]
unsafe fn outlier_levels<S: Simd>(steps: S::F) -> S::F {
    // SAFETY: the features are the dispatcher's business.
    unsafe {
        let mut level = S::splat(f32::from(OUTLIERS[1]));
        for pair in OUTLIERS[1..].windows(2) {
            let above = S::lt(S::splat(f32::from(pair[0] + pair[1]) / 2.0), steps);
            level = S::select(above, S::splat(f32::from(pair[1])), level);
        }
        level
    }
}

impl GroupQuantizer for Olive {
    fn packing(&self) -> Packing {
        Packing::Pairs { distance: self.distance }
    }

    fn zero(&self) -> u8 {
        LARGEST
    }

    fn scale(&self) -> Kept {
        Kept::Stored(Store::F16)
    }

    fn offset(&self) -> Offset {
        Offset::None
    }

    fn quantize(&self, _: Group, x: &[f32], codes: &mut [u8]) -> Parameters {
        let count = x.len() as f64;
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let deviation = (x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count).sqrt();
        let start = (mean.abs() + 3.0 * deviation) as f32 / NORMAL;
        let mut best = (f32::INFINITY, Store::F16.round(start));
        let (isa, [a, b]) = (Isa::detect(), magnitudes(x));
        for i in 0..if self.search { 38u8 } else { 0 } {
            let scale = Store::F16.round(start * (0.75 + 0.02 * f32::from(i)));
            if scale > 0.0 {
                let error = error(isa, &a, &b, scale);
                best = if error < best.0 { (error, scale) } else { best };
            }
        }
        let scale = best.1;
        for (x, codes) in pairs(x).zip(codes.chunks_mut(2)) {
            let nibbles = if scale > 0.0 { pair(x.map(|x| x / scale)) } else { [0, 0] };
            codes.copy_from_slice(&nibbles[..codes.len()]);
        }
        Parameters { scale, offset: 0.0 }
    }

    fn describe(&self) -> String {
        "outlier-victim pairs, f16 scale".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(x: [f32; 2]) -> [i16; 2] {
        levels(pair(x)).map(|level| i16::from(level) - i16::from(LARGEST))
    }

    #[test]
    fn outliers_make_victims_of_their_neighbours() {
        assert_eq!(round_trip([45.0, 3.0]), [48, 0]);
        assert_eq!(round_trip([3.0, 5.0]), [3, 5]);
        assert_eq!(round_trip([9.0, -2.0]), [7, -2], "nine is nearer to seven than to twelve");
        assert_eq!(round_trip([50.0, 60.0]), [48, 0]);
        assert_eq!(round_trip([-2.0, -1e9]), [0, -96]);
        assert_eq!(round_trip([-13.0, 0.0]), [-12, 0]);
    }

    #[test]
    fn every_pair_that_is_written_is_read_back() {
        for byte in 0..=255u8 {
            let nibbles = [byte & 15, byte >> 4];
            let read = levels(nibbles).map(|level| f32::from(level) - f32::from(LARGEST));
            assert!(read.iter().all(|x| x.abs() <= 96.0));
            let again = pair(read);
            assert_ne!(again, [VICTIM, VICTIM], "nobody is a victim of a victim");
            assert_eq!(levels(again), levels(nibbles), "{byte:#x}");
        }
    }

    /// The search sees the error of what is written, outliers, victims and all, on every instruction set.
    #[test]
    fn the_error_is_that_of_the_pairs() {
        let mut rng = crate::encode::math::Rng::new(5, 0);
        for (count, reach) in [(64, 1.0), (37, 8.0), (2, 30.0), (96, 100.0)] {
            let x: Vec<f32> = (0..count).map(|_| (reach * rng.normal().powi(3)) as f32).collect();
            let [a, b] = magnitudes(&x);
            for scale in [0.5f32, 1.0, 1.75] {
                let decoded = pairs(&x).flat_map(|x| round_trip(x.map(|x| x / scale)));
                let exact: f64 = x.iter().zip(decoded).map(|(x, l)| f64::from(x - f32::from(l) * scale).powi(2)).sum();
                let portable = error(Isa::Portable, &a, &b, scale);
                assert!((f64::from(portable) - exact).abs() <= 1e-6 * exact, "{count} {scale}: {portable} {exact}");
                for isa in Isa::available() {
                    assert_eq!(error(isa, &a, &b, scale).to_bits(), portable.to_bits(), "{isa}");
                }
            }
        }
    }

    #[test]
    fn without_outliers_it_is_symmetric_to_seven() {
        for i in -70..=70 {
            let x = i as f32 / 10.0;
            assert_eq!(round_trip([x, -x]).map(f32::from), [x.round_ties_even(), -x.round_ties_even()]);
        }
    }
}
