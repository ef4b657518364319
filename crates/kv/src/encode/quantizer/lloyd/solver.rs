//! The optimal scalar quantizer of a density (Lloyd 1957, Max 1960), in double precision.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A density of mean zero and variance one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Density {
    /// The normal one.
    Gaussian,
    /// Of a coordinate of a random vector of length `√d` in so many dimensions `d`, four or more: proportional to
    /// `(1 - x²/d)^((d-3)/2)`.
    Beta(usize),
}

impl fmt::Display for Density {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Density::Gaussian => f.write_str("the normal density"),
            Density::Beta(d) => write!(f, "coordinates of unit vectors in {d} dimensions"),
        }
    }
}

impl Density {
    /// Up to a factor.
    fn at(self, x: f64) -> f64 {
        match self {
            Density::Gaussian => (-x * x / 2.0).exp(),
            Density::Beta(d) => (1.0 - x * x / d as f64).max(0.0).powf((d as f64 - 3.0) / 2.0),
        }
    }

    /// Where it ends, or is negligible.
    fn end(self) -> f64 {
        match self {
            Density::Gaussian => 9.0,
            Density::Beta(d) => (d as f64).sqrt().min(9.0),
        }
    }
}

/// The optimal quantizer.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// Ascending.
    pub levels: Vec<f64>,
    /// Mean squared error.
    pub distortion: f64,
}

/// Solutions so far: a handful, and the same for every lane of every model.
static SOLVED: Mutex<BTreeMap<(Density, usize), Arc<Solution>>> = Mutex::new(BTreeMap::new());

/// The optimal quantizer with so many levels (one or more).
pub fn solve(density: Density, levels: usize) -> Arc<Solution> {
    let mut solved = SOLVED.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = solved.entry((density, levels));
    Arc::clone(entry.or_insert_with(|| Arc::new(iterate(density, levels))))
}

fn iterate(density: Density, count: usize) -> Solution {
    const ENOUGH: f64 = 1e-10;
    let end = density.end();
    let nodes = legendre(24);
    let total = moments(density, &nodes, -end, end);
    // Equally spaced within what a normal sample of that many would span.
    let span = 1.0 + (count as f64).ln();
    let mut levels: Vec<f64> = (0..count).map(|i| span * ((2 * i + 1) as f64 / count as f64 - 1.0)).collect();
    let mut distortion = f64::INFINITY;
    for _ in 0..20_000 {
        let edges = levels.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        let edges: Vec<f64> = [-end].into_iter().chain(edges).chain([end]).collect();
        let cells = edges.windows(2).map(|cell| moments(density, &nodes, cell[0], cell[1]));
        let (mut moved, mut explained) = (0f64, 0.0);
        for (level, [mass, first, _]) in levels.iter_mut().zip(cells) {
            let mean = if mass > 0.0 { first / mass } else { *level };
            moved = moved.max((mean - *level).abs());
            explained += mean * first;
            *level = mean;
        }
        distortion = (total[2] - explained) / total[0];
        if moved < ENOUGH {
            break;
        }
    }
    Solution { levels, distortion }
}

/// `∫ f`, `∫ x f` and `∫ x² f` over an interval.
fn moments(density: Density, nodes: &[(f64, f64)], from: f64, to: f64) -> [f64; 3] {
    // Pieces no longer than a standard deviation: the rule is then exact to double precision.
    let pieces = (to - from).abs().ceil().max(1.0);
    let half = (to - from) / pieces / 2.0;
    let mut sums = [0.0; 3];
    for piece in 0..pieces as usize {
        let middle = from + half * (2 * piece + 1) as f64;
        for &(node, weight) in nodes {
            let x = middle + half * node;
            let f = half * weight * density.at(x);
            sums = [sums[0] + f, sums[1] + x * f, sums[2] + x * x * f];
        }
    }
    sums
}

/// Nodes and weights of Gauss-Legendre quadrature on [-1, 1], by Newton's method on the Legendre polynomial.
fn legendre(count: usize) -> Vec<(f64, f64)> {
    let node = |i: usize| {
        let mut x = (PI * (i as f64 + 0.75) / (count as f64 + 0.5)).cos();
        let mut slope = 0.0;
        for _ in 0..100 {
            let (mut p, mut before) = (x, 1.0);
            for k in 2..=count {
                let k = k as f64;
                (p, before) = (((2.0 * k - 1.0) * x * p - (k - 1.0) * before) / k, p);
            }
            slope = count as f64 * (x * p - before) / (x * x - 1.0);
            let step = p / slope;
            x -= step;
            if step.abs() < 1e-16 {
                break;
            }
        }
        (x, 2.0 / ((1.0 - x * x) * slope * slope))
    };
    (0..count).map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(density: Density, positive: &[&[f64]], distortion: &[f64]) {
        for (i, (positive, distortion)) in positive.iter().zip(distortion).enumerate() {
            let solution = solve(density, 2 << i);
            let (lower, upper) = solution.levels.split_at(1 << i);
            for ((low, high), expected) in lower.iter().rev().zip(upper).zip(*positive) {
                assert!((high - expected).abs() < 6e-6 && (low + high).abs() < 1e-9, "{density:?}: {high} {expected}");
            }
            assert!((solution.distortion - distortion).abs() < 6e-6, "{density:?} {i}: {}", solution.distortion);
        }
    }

    #[test]
    fn normal_levels_are_those_of_the_literature() {
        let positive: [&[f64]; 4] = [
            &[0.79788],
            &[0.45278, 1.51042],
            &[0.24509, 0.75601, 1.34391, 2.15195],
            &[0.12840, 0.38805, 0.65676, 0.94234, 1.25623, 1.61805, 2.06902, 2.73259],
        ];
        check(Density::Gaussian, &positive, &[0.36338, 0.11748, 0.03455, 0.00950]);
    }

    #[test]
    fn levels_of_unit_vectors_are_a_little_narrower() {
        let positive: [&[f64]; 4] = [
            &[0.79944],
            &[0.45245, 1.50519],
            &[0.24442, 0.75333, 1.33660, 2.13147],
            &[0.12787, 0.38638, 0.65362, 0.93710, 1.24777, 1.60434, 2.04593, 2.68886],
        ];
        check(Density::Beta(128), &positive, &[0.36089, 0.11600, 0.03397, 0.00932]);
        let positive: [&[f64]; 4] = [
            &[0.80101],
            &[0.45212, 1.49997],
            &[0.24375, 0.75066, 1.32934, 2.11131],
            &[0.12735, 0.38472, 0.65049, 0.93189, 1.23940, 1.59085, 2.02331, 2.64637],
        ];
        check(Density::Beta(64), &positive, &[0.35839, 0.11453, 0.03339, 0.00913]);
    }

    #[test]
    fn any_number_of_levels() {
        let expected =
            [0.36338, 0.19017, 0.11748, 0.07994, 0.05798, 0.04400, 0.03455, 0.02785, 0.02294, 0.01922, 0.01634];
        for (levels, expected) in (2..).zip(expected) {
            let distortion = solve(Density::Gaussian, levels).distortion;
            assert!((distortion - expected).abs() < 6e-6, "{levels}: {distortion}");
        }
    }
}
