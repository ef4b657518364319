//! Softmax and Kullback-Leibler divergence, computed in f64.

/// The first logit of a row that is not finite.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the logit of token {token} is {value}")]
pub struct NonFinite {
    /// Token id.
    pub token: usize,
    /// NaN or infinity.
    pub value: f32,
}

/// The distribution that logits stand for.
#[derive(Clone, Copy, Debug)]
pub struct Distribution<'a> {
    logits: &'a [f32],
    /// `ln Σ exp(logits)`.
    log_norm: f64,
}

impl<'a> Distribution<'a> {
    /// The softmax of `logits`.
    ///
    /// # Errors
    /// [`NonFinite`]; a distribution made of NaN would compare as equal or worse by accident.
    pub fn new(logits: &'a [f32]) -> Result<Distribution<'a>, NonFinite> {
        if let Some((token, &value)) = logits.iter().enumerate().find(|(_, logit)| !logit.is_finite()) {
            return Err(NonFinite { token, value });
        }
        // Relative to the maximum, so that nothing overflows and the largest term is 1.
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
        Ok(Distribution { logits, log_norm: max + sum.ln() })
    }

    /// `ln p(token)`; minus infinity for a token that is not in the vocabulary.
    pub fn log_probability(&self, token: u32) -> f64 {
        self.logits.get(token as usize).map_or(f64::NEG_INFINITY, |&logit| f64::from(logit) - self.log_norm)
    }
}

/// `KL(p ‖ q) = Σ p ln(p/q)` in nats, for logits of one vocabulary.
///
/// Written as `Σ p (z_p - z_q) - (ln Z_p - ln Z_q)`: the differences of logits are exact in f64, so equal logits give
/// exactly 0. What rounding leaves below zero is zero.
pub fn kl(p: &Distribution<'_>, q: &Distribution<'_>) -> f64 {
    let terms = p.logits.iter().zip(q.logits).map(|(&zp, &zq)| {
        let (zp, zq) = (f64::from(zp), f64::from(zq));
        (zp - p.log_norm).exp() * (zp - zq)
    });
    (terms.sum::<f64>() - (p.log_norm - q.log_norm)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(logits: &[f32]) -> Distribution<'_> {
        Distribution::new(logits).unwrap()
    }

    #[test]
    fn by_hand() {
        // Logits 0, ln 2, ln 5 are 1/8, 2/8, 5/8.
        let p = [0.0, 2f32.ln(), 5f32.ln()];
        let d = of(&p);
        for (token, share) in [(0, 1.0f64), (1, 2.0), (2, 5.0)] {
            assert!((d.log_probability(token) - (share / 8.0).ln()).abs() < 1e-7);
        }
        // Against the uniform distribution: ln 3 - H(p).
        let entropy = -[1.0f64, 2.0, 5.0].iter().map(|n| n / 8.0 * (n / 8.0).ln()).sum::<f64>();
        let uniform = [7.0f32; 3];
        assert!((kl(&d, &of(&uniform)) - (3f64.ln() - entropy)).abs() < 1e-7);
        // And the other way: Σ 1/3 ln(8/(3 n)).
        let other: f64 = [1.0f64, 2.0, 5.0].iter().map(|n| (8.0 / (3.0 * n)).ln() / 3.0).sum();
        assert!((kl(&of(&uniform), &d) - other).abs() < 1e-7);
        assert_eq!(d.log_probability(3), f64::NEG_INFINITY);
    }

    #[test]
    fn tiny_and_huge_divergences_keep_their_digits() {
        // For logits 0 and ±e, KL(uniform ‖ ·) = ln cosh(e/2)... = e²/8 for small e.
        let e = 2f32.powi(-14);
        let got = kl(&of(&[0.0, 0.0]), &of(&[0.0, e]));
        let expected = f64::from(e).powi(2) / 8.0;
        assert!((got - expected).abs() < 1e-6 * expected, "{got} {expected}");
        // All mass on what the other all but excludes: the difference of the logits.
        let got = kl(&of(&[0.0, 2000.0]), &of(&[0.0, -2000.0]));
        assert_eq!(got, 2000.0);
    }

    #[test]
    fn logits_that_are_not_numbers_are_found() {
        assert_eq!(Distribution::new(&[0.0, f32::INFINITY]).unwrap_err().token, 1);
        assert!(Distribution::new(&[f32::NAN]).is_err());
    }

    proptest! {
        #[test]
        fn not_negative_and_blind_to_shifts(pairs in prop::collection::vec((-30f32..30.0, -30f32..30.0), 1..300), shift in -100f32..100.0) {
            let (p, q): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let divergence = kl(&of(&p), &of(&q));
            prop_assert!(divergence >= 0.0 && divergence.is_finite());
            prop_assert_eq!(kl(&of(&p), &of(&p)), 0.0);
            // The definition, term by term.
            let (dp, dq) = (of(&p), of(&q));
            let direct: f64 = (0..p.len() as u32).map(|i| dp.log_probability(i).exp() * (dp.log_probability(i) - dq.log_probability(i))).sum();
            prop_assert!((divergence - direct).abs() < 1e-9 * (1.0 + direct));
            let moved: Vec<f32> = q.iter().map(|z| z + shift).collect();
            prop_assert!((kl(&of(&p), &of(&moved)) - divergence).abs() < 1e-4);
        }
    }
}
