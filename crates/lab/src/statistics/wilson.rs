//! Intervals of proportions.

use super::Interval;

/// The 95% score interval of `right` successes in `of` trials (Wilson, "Probable inference, the law of succession, and
/// statistical inference", 1927). Unlike a bootstrap it does not shrink to nothing where all trials agree.
pub fn wilson(right: usize, of: usize) -> Interval {
    wilson_mean(right as f64, of)
}

/// The same of the mean of `of` values in `[0, 1]` whose sum is `right`. No such values vary more than zeros and ones, so the
/// interval is rather too wide.
pub fn wilson_mean(right: f64, of: usize) -> Interval {
    const Z: f64 = 1.959_963_984_540_054;
    if of == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let n = of as f64;
    let p = right / n;
    let scale = 1.0 + Z * Z / n;
    let middle = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z / scale * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    // The ends are exact where all trials agree; rounding must not move them.
    let low = if right <= 0.0 { 0.0 } else { (middle - half).max(0.0) };
    let high = if right >= n { 1.0 } else { (middle + half).min(1.0) };
    Interval { low, high }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // 15 of 20 and 20 of 20, from the closed form with z² = 3.8415.
        let some = wilson(15, 20);
        assert!((some.low - 0.5313).abs() < 5e-5 && (some.high - 0.8881).abs() < 5e-5, "{some:?}");
        let all = wilson(20, 20);
        assert!((all.low - 20.0 / 23.8415).abs() < 5e-5 && all.high == 1.0, "{all:?}");
        assert_eq!(wilson(0, 0), Interval { low: 0.0, high: 1.0 });
        assert_eq!(wilson(0, 20).low, 0.0);
    }
}
