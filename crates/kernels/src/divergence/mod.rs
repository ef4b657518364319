//! Two next-token distributions compared, token by token: logits of a lossy cache against those of an exact one.

mod distribution;
mod top;

pub use distribution::{Distribution, NonFinite, kl};
pub use top::{TOP, Top};

/// How one next-token distribution compares with the reference's for the same tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenMeasure {
    /// Kullback-Leibler divergence from the reference, in nats; exactly 0 for equal logits.
    pub kl: f64,
    /// Negative log-likelihood of the token that came, in nats.
    pub nll: f64,
    /// The same of the reference.
    pub reference_nll: f64,
    /// Whether both find the same token most likely.
    pub same_top1: bool,
    /// How many of the [`TOP`] most likely tokens both have, whatever their order.
    pub shared_top5: u8,
}

/// One row of logits, with what comparing needs of it.
pub struct Row<'a> {
    distribution: Distribution<'a>,
    top: Top,
}

impl<'a> Row<'a> {
    /// Looks at logits once.
    ///
    /// # Errors
    /// [`NonFinite`] names the first logit that is not a number.
    pub fn new(logits: &'a [f32]) -> Result<Row<'a>, NonFinite> {
        Ok(Row { distribution: Distribution::new(logits)?, top: Top::of(logits) })
    }

    /// The most likely token.
    pub fn first(&self) -> Option<u32> {
        self.top.first()
    }

    /// Compares with the reference; `next` is the token that came.
    pub fn against(&self, reference: &Row<'_>, next: u32) -> TokenMeasure {
        TokenMeasure {
            kl: kl(&reference.distribution, &self.distribution),
            nll: -self.distribution.log_probability(next),
            reference_nll: -reference.distribution.log_probability(next),
            same_top1: self.top.first() == reference.top.first(),
            shared_top5: self.top.shared(&reference.top),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_against_itself_is_exact() {
        let logits = [0.1f32, -3.7, 12.5, 1e-20, 7.25, 3.0];
        let (a, b) = (Row::new(&logits).unwrap(), Row::new(&logits).unwrap());
        let measure = a.against(&b, 3);
        assert_eq!(measure.kl, 0.0);
        assert_eq!(measure.nll, measure.reference_nll);
        assert!(measure.same_top1);
        assert_eq!(measure.shared_top5, 5);
    }

    #[test]
    fn direction_and_target_are_as_stated() {
        // P = (3/4, 1/4), Q = (1/4, 3/4).
        let (p, q) = ([3f32.ln(), 0.0], [0.0, 3f32.ln()]);
        let measure = Row::new(&q).unwrap().against(&Row::new(&p).unwrap(), 1);
        assert!((measure.kl - 0.5 * 3f64.ln()).abs() < 1e-7, "{measure:?}");
        assert!((measure.nll - (4f64 / 3.0).ln()).abs() < 1e-7, "{measure:?}");
        assert!((measure.reference_nll - 4f64.ln()).abs() < 1e-7, "{measure:?}");
        assert!(!measure.same_top1);
    }
}
