//! How far an answer was from what the exact cache would have said.

use std::time::Duration;

use cachalot_kernels::divergence::TokenMeasure;
use cachalot_kv::KvFormat;

use super::ReplayConfig;
use crate::EngineError;

/// Asks for a report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReportSpec {
    /// Share of the answer's steps that are compared, 0 to 1; the first two are in any case.
    pub share: f64,
    /// So long after submission the report is given up, where the engine's own patience would last longer.
    pub within: Option<Duration>,
}

impl Default for ReportSpec {
    fn default() -> ReportSpec {
        ReportSpec { share: ReplayConfig::STEPS, within: None }
    }
}

/// What comparing one choice with the exact cache has shown.
#[derive(Clone, Debug, PartialEq)]
pub struct KvReport {
    /// The comparison, or why there is none.
    pub outcome: Result<Divergence, Skipped>,
    /// Steps (tokens) of the choice.
    pub of: usize,
    /// Share of them that was asked for.
    pub share: f64,
    /// The exact cache.
    pub exact: KvFormat,
    /// Tokens that were computed over it.
    pub exact_tokens: usize,
    /// Seconds from the end of the answer to the report.
    pub seconds: f64,
}

/// Steps compared, next-token distribution by next-token distribution. Divergences are `KL(exact ‖ lossy)` in nats and
/// exactly 0 where both caches gave the same logits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divergence {
    /// Steps compared.
    pub steps: usize,
    /// The largest divergence of any.
    pub kl_max: f64,
    /// Where it was: tokens of the answer before that step.
    pub kl_max_step: usize,
    /// Steps at which both caches find the same token most likely.
    pub agreeing: usize,
    /// Steps whose token, sampled as the request wanted, is the one that the exact cache finds most likely.
    pub chosen_top1: usize,
    kl_sum: f64,
    /// Of first steps; there are several where choices are taken together.
    first_sum: f64,
    firsts: usize,
    /// Sum of what the tokens' negative log-likelihoods are more than over the exact cache.
    nll_more: f64,
}

impl Divergence {
    /// Adds a step. `chosen_top1` as in [`Divergence::chosen_top1`].
    pub(crate) fn add(&mut self, step: usize, measure: &TokenMeasure, chosen_top1: bool) {
        if self.steps == 0 || measure.kl > self.kl_max {
            (self.kl_max, self.kl_max_step) = (measure.kl, step);
        }
        if step == 0 {
            self.first_sum += measure.kl;
            self.firsts += 1;
        }
        self.steps += 1;
        self.kl_sum += measure.kl;
        self.agreeing += usize::from(measure.same_top1);
        self.chosen_top1 += usize::from(chosen_top1);
        self.nll_more += measure.nll - measure.reference_nll;
    }

    /// Steps of several choices together.
    pub fn merge(&mut self, other: &Divergence) {
        if self.steps == 0 || other.steps > 0 && other.kl_max > self.kl_max {
            (self.kl_max, self.kl_max_step) = (other.kl_max, other.kl_max_step);
        }
        self.steps += other.steps;
        self.kl_sum += other.kl_sum;
        self.first_sum += other.first_sum;
        self.firsts += other.firsts;
        self.agreeing += other.agreeing;
        self.chosen_top1 += other.chosen_top1;
        self.nll_more += other.nll_more;
    }

    /// Mean divergence of a step.
    pub fn kl_mean(&self) -> f64 {
        self.kl_sum / self.steps.max(1) as f64
    }

    /// Divergence of the first step, which comes from the prompt alone; absent where it was not compared.
    pub fn kl_first(&self) -> Option<f64> {
        (self.firsts > 0).then(|| self.first_sum / self.firsts as f64)
    }

    /// Share of steps in [`Divergence::agreeing`].
    pub fn top1_agreement(&self) -> f64 {
        self.agreeing as f64 / self.steps.max(1) as f64
    }

    /// Perplexity of the answer's tokens over the lossy cache, by that over the exact one: above 1 where the lossy cache
    /// finds its own answer less likely than the exact one does.
    pub fn perplexity_ratio(&self) -> f64 {
        (self.nll_more / self.steps.max(1) as f64).exp()
    }
}

/// Why an answer was not compared, or not to the end.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Skipped {
    /// Nothing was generated, or there was no room for the logits of any step.
    #[error("no step was kept for comparison: nothing was generated, or too many answers are being compared")]
    NoSteps,
    /// The exact cache found no room, or had to make room.
    #[error("the exact cache of the answer did not fit beside other requests; raise the KV budget or ask again later")]
    Memory,
    /// It took too long.
    #[error("comparing was given up after {seconds:.1} seconds: other requests took the time")]
    Deadline {
        /// Since the end of the answer.
        seconds: f64,
    },
    /// Too many wait.
    #[error("{waiting} answers wait to be compared already; ask again later")]
    Queue {
        /// Those that wait.
        waiting: usize,
    },
    /// A shadow of a request that used the exact cache.
    #[error("the request used the exact cache itself")]
    Exact,
    /// The client went away.
    #[error("the request was cancelled")]
    Cancelled,
    /// The engine ends.
    #[error("the engine is shutting down")]
    Closing,
    /// The model failed, or logits are not numbers.
    #[error("comparing failed: {0}")]
    Failed(EngineError),
}

impl Skipped {
    /// One word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Skipped::NoSteps => "no_steps",
            Skipped::Memory => "memory",
            Skipped::Deadline { .. } => "deadline",
            Skipped::Queue { .. } => "queue",
            Skipped::Exact => "exact",
            Skipped::Cancelled => "cancelled",
            Skipped::Closing => "closing",
            Skipped::Failed(_) => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(kl: f64, same_top1: bool, nll: f64, reference_nll: f64) -> TokenMeasure {
        TokenMeasure { kl, nll, reference_nll, same_top1, shared_top5: 5 }
    }

    #[test]
    fn means_by_hand_in_one_piece_or_two() {
        let steps = [
            (0, measure(0.2, true, 1.5, 1.0), true),
            (4, measure(0.7, false, 1.0, 1.0), false),
            (9, measure(0.0, true, 2.0, 2.1), false),
        ];
        let of = |steps: &[(usize, TokenMeasure, bool)]| {
            let mut sum = Divergence::default();
            steps.iter().for_each(|(step, measure, chosen)| sum.add(*step, measure, *chosen));
            sum
        };
        let mut merged = of(&steps[..1]);
        merged.merge(&of(&steps[1..]));
        for sum in [of(&steps), merged] {
            assert_eq!((sum.steps, sum.kl_max, sum.kl_max_step), (3, 0.7, 4));
            assert!((sum.kl_mean() - 0.3).abs() < 1e-12);
            assert_eq!(sum.kl_first(), Some(0.2));
            assert!((sum.top1_agreement() - 2.0 / 3.0).abs() < 1e-12 && sum.chosen_top1 == 1);
            // (0.5 + 0 - 0.1) / 3 nats more.
            assert!((sum.perplexity_ratio() - (0.4f64 / 3.0).exp()).abs() < 1e-12);
        }
        let nothing = Divergence::default();
        assert_eq!((nothing.kl_mean(), nothing.kl_first(), nothing.perplexity_ratio()), (0.0, None, 1.0));
    }
}
