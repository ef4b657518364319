//! KVCOMM's formulas (Ye et al., 2025), as its code has them.

/// Weights of some distances: the softmax of what is left of nothing when they are taken from it. All zero where there are none.
pub fn weights(distances: &[f32]) -> Vec<f32> {
    let least = distances.iter().copied().fold(f32::INFINITY, f32::min);
    let mut weights: Vec<f32> = distances.iter().map(|distance| (least - distance).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
    weights
}

/// Entropy of some weights that sum to one, in bits.
pub fn entropy(weights: &[f32]) -> f32 {
    -weights.iter().filter(|weight| **weight > 0.0).map(|weight| weight * weight.log2()).sum::<f32>()
}

/// Whether anchors at these distances foretell a message: at least two of them, and weights that differ enough, by `gamma` of
/// the largest entropy that there could be.
pub fn foretold(distances: &[f32], gamma: f64) -> bool {
    let most = (distances.len() as f32).log2();
    distances.len() >= 2 && f64::from(entropy(&weights(distances))) <= gamma * f64::from(most)
}

/// The fewest of the largest weights that reach `share` together. (The code keeps those that stay below it, and all where the
/// first is above; what was meant is this.)
pub fn nucleus(weights: &[f32], share: f32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
    let mut sum = 0.0;
    let taken = order.iter().take_while(|&&i| {
        let more = sum < share;
        sum += weights[i];
        more
    });
    let count = taken.count();
    order.truncate(count);
    order
}

/// Which of some anchors goes, of which the first is the oldest: among the oldest `window`, the one that was of use least often.
pub fn superfluous(uses: &[u64], window: usize) -> Option<usize> {
    (0..uses.len().min(window)).min_by_key(|&i| uses[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_anchor_has_all_the_weight_and_foretells_nothing() {
        assert_eq!(weights(&[7.5]), [1.0]);
        assert!(!foretold(&[7.5], 0.3) && !foretold(&[], 0.3));
        assert_eq!(weights(&[]), [0.0; 0]);
        assert_eq!(weights(&[1e30, 0.0]), [0.0, 1.0]);
    }

    #[test]
    fn anchors_alike_foretell_nothing() {
        assert_eq!(entropy(&weights(&[3.0, 3.0])), 1.0);
        assert!(!foretold(&[3.0, 3.0], 0.3));
        assert!(foretold(&[3.0, 3.0], 1.0));
    }

    #[test]
    fn one_that_is_nearer_than_the_other_does() {
        let found = weights(&[0.0, 5.0]);
        assert!((found[0] - 0.9933).abs() < 1e-4 && (found[1] - 0.0067).abs() < 1e-4, "{found:?}");
        assert!((entropy(&found) - 0.058).abs() < 1e-3, "{}", entropy(&found));
        assert!(foretold(&[0.0, 5.0], 0.3) && !foretold(&[0.0, 5.0], 0.05));
    }

    #[test]
    fn a_nucleus_is_the_fewest_that_reach_the_share() {
        assert_eq!(nucleus(&[0.05, 0.95], 0.9), [1]);
        assert_eq!(nucleus(&[0.5, 0.3, 0.2], 0.9), [0, 1, 2]);
        assert_eq!(nucleus(&[0.2, 0.5, 0.3], 0.8), [1, 2]);
        assert_eq!(nucleus(&[], 0.9), [0; 0]);
    }

    #[test]
    fn of_the_oldest_the_least_used_goes() {
        assert_eq!(superfluous(&[3, 1, 2, 0], 3), Some(1));
        assert_eq!(superfluous(&[1, 1], 5), Some(0));
        assert_eq!(superfluous(&[], 5), None);
    }
}
