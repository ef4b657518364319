//! Learning a profile: covariances of keys and values, what queries ask of keys and what outputs take from values.
//!
//! Errors of a lane matter by what is computed with them: of keys `q · error`, of values `W · error` with the output's matrix
//! `W`. With `M` the mean of `q qᵀ`, or `Wᵀ W`, numbers are taken to a space in which all directions matter alike
//! (`M = Lᵀ L`, `x → L x`), and there to principal components. One step for all of them is then best (reverse water-filling).
//! Values are what keys do not foretell: the best linear forecast from the components of the same token's keys is taken off.

use super::super::layout::{Layout, header_of};
use super::grid;
use super::profile::{Basis, Lane, Profile};
use super::turn::Turn;
use super::{SINKS, tokens_of};
use crate::StoreError;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::encode::math::dense::{eigen, multiply, transpose};
use half::f16;
use std::collections::BTreeMap;

/// A lane, layer and head, with what its keys and values weigh.
type Weighed = ((u16, u16), [f64; 2]);

/// Of the mean that matters, what every direction matters at least.
const LEAST: f64 = 0.02;
/// Smallest variance, of the largest.
const FLAT: f64 = 1e-8;

/// Sums over the tokens of a lane, keys before values.
#[derive(Default)]
struct Sums {
    channels: usize,
    tokens: f64,
    sum: Vec<f64>,
    products: Vec<f64>,
    /// Sums of products of queries, and of the rows of the output's matrix.
    matter: [Option<Vec<f64>>; 2],
}

/// Gathers what a [`Profile`] is made of.
pub struct Learner {
    angles: Vec<f32>,
    turn: Option<Turn>,
    lanes: BTreeMap<(u16, u16), Sums>,
}

impl Learner {
    /// `angles` are those of rotary position, in radians a position, of channel `i` with channel `i + angles.len()`. It is empty
    /// where keys are kept before rotary position, or it is not known; pages then become larger.
    pub fn new(angles: &[f32]) -> Learner {
        Learner { angles: angles.to_vec(), turn: Turn::new(angles), lanes: BTreeMap::new() }
    }

    /// A page of the model. Those that a recipe wrote, or with numbers that are not finite, teach nothing.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for bytes that are no page.
    pub fn page(&mut self, page: &[u8]) -> Result<(), StoreError> {
        let header = header_of(page)?;
        let Some(layout) = Layout::of(&header, page.len()) else { return Ok(()) };
        let read = |side: &super::Side| grid::read(side, &page[side.range.clone()]);
        let (Some(mut x), Some(values)) = (read(&layout.keys), read(&layout.values)) else { return Ok(()) };
        if let Some(turn) = self.turn.as_ref().filter(|turn| 2 * turn.pairs() <= layout.keys.channels) {
            turn.undo(header.start, &mut x);
        }
        x.extend(values);
        let wide = 2 * layout.keys.channels;
        let lane = self.lanes.entry((header.layer, header.head)).or_default();
        if lane.channels != layout.keys.channels {
            let matter = std::mem::take(&mut lane.matter);
            let (sum, products) = (vec![0.0; wide], vec![0.0; wide * wide]);
            *lane = Sums { channels: layout.keys.channels, tokens: 0.0, sum, products, matter };
        }
        let tokens = tokens_of(&header);
        lane.tokens += tokens.len() as f64;
        let rows: Vec<&[f32]> = x.chunks_exact(PAGE_TOKENS).map(|row| &row[tokens.clone()]).collect();
        for (i, a) in rows.iter().enumerate() {
            lane.sum[i] += a.iter().map(|&a| f64::from(a)).sum::<f64>();
            for (j, b) in rows[..=i].iter().enumerate() {
                // In eight sums, since they would wait for each other.
                let mut sums = [0.0_f32; 8];
                for (a, b) in a.chunks(8).zip(b.chunks(8)) {
                    sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
                }
                lane.products[i * wide + j] += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
            }
        }
        Ok(())
    }

