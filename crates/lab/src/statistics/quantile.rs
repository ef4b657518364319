//! Quantiles.

/// The quantile `q` of values, interpolated linearly between the two nearest (Hyndman and Fan's definition 7, the default
/// of R and NumPy). NaN where there are none.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    of_sorted(&sorted, q)
}

/// The middle value; NaN where there are none.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

pub(super) fn of_sorted(sorted: &[f64], q: f64) -> f64 {
    let at = q.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    let (below, share) = (at.floor() as usize, at.fract());
    let Some(&low) = sorted.get(below) else { return f64::NAN };
    match sorted.get(below + 1) {
        Some(&high) if share > 0.0 => low + share * (high - low),
        _ => low,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_numpy_has_them() {
        // numpy.quantile([3, 1, 2, 10], [0, .25, .5, .99, 1])
        let values = [3.0, 1.0, 2.0, 10.0];
        for (q, expected) in [(0.0, 1.0), (0.25, 1.75), (0.5, 2.5), (0.99, 9.79), (1.0, 10.0)] {
            assert!((quantile(&values, q) - expected).abs() < 1e-12, "{q}");
        }
        assert_eq!(median(&[4.0]), 4.0);
        assert!(median(&[]).is_nan());
    }
}
