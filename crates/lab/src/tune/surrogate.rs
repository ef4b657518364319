//! What is to be expected of a setting that was not measured, by those that were: Bayes' rule for a linear model.
//!
//! A divergence is about the sum of the errors of groups of units, each with a weight that nobody knows, and what the tokens
//! that go cost at each share that stays. Weights have a prior around what all settings say together; measurements are right
//! to a part of themselves, so that small divergences count as much as large ones. The posterior is a normal distribution in
//! closed form, and what a setting may gain follows from its mean and spread (expected improvement, after Jones et al., 1998).

use super::aim::{Aim, Tried};
use super::groups::{Group, Sensitivity};
use super::space::{BUDGETS, Setting};

/// What a divergence may be off from the linear model, as a part of itself.
const OFF: f64 = 0.15;
/// How far weights lie from one another before anything is known, as a part of their mean.
const SPREAD: f64 = 1.0;
/// Measurements below which there is nothing to learn from.
const FEWEST: usize = 4;

/// The posterior.
pub(super) struct Surrogate<'a> {
    groups: &'a [Group],
    sensitivity: &'a Sensitivity,
    /// Means of the weights.
    mean: Vec<f64>,
    /// Lower triangle of the Cholesky factor of their precision.
    factor: Vec<Vec<f64>>,
}

impl<'a> Surrogate<'a> {
    /// By what was measured to its end; `None` where that is too little.
    pub fn of(tried: &[Tried], groups: &'a [Group], sensitivity: &'a Sensitivity) -> Option<Surrogate<'a>> {
        let known: Vec<(Vec<f64>, f64)> = tried
            .iter()
            .filter(|tried| tried.whole && tried.kl.is_finite())
            .map(|tried| (features(groups, sensitivity, &tried.setting), tried.kl.max(1e-9)))
            .collect();
        if known.len() < FEWEST {
            return None;
        }
        // The prior's mean: the median of what one unit of error comes to, where all tokens stay if there are any such.
        let errors = |x: &[f64]| x[..groups.len()].iter().sum::<f64>().max(1e-12);
        let all = |x: &[f64]| x[groups.len()..].iter().all(|gone| *gone == 0.0);
        let mut ratios: Vec<f64> = known.iter().filter(|(x, _)| all(x)).map(|(x, kl)| kl / errors(x)).collect();
        if ratios.is_empty() {
            ratios = known.iter().map(|(x, kl)| kl / errors(x)).collect();
        }
        ratios.sort_by(f64::total_cmp);
        let weight = ratios[ratios.len() / 2];
        let greatest = known.iter().map(|(_, kl)| *kl).fold(0.0, f64::max);
        let prior = |i: usize| if i < groups.len() { (weight, SPREAD * weight) } else { (0.0, greatest) };
        let size = groups.len() + BUDGETS.len() - 1;
        let mut precision = vec![vec![0.0; size]; size];
        let mut pull = vec![0.0; size];
        for i in 0..size {
            let (mean, spread) = prior(i);
            precision[i][i] = 1.0 / (spread * spread);
            pull[i] = mean / (spread * spread);
        }
        for (x, kl) in &known {
            let trust = 1.0 / (OFF * kl * OFF * kl);
            for i in 0..size {
                pull[i] += trust * x[i] * kl;
                (0..=i).for_each(|j| precision[i][j] += trust * x[i] * x[j]);
            }
        }
        let factor = cholesky(precision)?;
        let half = solve_lower(&factor, &pull);
        let mean = solve_upper(&factor, &half);
        Some(Surrogate { groups, sensitivity, mean, factor })
    }

    /// Errors with the learned weights of their groups.
    pub fn weighted(&self) -> Sensitivity {
        let mut weighted = self.sensitivity.clone();
        let known = self.mean[..self.groups.len()].iter().fold(0.0, |most: f64, weight| most.max(*weight));
        for (group, weight) in self.groups.iter().zip(&self.mean) {
            // A weight is positive, whatever a straight line through few points says.
            let weight = weight.max(0.01 * known);
            for &unit in &group.units {
                let errors = weighted.keys[unit].iter_mut().chain(&mut weighted.values[unit]);
                errors.for_each(|error| *error *= weight);
            }
        }
        weighted
    }

    /// Mean and standard deviation of a divergence.
    pub fn predict(&self, setting: &Setting) -> (f64, f64) {
        let x = features(self.groups, self.sensitivity, setting);
        let mean: f64 = x.iter().zip(&self.mean).map(|(x, weight)| x * weight).sum();
        let mean = mean.max(1e-9);
        let unknown: f64 = solve_lower(&self.factor, &x).iter().map(|z| z * z).sum();
        (mean, (unknown + OFF * mean * OFF * mean).sqrt())
    }

    /// What a setting may be expected to gain over the best so far: bytes or nats.
    pub fn gain(&self, aim: Aim, best: &Tried, setting: &Setting, bytes: u64) -> f64 {
        let (mean, spread) = self.predict(setting);
        match aim {
            Aim::Smallest { kl } => below((kl - mean) / spread) * best.bytes.saturating_sub(bytes) as f64,
            Aim::Best { .. } => {
                let z = (best.kl - mean) / spread;
                (best.kl - mean) * below(z) + spread * density(z)
            }
        }
    }
}

