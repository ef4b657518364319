//! Numbers on a grid: how fine it is, and which whole numbers a page becomes.

use super::super::layout::Side;
use cachalot_kernels::attention::{Element, PAGE_TOKENS};
use half::{bf16, f16};
use std::ops::Range;

/// Largest whole number, so that a 32-bit float has it exactly.
const MOST: f32 = (1 << 22) as f32;
/// Quarters of an octave that the finest token of values is below the grid of its page.
pub const BELOW: i16 = 32;
/// Different grids of tokens.
pub const GRIDS: u8 = 64;

/// `2^(n / 4)`, the same bits everywhere; none beyond what numbers of a page need.
pub fn step(n: i16) -> Option<f32> {
    const QUARTERS: [f32; 4] = [1.0, 1.189_207_1, std::f32::consts::SQRT_2, 1.681_792_9];
    let exponent = (-400..=400).contains(&n).then(|| n.div_euclid(4) + 127)?;
    Some(QUARTERS[n.rem_euclid(4) as usize] * f32::from_bits((exponent as u32) << 23))
}

/// The `n` of the [`step`] that is nearest.
pub fn nearest(step: f32) -> i16 {
    (4.0 * step.log2()).round().clamp(-380.0, 380.0) as i16
}

/// Elements of a side as numbers, `[channels][tokens]`; none where one is not finite, or the type has too few bits to lose any.
pub fn read(side: &Side, bytes: &[u8]) -> Option<Vec<f32>> {
    let numbers: Vec<f32> = match side.element {
        Element::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Element::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        Element::Bf16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        Element::E4m3 | Element::E5m2 => return None,
    };
    numbers.iter().all(|x| x.is_finite()).then(|| match side.by_channel {
        true => numbers,
        false => (0..side.len()).map(|at| numbers[at % PAGE_TOKENS * side.channels + at / PAGE_TOKENS]).collect(),
    })
}

/// Writes whole numbers `[channels][tokens]` on grids by token as elements of a side.
pub fn write(side: &Side, grid: &[i32], steps: &[f32; PAGE_TOKENS], bytes: &mut [u8]) {
    let put = |at: usize| match side.by_channel {
        true => grid[at] as f32 * steps[at % PAGE_TOKENS],
        false => grid[at % side.channels * PAGE_TOKENS + at / side.channels] as f32 * steps[at / side.channels],
    };
    match side.element {
        // The largest half float is not enough for what rounds up beyond it.
        Element::F16 => bytes.as_chunks_mut().0.iter_mut().enumerate().for_each(|(at, to)| {
            *to = f16::from_f32(put(at).clamp(-65504.0, 65504.0)).to_le_bytes();
        }),
        Element::Bf16 => bytes.as_chunks_mut().0.iter_mut().enumerate().for_each(|(at, to)| {
            *to = bf16::from_f32(put(at).clamp(-3.38e38, 3.38e38)).to_le_bytes();
        }),
        _ => bytes.as_chunks_mut().0.iter_mut().enumerate().for_each(|(at, to)| *to = put(at).to_le_bytes()),
    }
}

/// Median and spread (1.48 times the median distance from it, as a normal distribution has it) of a channel. Unlike mean and
/// variance, a token of enormous keys does not change them.
pub fn centre(x: &[f32]) -> (f32, f32) {
    let middle = |x: &mut [f32]| match x.is_empty() {
        true => 0.0,
        false => *x.select_nth_unstable_by(x.len() / 2, f32::total_cmp).1,
    };
    let mut x = x.to_vec();
    let median = middle(&mut x);
    x.iter_mut().for_each(|x| *x = (*x - median).abs());
    (median, 1.4826 * middle(&mut x))
}

/// Geometric mean of the spreads that are not zero.
pub fn mean_spread(spreads: impl Iterator<Item = f32>) -> Option<f32> {
    let logs: Vec<f32> = spreads.filter(|&spread| spread > 0.0).map(f32::log2).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f32>() / logs.len() as f32).exp2())
}

/// How much larger than usual each token is, in quarters of an octave above `-BELOW`: some receive much attention with small
/// values, and are only as good as their own grid. `channels` are median and spread of each.
pub fn token_grids(x: &[f32], channels: &[(f32, f32)], tokens: Range<usize>) -> [u8; PAGE_TOKENS] {
    let mut grids = [BELOW as u8; PAGE_TOKENS];
    for token in tokens {
        let used = channels.iter().enumerate().filter(|(_, (_, spread))| *spread > 0.0);
        let (sum, n) = used.fold((0.0, 0), |(sum, n), (channel, (median, spread))| {
            (sum + ((x[channel * PAGE_TOKENS + token] - median) / spread).powi(2), n + 1)
        });
        if n > 0 {
            let quarters = (2.0 * (sum / n as f32).log2()).round() + f32::from(BELOW);
            grids[token] = quarters.clamp(0.0, f32::from(GRIDS - 1)) as u8;
        }
    }
    grids
}

/// The nearest points of the grid; none where there are too many of them.
pub fn quantize(x: &[f32], steps: &[f32; PAGE_TOKENS]) -> Option<Vec<i32>> {
    x.iter()
        .enumerate()
        .map(|(at, x)| {
            let point = (x / steps[at % PAGE_TOKENS]).round_ties_even();
            (point.abs() < MOST).then_some(point as i32)
        })
        .collect()
}
