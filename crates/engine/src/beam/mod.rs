//! Beam search: of all continuations of a prompt those that are most likely as a whole.
//!
//! Beams share their past: one that goes on in two ways forks its cache, which copies nothing but the page being filled. What
//! is chosen, and when the search ends, is as in Hugging Face's `generate(num_beams=…, do_sample=False)`.

mod search;

pub(crate) use search::{Candidate, Hypothesis, Search};

use crate::EngineError;
use crate::request::MAX_CHOICES;

/// How a request searches. Temperature and what else thins out draws mean nothing to it; penalties, biases and constraints do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beam {
    /// Beams that are followed beside one another; the best `n` texts are returned.
    pub width: usize,
    /// A text's score is the sum of its tokens' log-probabilities by the number of its tokens to this power: above 0 favours long
    /// texts, below 0 short ones.
    pub length_penalty: f32,
    /// When enough texts are complete.
    pub stopping: Stopping,
}

/// When a search ends that has `width` complete texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stopping {
    /// At once.
    Early,
    /// When the best beam as it is now would not be among them.
    #[default]
    Hopeless,
    /// When no beam could be among them, however it goes on.
    Never,
}

impl Default for Beam {
    fn default() -> Beam {
        Beam { width: 1, length_penalty: 1.0, stopping: Stopping::default() }
    }
}

impl Beam {
    /// Checks against the number of texts that are wanted.
    ///
    /// # Errors
    /// Of kind [`crate::ErrorKind::Request`].
    pub(crate) fn validate(&self, n: usize) -> Result<(), EngineError> {
        if self.width < n || self.width > MAX_CHOICES {
            let allowed = format!("at least n ({n}) and at most {MAX_CHOICES}");
            return Err(EngineError::invalid("best_of", self.width, allowed));
        }
        if !self.length_penalty.is_finite() || self.length_penalty.abs() > 100.0 {
            return Err(EngineError::invalid("length_penalty", self.length_penalty, "between -100 and 100"));
        }
        Ok(())
    }
}
