//! Random matrices and activations, and the arithmetic of the quantized layer written out plainly.

use crate::linear::{Linear, QuantSpec};
use half::f16;
use proptest::prelude::*;

/// A small generator, so that large samples need only one seed from proptest.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// In `-1..1`.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Activations with everything finite that a model may produce: zero blocks, outliers, subnormals, ties.
pub fn activations(rng: &mut Rng, rows: usize, inp: usize) -> Vec<f32> {
    let mut x = Vec::with_capacity(rows * inp);
    for block in 0..(rows * inp).div_ceil(32) {
        let kind = rng.below(12);
        for i in 0..32.min(rows * inp - block * 32) {
            let v = rng.unit();
            x.push(match kind {
                0 => 0.0,
                1 => -0.0,
                2 => v * 1e-40,
                3 => v * 1e-6,
                4 if i == rng.below(32) => v * 1e30,
                5 if i == 7 => 3e7,
                // Every code is a tie before rounding, or close to one.
                6 => (v * 127.0).round() + if i == 0 { 0.0 } else { 0.5 },
                _ => v * 4.0,
            });
        }
    }
    x
}

/// Unpacked quantized weights.
#[derive(Clone, Debug)]
pub struct Sample {
    pub spec: QuantSpec,
    pub out: usize,
    pub inp: usize,
    pub codes: Vec<u8>,
    pub d: Vec<f32>,
    pub m: Vec<f32>,
}

impl Sample {
    /// `half`: scales are exact half floats.
    pub fn new(rng: &mut Rng, spec: QuantSpec, out: usize, inp: usize, half: bool) -> Sample {
        let top = if spec.bits == 4 { 15 } else { (spec.zero + 127).min(255) };
        let codes = (0..out * inp).map(|_| rng.below(top as usize + 1) as u8).collect();
        let groups = out * inp / spec.group;
        let scale = |rng: &mut Rng| match rng.below(20) {
            0 => 0.0,
            _ if half => f16::from_f32(rng.unit() * 0.1).to_f32(),
            _ => rng.unit() * 0.1,
        };
        let d = (0..groups).map(|_| scale(rng)).collect();
        let m = (0..if spec.min { groups } else { 0 }).map(|_| scale(rng)).collect();
        Sample { spec, out, inp, codes, d, m }
    }

    pub fn linear(&self) -> Linear {
        let (n, g) = (self.inp, self.inp / self.spec.group);
        Linear::quantized(self.spec, self.out, self.inp, |row, codes, d, m| {
            codes.copy_from_slice(&self.codes[row * n..][..n]);
            d.copy_from_slice(&self.d[row * g..][..g]);
            if self.spec.min {
                m.copy_from_slice(&self.m[row * g..][..g]);
            }
        })
    }

    pub fn weight(&self, row: usize, k: usize) -> f32 {
        let g = (row * self.inp + k) / self.spec.group;
        let w = self.d[g] * (i32::from(self.codes[row * self.inp + k]) - self.spec.zero) as f32;
        if self.spec.min { w + self.m[g] } else { w }
    }

    /// The layer as its documentation defines it, one element after the other.
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let group = self.spec.group;
        let mut y = Vec::new();
        for x in x.chunks_exact(self.inp) {
            let blocks: Vec<(f32, Vec<i32>)> = x
                .chunks_exact(32)
                .map(|x| {
                    let amax = x.iter().fold(0f32, |a, x| a.max(x.abs()));
                    let inverse = if (32512.0 / amax).is_finite() { 32512.0 / amax } else { 0.0 };
                    (amax / 32512.0, x.iter().map(|x| (x * inverse).round_ties_even() as i32).collect())
                })
                .collect();
            for row in 0..self.out {
                let mut acc = 0f32;
                for g in 0..self.inp / group {
                    let (d, codes) = &blocks[g * group / 32];
                    let codes = &codes[g * group % 32..][..group];
                    let weights = &self.codes[row * self.inp + g * group..][..group];
                    let dot: i32 = weights.iter().zip(codes).map(|(w, x)| (i32::from(*w) - self.spec.zero) * x).sum();
                    let at = row * self.inp / group + g;
                    acc = (dot as f32).mul_add(self.d[at] * *d, acc);
                    if self.spec.min {
                        acc = self.m[at].mul_add(d * codes.iter().sum::<i32>() as f32, acc);
                    }
                }
                y.push(acc);
            }
        }
        y
    }
}

pub fn specs() -> impl Strategy<Value = QuantSpec> {
    let bits_zero = prop_oneof![
        (Just(4u8), prop_oneof![Just(0), Just(8)]),
        (Just(8u8), prop_oneof![Just(0), Just(16), Just(32), Just(128)]),
    ];
    (bits_zero, prop_oneof![Just(16usize), Just(32)], any::<bool>()).prop_map(|((bits, zero), group, min)| QuantSpec {
        bits,
        group,
        zero,
        min,
    })
}
