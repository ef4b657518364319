//! Differences of scores on the same items.

use super::Interval;

/// The 95% interval of the mean of differences that each lie in `[-1, 1]`.
///
/// Two pseudo-observations, one better by half a point and one worse for each sign, stand beside the data: the interval of
/// Agresti and Min ("Simple improved confidence intervals for comparing matched proportions", 2005) where scores are 0 or 1,
/// and the same for scores between. So a few equal pairs are no proof of equality, as resampling them would have it.
/// `[-1, 1]` without any.
pub fn paired(differences: &[f64]) -> Interval {
    if differences.is_empty() {
        return Interval { low: -1.0, high: 1.0 };
    }
    let n = differences.len() as f64 + 2.0;
    let mean = differences.iter().sum::<f64>() / n;
    let square = (differences.iter().map(|d| d * d).sum::<f64>() + 1.0) / n;
    let half = 1.959964 * ((square - mean * mean) / n).max(0.0).sqrt();
    Interval { low: (mean - half).max(-1.0), high: (mean + half).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Random;

    #[test]
    fn as_by_hand() {
        // Ten pairs, three worse: b* = 0.5, c* = 3.5, n* = 12.
        let mut differences = [0.0; 10];
        differences[..3].fill(-1.0);
        let found = paired(&differences);
        let mean = -3.0f64 / 12.0;
        let half = 1.959964 * ((4.0 / 12.0 - mean * mean) / 12.0f64).sqrt();
        assert!((found.low - (mean - half)).abs() < 1e-12 && (found.high - (mean + half)).abs() < 1e-12, "{found:?}");
        // Nothing lost of four is no proof.
        assert!(paired(&[0.0; 4]).low < -0.25);
        assert!(paired(&[0.0; 400]).low > -0.01);
    }

    #[test]
    fn covers_as_often_as_it_says() {
        let mut random = Random::new(5);
        // One of ten becomes worse, one of thirty better.
        let truth = 1.0 / 30.0 - 0.1;
        let mut covered = 0;
        for _ in 0..1000 {
            let draw = |random: &mut Random| match random.below(30) {
                0 => 1.0,
                1..=3 => -1.0,
                _ => 0.0,
            };
            let differences: Vec<f64> = (0..25).map(|_| draw(&mut random)).collect();
            covered += usize::from(paired(&differences).contains(truth));
        }
        assert!((930..=990).contains(&covered), "{covered}");
    }
}