    /// Queries of the heads that read a lane, before rotary position, `[rows][channels]`.
    pub fn queries(&mut self, layer: u16, head: u16, rows: &[f32], channels: usize) {
        self.matter(layer, head, 0, rows, channels);
    }

    /// The output's matrix of the heads that read a lane, `[rows][channels]`: what a value becomes.
    pub fn outputs(&mut self, layer: u16, head: u16, rows: &[f32], channels: usize) {
        self.matter(layer, head, 1, rows, channels);
    }

    fn matter(&mut self, layer: u16, head: u16, side: usize, rows: &[f32], channels: usize) {
        let lane = self.lanes.entry((layer, head)).or_default();
        let sums = lane.matter[side].get_or_insert_with(|| vec![0.0; channels * channels]);
        for row in rows.chunks_exact(channels.max(1)) {
            for (&a, sums) in row.iter().zip(sums.chunks_exact_mut(channels)) {
                sums.iter_mut().zip(row).for_each(|(sum, &b)| *sum += f64::from(a) * f64::from(b));
            }
        }
    }

    /// The profile. Lanes without tokens are not in it.
    pub fn finish(self) -> Profile {
        let mut lanes = BTreeMap::new();
        let mut weights: BTreeMap<u16, Vec<Weighed>> = BTreeMap::new();
        for (&at, sums) in &self.lanes {
            if let Some((lane, matter)) = sums.lane(self.turn.as_ref()) {
                weights.entry(at.0).or_default().push((at, matter));
                lanes.insert(at, lane);
            }
        }
        // Lanes of a layer have a step together, as large as their numbers are, and each as its errors matter.
        for heads in weights.values() {
            for side in 0..2 {
                let of =
                    |at: &(u16, u16)| lanes.get(at).map_or(1.0, |lane: &Lane| [&lane.keys, &lane.values][side].step);
                let logs = heads.iter().map(|(at, matter)| f64::from(of(at)).ln() + matter[side].ln());
                let mean = (logs.sum::<f64>() / heads.len() as f64).exp();
                for (at, matter) in heads {
                    if let Some(lane) = lanes.get_mut(at) {
                        [&mut lane.keys, &mut lane.values][side].step = (mean / matter[side]) as f32;
                    }
                }
            }
        }
        Profile { angles: self.angles, lanes }
    }
}

impl Sums {
    /// The lane, and how much errors of its keys and values matter: what they are multiplied by, on geometric mean.
    fn lane(&self, turn: Option<&Turn>) -> Option<(Lane, [f64; 2])> {
        let (d, n) = (self.channels, self.tokens);
        if n < 2.0 {
            return None;
        }
        let mean: Vec<f64> = self.sum.iter().map(|sum| sum / n).collect();
        let product = |i: usize, j: usize| self.products[i.max(j) * 2 * d + i.min(j)] / n - mean[i] * mean[j];
        let part = |row: usize, column: usize| -> Vec<f64> {
            (0..d * d).map(|at| product(row + at / d, column + at % d)).collect()
        };
        let turn = turn.filter(|turn| 2 * turn.pairs() <= d);
        let asked = self.matter[0].as_ref().filter(|m| m.len() == d * d).map(|m| everywhere(m, d, turn));
        let (keys, key_rows, key_variances, asked) = basis(&mean[..d], part(0, 0), asked.as_deref(), d)?;
        // Values from components of keys, which have nothing to do with each other: covariance over variance.
        let analysis: Vec<f64> = keys.analysis.iter().map(|&x| f64::from(x)).collect();
        let mut slopes = multiply(&part(d, 0), &transpose(&analysis, d), d, d);
        slopes.iter_mut().enumerate().for_each(|(at, x)| *x /= key_variances[at % d]);
        let mut left = part(d, d);
        for (at, left) in left.iter_mut().enumerate() {
            let (i, j) = (at / d, at % d);
            *left -= (0..d).map(|c| slopes[i * d + c] * key_variances[c] * slopes[j * d + c]).sum::<f64>();
        }
        drop(key_rows);
        let taken = self.matter[1].as_ref().filter(|m| m.len() == d * d);
        let (values, _, _, taken) = basis(&mean[d..], left, taken.map(Vec::as_slice), d)?;
        let analysis: Vec<f64> = values.analysis.iter().map(|&x| f64::from(x)).collect();
        let forecast = multiply(&analysis, &slopes, d, d).into_iter().map(half).collect();
        Some((Lane { keys, values, forecast }, [asked, taken]))
    }
}

