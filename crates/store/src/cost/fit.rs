//! A linear model of times that follows a machine: recursive least squares with forgetting (Plackett 1950), of relative
//! errors, with outliers weighed less (Huber 1964).

use serde::{Deserialize, Serialize};

/// What an observation keeps of its weight when the next comes: about the last hundred count.
const KEEP: f64 = 0.99;
/// Errors of more than so many typical ones count as if they were no larger.
const OUTLIER: f64 = 3.0;
/// Variance of a weight beyond which forgetting stops, in squares of its first guess: what is not observed is not unlearned.
const FORGOTTEN: f64 = 1e5;
/// Variance of a first guess: it may be off by a hundred times.
const UNKNOWN: f64 = 1e4;
/// Seconds that nothing is faster than.
const LEAST: f64 = 1e-9;

/// Seconds as a sum of features times weights, none of them negative.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// First guesses; features are measured in these.
    prior: Vec<f64>,
    /// Of each feature, in its first guess.
    weights: Vec<f64>,
    /// Row by row.
    covariance: Vec<f64>,
    /// Typical relative error.
    error: f64,
    /// How many there were.
    observations: u64,
}

impl Fit {
    /// With these weights until something is observed; all above zero.
    pub fn new(prior: &[f64]) -> Fit {
        let n = prior.len();
        let covariance = (0..n * n).map(|at| if at % (n + 1) == 0 { UNKNOWN } else { 0.0 }).collect();
        Fit { prior: prior.to_vec(), weights: vec![1.0; n], covariance, error: 1.0, observations: 0 }
    }

    /// Whether it has the shape of one with so many features, and only numbers: for what was read from a file.
    pub fn is_sound(&self, features: usize) -> bool {
        let all = [&self.prior, &self.weights, &self.covariance].into_iter().flatten();
        self.prior.len() == features
            && self.weights.len() == features
            && self.covariance.len() == features * features
            && all.chain([&self.error]).all(|x| x.is_finite())
            && self.prior.iter().all(|&x| x > 0.0)
            && self.weights.iter().all(|&x| x >= 0.0)
            && self.error > 0.0
    }

    /// Expected seconds.
    pub fn predict(&self, features: &[f64]) -> f64 {
        features.iter().zip(&self.prior).zip(&self.weights).map(|((x, prior), w)| x * prior * w).sum::<f64>().max(LEAST)
    }

    /// What a unit of a feature takes, in seconds.
    pub fn weight(&self, feature: usize) -> f64 {
        self.prior[feature] * self.weights[feature]
    }

    /// How many observations it has seen.
    pub fn observations(&self) -> u64 {
        self.observations
    }

    /// Learns from one. Seconds that are no time are ignored.
    pub fn observe(&mut self, features: &[f64], seconds: f64) {
        if !(seconds.is_finite() && seconds > 0.0 && features.iter().all(|x| x.is_finite() && *x >= 0.0)) {
            return;
        }
        let n = self.weights.len();
        // Relative to what was expected or seen, whichever is more, so that long runs do not drown short ones.
        let scale = self.predict(features).max(seconds);
        let x: Vec<f64> = features.iter().zip(&self.prior).map(|(x, prior)| x * prior / scale).collect();
        let off = seconds / scale - x.iter().zip(&self.weights).map(|(x, w)| x * w).sum::<f64>();
        let limit = OUTLIER * self.error;
        let trust = if off.abs() > limit { limit / off.abs() } else { 1.0 };
        // Bounded, so that one outlier is not the measure of the next; persistent ones are a machine that has changed.
        self.error = (0.9 * self.error + 0.1 * off.abs().min(2.0 * limit)).max(1e-3);
        let px: Vec<f64> = (0..n).map(|i| (0..n).map(|j| self.covariance[i * n + j] * x[j]).sum()).collect();
        let spread: f64 = x.iter().zip(&px).map(|(x, px)| x * px).sum();
        let gain: Vec<f64> = px.iter().map(|px| trust * px / (KEEP + trust * spread)).collect();
        self.weights.iter_mut().zip(&gain).for_each(|(w, gain)| *w = (*w + gain * off).max(0.0));
        for (row, gain) in self.covariance.chunks_exact_mut(n).zip(&gain) {
            row.iter_mut().zip(&px).for_each(|(c, px)| *c -= gain * px);
        }
        if (0..n).all(|i| self.covariance[i * (n + 1)] < FORGOTTEN * KEEP) {
            self.covariance.iter_mut().for_each(|c| *c /= KEEP);
        }
        self.observations += 1;
    }
}
