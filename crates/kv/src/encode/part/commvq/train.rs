//! The parameters of the stages and the words nearest to a row.

// Plain loops: the dispatcher compiles them once for each instruction set, whose vectors the compiler then uses.
#![allow(clippy::extra_unused_type_parameters)]

use super::super::super::math::{Rng, dense};
use super::{PARAMETERS, normalised};
use cachalot_kernels::simd::{LANES, Simd};
use cachalot_kernels::{Isa, dispatch};

/// Rows that training looks at.
const MOST_ROWS: usize = 4096;

/// The words of one stage.
pub(super) struct Stage {
    d: usize,
    /// `u`, `[parameters][d]`.
    u: Vec<f32>,
    /// `i u`.
    iu: Vec<f32>,
    /// `-2 u` and `-2 i u`, channel by channel, `[d][parameters]`.
    by_channel: [Vec<f32>; 2],
    /// `|u|²`.
    squares: Vec<f32>,
    /// `2 u_A · i u_B`, `[A][B]`.
    cross: Vec<f32>,
}

/// A quarter turn of every pair, `(x, y)` to `(-y, x)`; pairs lie half the channels apart.
fn turn(x: &[f32]) -> Vec<f32> {
    let (low, high) = x.split_at(x.len() / 2);
    high.iter().map(|y| -y).chain(low.iter().copied()).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

impl Stage {
    /// Of parameters `[PARAMETERS][d]`.
    pub(super) fn new(u: Vec<f32>, d: usize) -> Stage {
        let iu: Vec<f32> = u.chunks_exact(d).flat_map(turn).collect();
        let by_channel = [&u, &iu].map(|u| {
            let column = |c: usize| u.iter().skip(c).step_by(d).map(|x| -2.0 * x);
            (0..d).flat_map(column).collect()
        });
        let squares = u.chunks_exact(d).map(|u| dot(u, u)).collect();
        let cross = u.chunks_exact(d).flat_map(|a| iu.chunks_exact(d).map(move |b| 2.0 * dot(a, b))).collect();
        Stage { d, u, iu, by_channel, squares, cross }
    }

    pub(super) fn bytes(&self) -> usize {
        let floats = self.u.len() + self.iu.len() + self.squares.len() + self.cross.len();
        4 * (floats + self.by_channel.iter().map(Vec::len).sum::<usize>())
    }

    /// `u_A`, `[d]`.
    fn parameter(&self, a: usize) -> &[f32] {
        &self.u[a * self.d..][..self.d]
    }

    /// `i u_B`, `[d]`.
    fn turned(&self, b: usize) -> &[f32] {
        &self.iu[b * self.d..][..self.d]
    }

    /// The word nearest to `x`, the first of equals.
    pub(super) fn nearest(&self, isa: Isa, x: &[f32]) -> (usize, usize) {
        nearest(isa, x, &self.by_channel, &self.squares, &self.cross)
    }

    /// `x -= word`.
    pub(super) fn subtract(&self, a: usize, b: usize, x: &mut [f32]) {
        let word = self.parameter(a).iter().zip(self.turned(b));
        x.iter_mut().zip(word).for_each(|(x, (u, iu))| *x -= u + iu);
    }
}

dispatch! {
    /// `(A, B)` that makes `|x - u_A - i u_B|² - |x|²` least.
    fn nearest(x: &[f32], by_channel: &[Vec<f32>; 2], squares: &[f32], cross: &[f32]) -> (usize, usize) = nearest_body
}

#[inline(always)]
unsafe fn nearest_body<S: Simd>(
    x: &[f32],
    by_channel: &[Vec<f32>; 2],
    squares: &[f32],
    cross: &[f32],
) -> (usize, usize) {
    let mut costs = [[0.0f32; PARAMETERS]; 2];
    for (costs, by_channel) in costs.iter_mut().zip(by_channel) {
        costs.copy_from_slice(squares);
        for (&x, row) in x.iter().zip(by_channel.chunks_exact(PARAMETERS)) {
            costs.iter_mut().zip(row).for_each(|(cost, u)| *cost += x * u);
        }
    }
    let mut best = (f32::INFINITY, 0);
    for (a, cross) in cross.chunks_exact(PARAMETERS).enumerate() {
        let mut least = [f32::INFINITY; LANES];
        for (costs, cross) in costs[1].chunks_exact(LANES).zip(cross.chunks_exact(LANES)) {
            for ((least, cost), cross) in least.iter_mut().zip(costs).zip(cross) {
                let cost = cost + cross;
                *least = if cost < *least { cost } else { *least };
            }
        }
        let least = costs[0][a] + least.iter().fold(f32::INFINITY, |least, &x| if x < least { x } else { least });
        if least < best.0 {
            best = (least, a);
        }
    }
    let cross = &cross[best.1 * PARAMETERS..][..PARAMETERS];
    let total = |b: usize| costs[1][b] + cross[b];
    (best.1, (1..PARAMETERS).fold(0, |at, b| if total(b) < total(at) { b } else { at }))
}

/// Parameters of all stages, `[stages][PARAMETERS][d]`: rows of length one, stage after stage what the stages before left.
/// Each by turns gives every row its nearest word and every parameter its least-squares value (expectation maximisation at
/// temperature zero).
pub(super) fn train(rows: &[f32], d: usize, stages: usize, iterations: usize, seed: u64) -> Vec<f32> {
    let step = (rows.len() / d).div_ceil(MOST_ROWS).max(1);
    let mut rest: Vec<f32> = rows.chunks_exact(d).step_by(step).flat_map(|row| normalised(row).0).collect();
    let n = rest.len() / d;
    let isa = Isa::detect();
    let mut rng = Rng::new(seed, 50);
    let mut all = Vec::with_capacity(stages * PARAMETERS * d);
    for _ in 0..stages {
        let mut draw = |scale: f32| -> Vec<f32> {
            if n == 0 {
                return vec![0.0; d];
            }
            rest[rng.below(n) * d..][..d].iter().map(|x| x * scale).collect()
        };
        // Two parameters make a word, so each starts as a good half of a row.
        let mut u: Vec<f32> = (0..PARAMETERS).flat_map(|_| draw(0.7)).collect();
        let mut words = vec![(0, 0); n];
        for _ in 0..iterations {
            let stage = Stage::new(u.clone(), d);
            let now: Vec<_> = rest.chunks_exact(d).map(|row| stage.nearest(isa, row)).collect();
            if now == words {
                break;
            }
            words = now;
            u = fitted(&rest, &words, d);
            for (a, u) in u.chunks_exact_mut(d).enumerate() {
                if !words.iter().any(|&(x, y)| x == a || y == a) {
                    u.copy_from_slice(&draw(0.7));
                }
            }
        }
        let stage = Stage::new(u, d);
        for row in rest.chunks_exact_mut(d) {
            let (a, b) = stage.nearest(isa, row);
            stage.subtract(a, b, row);
        }
        (0..PARAMETERS).for_each(|a| all.extend_from_slice(stage.parameter(a)));
    }
    all
}

/// Least squares: the `u` for which `Σ |row - u_A - i u_B|²` is least, over all pairs of channels at once. The normal
/// equations `G u = r` are Hermitian and the same for every pair, `G = diag(n_A + n_B) + i (N - Nᵀ)` with the counts `N`
/// of the words; here as real ones of twice the size.
fn fitted(rows: &[f32], words: &[(usize, usize)], d: usize) -> Vec<f32> {
    let (p, half) = (PARAMETERS, d / 2);
    let size = 2 * p;
    let mut g = vec![0.0; size * size];
    // Real parts, then imaginary ones, `[2 p][pairs]`.
    let mut right = vec![0.0; size * half];
    for (row, &(a, b)) in rows.chunks_exact(d).zip(words) {
        for i in [0, p] {
            g[(a + i) * size + a + i] += 1.0;
            g[(b + i) * size + b + i] += 1.0;
        }
        // i N in the upper right is -N, in the lower left N; of the transposed, the other way round.
        for (row, column, sign) in [(a, p + b, -1.0), (b, p + a, 1.0), (p + a, b, 1.0), (p + b, a, -1.0)] {
            g[row * size + column] += sign;
        }
        for pair in 0..half {
            let (x, y) = (f64::from(row[pair]), f64::from(row[half + pair]));
            right[a * half + pair] += x;
            right[(p + a) * half + pair] += y;
            // -i (x + i y) = y - i x
            right[b * half + pair] += y;
            right[(p + b) * half + pair] -= x;
        }
    }
    let ridge = 1e-6 * words.len() as f64 / p as f64 + 1e-12;
    (0..size).for_each(|i| g[i * size + i] += ridge);
    let Some(l) = dense::cholesky(&g, size) else { return vec![0.0; p * d] };
    let inverse = dense::invert_lower(&l, size);
    let there = dense::multiply(&inverse, &right, size, half);
    let u = dense::multiply(&dense::transpose(&inverse, size), &there, size, half);
    (0..p).flat_map(|a| [a, p + a]).flat_map(|i| u[i * half..][..half].iter().map(|&x| x as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::super::math::sample::gaussian;
    use super::*;

    /// Where rows are words, least squares finds their parameters.
    #[test]
    fn fitting_recovers_the_parameters_of_exact_words() {
        let d = 12;
        let u = gaussian(PARAMETERS * d, 1);
        let stage = Stage::new(u.clone(), d);
        let mut rng = Rng::new(2, 0);
        let words: Vec<_> = (0..3000).map(|_| (rng.below(PARAMETERS), rng.below(PARAMETERS))).collect();
        let word = |&(a, b): &(usize, usize)| {
            let mut x = vec![0.0; d];
            stage.subtract(a, b, &mut x);
            x.into_iter().map(|x| -x).collect::<Vec<_>>()
        };
        let rows: Vec<f32> = words.iter().flat_map(word).collect();
        let found = fitted(&rows, &words, d);
        assert!(found.iter().zip(&u).all(|(a, b)| (a - b).abs() < 1e-3));
        for (row, &(a, b)) in rows.chunks_exact(d).zip(&words).take(200) {
            assert_eq!(stage.nearest(Isa::detect(), row), (a, b));
        }
    }

    /// The nearest word by its table is the nearest of all 4096.
    #[test]
    fn the_search_is_exhaustive() {
        let d = 8;
        let stage = Stage::new(gaussian(PARAMETERS * d, 3), d);
        for x in gaussian(40 * d, 4).chunks_exact(d) {
            let distance = |a, b| {
                let mut rest = x.to_vec();
                stage.subtract(a, b, &mut rest);
                dot(&rest, &rest)
            };
            let all = (0..PARAMETERS).flat_map(|a| (0..PARAMETERS).map(move |b| (a, b)));
            let least = all.map(|(a, b)| distance(a, b)).fold(f32::MAX, f32::min);
            for isa in Isa::available() {
                let (a, b) = stage.nearest(isa, x);
                assert!(distance(a, b) <= least + 1e-5);
            }
        }
    }
}
