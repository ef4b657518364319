//! D2O's budgets (Wan et al., 2024): layers whose attention is spread keep more.

use super::{Budget, Choose};
use crate::score::{Method, Scored};

/// Least and largest share that a layer keeps.
const SHARES: [f64; 2] = [0.01, 1.0];

/// A softmax over layers of minus the variance of what tokens received.
#[derive(Debug)]
pub(crate) struct Variance;

impl Choose for Variance {
    fn allot(&self, _: &dyn Method, layers: &[Scored<'_>], _: Budget, kept: &mut [Vec<usize>]) {
        let reduced: Vec<usize> = (0..layers.len()).filter(|&l| !layers[l].scores.is_empty()).collect();
        let spread: Vec<f64> = reduced.iter().map(|&l| concentration(&layers[l].scores)).collect();
        let Some(tokens) = reduced.iter().flat_map(|&l| layers[l].scores.iter().map(Vec::len)).max() else { return };
        let mean: f64 = reduced.iter().map(|&l| kept[l][0] as f64).sum::<f64>() / (reduced.len() * tokens) as f64;
        for (&layer, share) in reduced.iter().zip(shares(&spread, mean)) {
            kept[layer].fill((share * tokens as f64) as usize);
        }
    }

    fn describe(&self) -> String {
        "layers whose attention is spread keep more".to_owned()
    }
}

/// Variance over tokens, brought to 0..1 over the heads of the layer, mean of these.
fn concentration(scores: &[Vec<f32>]) -> f64 {
    let variance = |scores: &Vec<f32>| {
        let finite: Vec<f64> = scores.iter().filter(|x| x.is_finite()).map(|&x| f64::from(x)).collect();
        let mean = finite.iter().sum::<f64>() / finite.len().max(1) as f64;
        finite.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (finite.len().max(2) - 1) as f64
    };
    let all: Vec<f64> = scores.iter().map(variance).collect();
    let (low, high) = all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &x| (l.min(x), h.max(x)));
    let range = (high - low).max(f64::MIN_POSITIVE);
    all.iter().map(|x| (x - low) / range).sum::<f64>() / all.len().max(1) as f64
}

/// The share of each layer, `mean` on average but for the limits.
fn shares(concentration: &[f64], mean: f64) -> Vec<f64> {
    let total: f64 = concentration.iter().map(|f| (-f).exp()).sum();
    let share = |f: &f64| (-f).exp() / total * concentration.len() as f64 * mean;
    concentration.iter().map(|f| share(f).clamp(SHARES[0], SHARES[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_alike_share_alike_and_together_they_meet_the_mean() {
        assert!(shares(&[0.4; 5], 0.25).iter().all(|s| (s - 0.25).abs() < 1e-12));
        let uneven = shares(&[0.1, 0.9, 0.5], 0.25);
        assert!((uneven.iter().sum::<f64>() - 0.75).abs() < 1e-12 && uneven[0] > uneven[2] && uneven[2] > uneven[1]);
    }
}
