//! From logits to a token.
//!
//! The order, for one token of one sequence:
//!
//! 1. The raw logits must be finite; one that is not ends this sequence with an error, and no other.
//! 2. Log-probabilities, if asked for, are taken here ([`token_logprobs`]).
//! 3. Repetition, then frequency and presence penalties.
//! 4. Logit bias.
//! 5. The grammar's mask. It comes after the bias, so no bias lifts a token the grammar forbids.
//! 6. Temperature zero: the highest logit, lowest id among equals, and we are done.
//! 7. Temperature, then top-k, then top-p (of what top-k left), then min-p (relative to the most likely token): the
//!    order of Hugging Face and vLLM. llama.cpp applies the temperature last; its top-p sees other probabilities.
//! 8. One uniform draw ([`Stream`]).

mod filter;
mod logprobs;
mod mask;
mod penalty;
mod rng;
mod validate;

pub use logprobs::{MAX_TOP_LOGPROBS, TokenLogprobs, TopLogprob, log_sum_exp, token_logprobs};
pub use mask::TokenMask;
pub use rng::Stream;

use crate::EngineError;
use penalty::History;

/// How tokens are chosen. The default samples from the model's own distribution, as OpenAI's API does.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy. Finite, not negative.
    pub temperature: f32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens that together reach this probability; in `(0, 1]`, 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the most likely one; in `[0, 1]`, 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or answer; above 0, 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that occur in the answer; in `[-100, 100]`.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens for every time they occur in the answer; in `[-100, 100]`.
    pub frequency_penalty: f32,
    /// Makes the answer repeatable. Without it the engine takes one from the operating system.
    pub seed: Option<u64>,
    /// Added to the logits of single tokens; ids of the vocabulary, biases in `[-100, 100]`.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
        }
    }
}

impl Sampling {
    /// Always the most likely token.
    pub fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }
}

/// Buffers of the size of the vocabulary, reused from token to token. Results never depend on what they held.
#[derive(Default)]
pub struct Scratch {
    adjusted: Vec<f32>,
    candidates: Vec<(f32, u32)>,
}

/// Chooses the tokens of one sequence.
#[derive(Clone)]
pub struct Sampler {
    sampling: std::sync::Arc<Sampling>,
    stream: Stream,
    history: History,
    generated: u64,
}

impl Sampler {
    /// For choice `choice` of a request. `sampling` has passed [`Sampling::validate`]; `seed` is its seed, or the one
    /// that was taken in its place.
    pub fn new(sampling: std::sync::Arc<Sampling>, seed: u64, choice: usize, prompt: &[u32]) -> Sampler {
        let history = History::new(&sampling, prompt);
        Sampler { history, stream: Stream::new(seed, choice as u64), sampling, generated: 0 }
    }

    /// The next token. `logits` are the model's, one per token of the vocabulary.
    ///
    /// Changes nothing: call [`Sampler::accept`] with the token that is then used.
    ///
    /// # Errors
    /// [`EngineError::NonFiniteLogits`] and [`EngineError::NoTokenAllowed`].
    pub fn sample(
        &self,
        logits: &[f32],
        allowed: Option<&TokenMask>,
        scratch: &mut Scratch,
    ) -> Result<u32, EngineError> {
        check_finite(logits)?;
        let sampling = &*self.sampling;
        let Scratch { adjusted, candidates } = scratch;
        let logits = self.adjusted(logits, allowed, adjusted);
        let token = if sampling.temperature == 0.0 {
            filter::argmax(logits)
        } else {
            filter::draw(logits, sampling, self.stream.uniform(self.generated), candidates)
        };
        token.ok_or(EngineError::NoTokenAllowed)
    }

    /// The most likely tokens with their log-probabilities, most likely first, after penalties, bias and mask but whatever the
    /// temperature: at most `count`, and none that is masked.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn best(
        &self,
        logits: &[f32],
        allowed: Option<&TokenMask>,
        count: usize,
        scratch: &mut Scratch,
    ) -> Result<Vec<(u32, f64)>, EngineError> {
        check_finite(logits)?;
        let logits = self.adjusted(logits, allowed, &mut scratch.adjusted);
        let best = logprobs::highest(logits, count);
        let norm = log_sum_exp(logits);
        let best = best.into_iter().filter(|(logit, _)| *logit > f32::NEG_INFINITY);
        let best: Vec<(u32, f64)> = best.map(|(logit, id)| (id, f64::from(logit) - norm)).collect();
        if best.is_empty() { Err(EngineError::NoTokenAllowed) } else { Ok(best) }
    }

    /// Logits with penalties, bias and mask; in `adjusted` if there are any.
    fn adjusted<'a>(&self, logits: &'a [f32], allowed: Option<&TokenMask>, adjusted: &'a mut Vec<f32>) -> &'a [f32] {
        let sampling = &*self.sampling;
        if !self.history.is_active() && sampling.logit_bias.is_empty() && allowed.is_none() {
            return logits;
        }
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        self.history.apply(sampling, adjusted);
        for &(id, bias) in &sampling.logit_bias {
            if let Some(logit) = adjusted.get_mut(id as usize) {
                *logit += bias;
            }
        }
        if let Some(mask) = allowed {
            mask.apply(adjusted);
        }
        adjusted
    }

    /// Notes that `token` was generated: penalties count it and the next draw is another one.
    pub fn accept(&mut self, token: u32) {
        self.history.accept(token);
        self.generated += 1;
    }
}

fn check_finite(logits: &[f32]) -> Result<(), EngineError> {
    // On bits, and without leaving early, so that the compiler makes vectors of it.
    const EXPONENT: u32 = 0x7f80_0000;
    if logits.iter().fold(true, |finite, logit| finite & (logit.to_bits() & EXPONENT != EXPONENT)) {
        return Ok(());
    }
    let found = logits.iter().zip(0u32..).find(|(logit, _)| !logit.is_finite());
    let (value, token) = found.map_or((f32::NAN, 0), |(&logit, id)| (logit, id));
    Err(EngineError::NonFiniteLogits { token, value: value.to_string() })
}

#[cfg(test)]
mod tests;