/// The basis of a covariance where errors matter as `matter` says; its rows, variances, and the mean of what matters.
type Found = (Basis, Vec<f64>, Vec<f64>, f64);

fn basis(mean: &[f64], covariance: Vec<f64>, matter: Option<&[f64]>, d: usize) -> Option<Found> {
    // `L` and its inverse; the determinant is one, so that steps mean the same as without.
    let (forth, back, size) = match matter.filter(|m| (0..d).map(|i| m[i * d + i]).sum::<f64>() > 0.0) {
        None => (identity(d), identity(d), 1.0),
        Some(matter) => {
            let (values, vectors) = eigen(matter.to_vec(), d);
            let least = LEAST * values.iter().sum::<f64>() / d as f64;
            let roots: Vec<f64> = values.iter().map(|&value| value.max(least).sqrt()).collect();
            let size = (roots.iter().map(|root| root.ln()).sum::<f64>() / d as f64).exp();
            let forth = (0..d * d).map(|at| vectors[at] * roots[at / d] / size).collect();
            let back = (0..d * d).map(|at| vectors[at % d * d + at / d] / roots[at % d] * size).collect();
            (forth, back, size)
        }
    };
    let inside = multiply(&multiply(&forth, &covariance, d, d), &transpose(&forth, d), d, d);
    let even = (0..d * d).map(|at| (inside[at] + inside[at % d * d + at / d]) / 2.0).collect();
    let (variances, vectors) = eigen(even, d);
    let flat = (FLAT * variances[0]).max(1e-20);
    let variances: Vec<f64> = variances.iter().map(|&variance| variance.max(flat)).collect();
    let rows: Vec<f32> = multiply(&vectors, &transpose(&back, d), d, d).into_iter().map(half).collect();
    let spread: Vec<f32> = variances.iter().map(|variance| variance.sqrt() as f32).collect();
    let step = (spread.iter().map(|spread| spread.log2()).sum::<f32>() / d as f32).exp2();
    let mean = mean.iter().map(|&mean| mean as f32).collect();
    let wide = rows.iter().map(|&x| f64::from(x)).collect();
    Some((Basis::new(step, mean, spread, rows)?, wide, variances, size))
}

fn identity(d: usize) -> Vec<f64> {
    (0..d * d).map(|at| f64::from(u8::from(at / d == at % d))).collect()
}

fn half(x: f64) -> f32 {
    f16::from_f64(x).to_f32()
}

/// Products of queries as keys before rotary position see them, on average over distances.
fn everywhere(products: &[f64], d: usize, turn: Option<&Turn>) -> Vec<f64> {
    let Some(turn) = turn else { return products.to_vec() };
    let mut sum = vec![0.0; d * d];
    let mut distance = 0.0;
    while distance < 4096.0 {
        let turned = |rows: &[f64]| -> Vec<f64> {
            let mut rows = rows.to_vec();
            rows.chunks_exact_mut(d).for_each(|row| turn.further(f64::floor(distance), row));
            rows
        };
        let both = turned(&transpose(&turned(products), d));
        sum.iter_mut().zip(both).for_each(|(sum, x)| *sum += x);
        distance = distance * 1.2 + 1.0;
    }
    sum
}

const _: () = assert!(SINKS < PAGE_TOKENS as u64);
