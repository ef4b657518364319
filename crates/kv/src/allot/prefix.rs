//! PrefixKV (Wang et al., 2024): layers keep as many tokens as hold the same share of what was received, found by a binary
//! search, so that all together keep what the budget says.

use super::{Budget, Choose};
use crate::score::{Method, Scored};

/// Budgets of layers.
#[derive(Debug)]
pub(crate) struct PrefixKv;

impl Choose for PrefixKv {
    fn allot(&self, of: &dyn Method, layers: &[Scored<'_>], _: Budget, kept: &mut [Vec<usize>]) {
        let least = of.least();
        let reduced: Vec<usize> = (0..layers.len()).filter(|&l| !layers[l].scores.is_empty()).collect();
        let curves: Vec<Vec<f64>> = reduced.iter().map(|&l| curve(&layers[l].scores)).collect();
        let target: usize = reduced.iter().map(|&l| kept[l].iter().sum::<usize>() / kept[l].len()).sum();
        for (&layer, count) in reduced.iter().zip(allot(&curves, least, target)) {
            kept[layer].fill(count);
        }
    }

    fn describe(&self) -> String {
        "layers keep the same share of what was received".to_owned()
    }
}

/// What the best `k` tokens hold of all, for `k` from one on; mean over heads.
fn curve(scores: &[Vec<f32>]) -> Vec<f64> {
    let len = scores.iter().map(Vec::len).max().unwrap_or(0);
    let mut mean = vec![0.0f64; len];
    for head in scores {
        // Those that a method protects do not show what was received.
        let finite = head.iter().map(|&x| if x.is_finite() { f64::from(x.max(0.0)) } else { 0.0 });
        mean.iter_mut().zip(finite).for_each(|(mean, x)| *mean += x / scores.len() as f64);
    }
    mean.sort_by(|a, b| b.total_cmp(a));
    let total: f64 = mean.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let mut sum = 0.0;
    mean.iter_mut().for_each(|x| {
        sum += *x / total;
        *x = sum;
    });
    mean
}

/// Tokens of each layer, `target` in all but for rounding.
fn allot(curves: &[Vec<f64>], least: usize, target: usize) -> Vec<usize> {
    let at = |level: f64| -> Vec<usize> {
        let count = |curve: &Vec<f64>| (curve.partition_point(|&x| x < level) + 1).min(curve.len()).max(least);
        curves.iter().map(count).collect()
    };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if at(middle).iter().sum::<usize>() > target { high = middle } else { low = middle }
    }
    at(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_alike_share_alike_and_a_peak_needs_little() {
        let flat = curve(&[vec![1.0; 100]]);
        assert_eq!(allot(&[flat.clone(), flat.clone()], 0, 80), [40, 40]);
        let mut peak = vec![0.001; 100];
        peak[7] = 10.0;
        let counts = allot(&[flat, curve(&[peak])], 0, 80);
        assert!(counts[1] < 30 && counts[0] > 50 && (76..=80).contains(&(counts[0] + counts[1])), "{counts:?}");
    }
}
