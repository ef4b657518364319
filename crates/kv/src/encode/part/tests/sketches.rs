//! Facts of QJL and of sketches of residuals.

use super::super::super::codec::{Part, Queries, Side, Work};
use super::super::super::math::sample::{gaussian, part, rows};
use super::{decoded, encoded};
use cachalot_kernels::Isa;

fn scores(part: &dyn Part, page: &[u8], q: &[f32]) -> Vec<f32> {
    let (mut state, mut scores) = (Vec::new(), vec![0.0; 64]);
    part.prepare(Isa::detect(), q, 1, &mut state);
    part.score(Isa::detect(), page, Queries { rows: 1, q, state: &state }, &mut Work::default(), &mut scores);
    scores
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Over many projections the estimate is right on average, and its variance below that of independent Gaussian rows,
/// `(π/2 |q|² |k|² - (q·k)²) / m`; orthogonal rows take off a good half.
#[test]
fn estimates_are_unbiased_and_orthogonal_rows_better_than_independent() {
    const SEEDS: usize = 300;
    let (d, m) = (64, 128);
    let (x, q) = (gaussian(64 * d, 1), gaussian(d, 2));
    let mut sums = vec![(0.0, 0.0); 64];
    for seed in 0..SEEDS {
        let part = part(&format!("sketch(m={m}, seed={seed})"), Side::Keys, d);
        for (sum, score) in sums.iter_mut().zip(scores(&*part, &encoded(&*part, &x), &q)) {
            sum.0 += f64::from(score);
            sum.1 += f64::from(score) * f64::from(score);
        }
    }
    let (mut biased, mut relative) = (0.0, 0.0);
    for (k, (sum, square)) in x.chunks_exact(d).zip(sums) {
        let (mean, exact) = (sum / SEEDS as f64, dot(k, &q));
        let variance = square / SEEDS as f64 - mean * mean;
        let gaussian = (std::f64::consts::FRAC_PI_2 * dot(&q, &q) * dot(k, k) - exact * exact) / m as f64;
        biased += (mean - exact).powi(2) / (variance / SEEDS as f64) / 64.0;
        relative += variance / gaussian / 64.0;
    }
    // A chi-square a token, which has a mean of one where the estimate is unbiased.
    assert!((0.6..1.5).contains(&biased), "{biased}");
    assert!((0.25..0.55).contains(&relative), "{relative}");
}

/// TurboQuant's inner-product variant: levels, then a sketch of what they leave. Right on average where the levels alone
/// shrink every score by their distortion, with a variance of at most `π/2 |q|² |r|² / d`.
#[test]
fn a_sketch_of_the_residual_takes_the_bias_away() {
    const SEEDS: usize = 200;
    let d = 64;
    let (x, q) = (gaussian(64 * d, 21), gaussian(d, 22));
    let levels = part("lloyd(bits=2, density=beta)", Side::Keys, d);
    let rough = decoded(&*levels, &encoded(&*levels, &x));
    let rest: Vec<f32> = x.iter().zip(&rough).map(|(x, r)| x - r).collect();
    let mut sums = vec![(0.0, 0.0); 64];
    for seed in 0..SEEDS {
        let sketch = part(&format!("sketch(seed={seed})"), Side::Keys, d);
        for (sum, score) in sums.iter_mut().zip(scores(&*sketch, &encoded(&*sketch, &rest), &q)) {
            sum.0 += f64::from(score);
            sum.1 += f64::from(score) * f64::from(score);
        }
    }
    let (mut biased, mut relative) = (0.0, 0.0);
    for (rest, (sum, square)) in rest.chunks_exact(d).zip(sums) {
        let mean = sum / SEEDS as f64;
        let variance = square / SEEDS as f64 - mean * mean;
        biased += (mean - dot(rest, &q)).powi(2) / (variance / SEEDS as f64) / 64.0;
        relative += variance / (std::f64::consts::FRAC_PI_2 * dot(&q, &q) * dot(rest, rest) / d as f64) / 64.0;
    }
    assert!((0.6..1.5).contains(&biased), "{biased}");
    assert!((0.2..0.7).contains(&relative), "{relative}");
    let shrink = dot(&rough, &x) / dot(&x, &x);
    assert!((shrink - (1.0 - 0.1145)).abs() < 0.01, "{shrink}");
}

#[test]
fn only_the_length_follows_a_scaled_key() {
    let part = part("sketch", Side::Keys, 128);
    let x = rows(64, 128, 3);
    let twice: Vec<f32> = x.iter().map(|x| 2.0 * x).collect();
    let (a, b) = (encoded(&*part, &x), encoded(&*part, &twice));
    assert_eq!(a[..64 * 16], b[..64 * 16]);
    let back = decoded(&*part, &a);
    assert!(decoded(&*part, &b).iter().zip(&back).all(|(b, a)| (b - 2.0 * a).abs() <= 1e-6 * a.abs()));
    assert_eq!(part.bytes(), 64 * 16 + 2 * 64);
}

/// The repository's later layers: 546 bits a key of 128 in groups of 32; here pages of 64 share the channel numbers.
#[test]
fn outlier_channels_are_sketched_apart() {
    let d = 128;
    let apart = part("sketch(m=256, outliers=8)", Side::Keys, d);
    assert_eq!(apart.bytes(), 64 * (256 + 256 + 32) / 8 + 8);
    let mut x = gaussian(64 * d, 5);
    for row in x.chunks_exact_mut(d) {
        row[17] += 30.0;
        row[90] *= 20.0;
    }
    let plain = part("sketch(m=512)", Side::Keys, d);
    let queries = gaussian(20 * d, 6);
    let error = |part: &dyn Part| {
        let page = encoded(part, &x);
        let off = |q: &[f32]| {
            let exact = x.chunks_exact(d).map(|k| dot(k, q));
            scores(part, &page, q).iter().zip(exact).map(|(s, e)| (f64::from(*s) - e).powi(2)).sum::<f64>()
        };
        queries.chunks_exact(d).map(off).sum::<f64>()
    };
    let (apart, plain) = (error(&*apart), error(&*plain));
    assert!(apart < 0.9 * plain, "{apart} {plain}");
}