/// Errors of each group, then for each share of tokens but the whole whether it is this one.
fn features(groups: &[Group], sensitivity: &Sensitivity, setting: &Setting) -> Vec<f64> {
    let of = |group: &Group| group.units.iter().map(|&unit| sensitivity.error(unit, setting.pairs[unit])).sum::<f64>();
    let mut x: Vec<f64> = groups.iter().map(of).collect();
    x.extend((0..BUDGETS.len() - 1).map(|budget| f64::from(u8::from(budget == setting.budget))));
    x
}

/// Of a symmetric matrix whose lower triangle is given; `None` where it is not positive definite.
fn cholesky(mut a: Vec<Vec<f64>>) -> Option<Vec<Vec<f64>>> {
    for i in 0..a.len() {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| a[i][k] * a[j][k]).sum();
            let rest = a[i][j] - dot;
            a[i][j] = if i == j { (rest > 0.0).then(|| rest.sqrt())? } else { rest / a[j][j] };
        }
    }
    Some(a)
}

fn solve_lower(factor: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let mut x = b.to_vec();
    for i in 0..x.len() {
        let dot: f64 = (0..i).map(|k| factor[i][k] * x[k]).sum();
        x[i] = (x[i] - dot) / factor[i][i];
    }
    x
}

fn solve_upper(factor: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let mut x = b.to_vec();
    for i in (0..x.len()).rev() {
        let dot: f64 = (i + 1..x.len()).map(|k| factor[k][i] * x[k]).sum();
        x[i] = (x[i] - dot) / factor[i][i];
    }
    x
}

fn density(z: f64) -> f64 {
    (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// The share of a standard normal distribution below `z` (Abramowitz and Stegun 7.1.26, within 2e-7).
fn below(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = [0.254_829_592, -0.284_496_736, 1.421_413_741, -1.453_152_027, 1.061_405_429];
    let sum = series.iter().rev().fold(0.0, |sum, c| (sum + c) * t);
    let half = 0.5 * sum * (-x * x).exp();
    if z < 0.0 { half } else { 1.0 - half }
}

#[cfg(test)]
mod tests {
    use super::super::space::{Pair, even};
    use super::*;

    #[test]
    fn the_normal_distribution_is_the_tables() {
        for (z, share) in [(0.0, 0.5), (1.0, 0.841_344_7), (-1.96, 0.024_997_9), (3.0, 0.998_650_1)] {
            assert!((below(z) - share).abs() < 3e-7, "{z}: {}", below(z));
        }
    }

    #[test]
    fn factors_solve() {
        let a = [[4.0, 2.0, 0.6], [2.0, 3.0, 0.4], [0.6, 0.4, 2.0]];
        let factor = cholesky(a.iter().map(|row| row.to_vec()).collect()).unwrap();
        let x = solve_upper(&factor, &solve_lower(&factor, &[1.0, -2.0, 3.0]));
        for (row, b) in a.iter().zip([1.0, -2.0, 3.0]) {
            let dot: f64 = row.iter().zip(&x).map(|(a, x)| a * x).sum();
            assert!((dot - b).abs() < 1e-12);
        }
        assert!(cholesky(vec![vec![1.0, 0.0], vec![2.0, 1.0]]).is_none());
    }

    /// Weights that differ tenfold are found from settings that differ in one group each, and what was not looked at is less
    /// certain than what was.
    #[test]
    fn weights_are_learned() {
        let errors = |scale: f64| vec![vec![scale, scale / 4.0, scale / 16.0, scale / 32.0, 0.0]; 2];
        let bits = vec![2.0, 3.0, 4.0, 5.5, 8.5];
        let sensitivity =
            Sensitivity { keys: errors(1.0), values: errors(1.0), key_bits: bits.clone(), value_bits: bits };
        let pairs: Vec<Pair> = (0..5).map(even).collect();
        let groups: Vec<Group> = (0..2).map(|unit| Group { units: vec![unit], pairs: pairs.clone() }).collect();
        let all = BUDGETS.len() - 1;
        let kl = |setting: &Setting| -> f64 {
            let of = |unit: usize| sensitivity.error(unit, setting.pairs[unit]);
            0.1 * of(0) + 1.0 * of(1)
        };
        let tried: Vec<Tried> = [(0, 4), (1, 4), (4, 1), (4, 2), (2, 3)]
            .iter()
            .map(|&(a, b)| {
                let setting = Setting { pairs: vec![even(a), even(b)], budget: all };
                Tried { kl: kl(&setting), setting, bytes: 1, whole: true, spent: 0 }
            })
            .collect();
        let surrogate = Surrogate::of(&tried, &groups, &sensitivity).unwrap();
        let new = Setting { pairs: vec![even(1), even(1)], budget: all };
        let (mean, spread) = surrogate.predict(&new);
        assert!((mean / kl(&new) - 1.0).abs() < 0.1, "{mean} {}", kl(&new));
        let fewer = Setting { budget: 0, ..new.clone() };
        assert!(surrogate.predict(&fewer).1 > 2.0 * spread);
        // Of two changes of the same size the one that takes from the group with little weight is to be preferred.
        let best = Tried { kl: 0.2, setting: new, bytes: 100, whole: true, spent: 0 };
        let gain = |a, b| {
            let setting = Setting { pairs: vec![even(a), even(b)], budget: all };
            surrogate.gain(Aim::Smallest { kl: 0.6 }, &best, &setting, 90)
        };
        assert!(gain(0, 1) > 1.2 * gain(1, 0), "{} {}", gain(0, 1), gain(1, 0));
        assert!(Surrogate::of(&tried[..3], &groups, &sensitivity).is_none());
    }
}
