//! What this engine can hold, known before a request is accepted.

use cachalot_kv::KvCache;

use crate::{EngineConfig, EngineError, Request};

/// The bounds a request must keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Logits of the model.
    pub vocab: usize,
    /// Most tokens of prompt and answer together: the model's positions, or fewer if so configured.
    pub context: usize,
    /// Most tokens whose cache fits the whole KV budget; no more than `context`.
    pub capacity: usize,
    /// Most sequences in a step.
    pub max_batch: usize,
    /// Tokens of a step; see [`EngineConfig::max_batch_tokens`].
    pub step_tokens: usize,
}

impl Limits {
    /// For a model of `vocab` logits and `context` positions.
    pub fn new(vocab: usize, context: usize, cache: &KvCache, config: &EngineConfig) -> Limits {
        let context = if config.max_context == 0 { context } else { context.min(config.max_context) };
        let budget = cache.ledger().budget();
        let (max_batch, step_tokens) = (config.max_batch.max(1), config.max_batch_tokens.max(1));
        let mut limits = Limits { vocab, context, capacity: 0, max_batch, step_tokens };
        // The bytes never fall as tokens are added, so the largest number that fits is found by halving.
        let mut over = context + 1;
        while over - limits.capacity > 1 {
            let middle = limits.capacity + (over - limits.capacity) / 2;
            if limits.peak_bytes(cache, middle) <= budget { limits.capacity = middle } else { over = middle }
        }
        limits
    }

    /// The most bytes a sequence holds on its way to `tokens`, computed in chunks of a step's tokens.
    pub fn peak_bytes(&self, cache: &KvCache, tokens: usize) -> u64 {
        cache.peak_bytes(&cache.config().plan, tokens, self.step_tokens)
    }

    /// Checks a request; returns the most tokens each of its choices may have.
    ///
    /// # Errors
    /// Everything [`Request::validate`] finds, [`EngineError::PromptTooLong`] and [`EngineError::KvTooSmall`].
    pub fn check(&self, request: &Request, cache: &KvCache) -> Result<usize, EngineError> {
        let prompt = request.prompt.len();
        // First the length: of a prompt that is much too long, nothing else matters.
        if prompt >= self.context {
            return Err(EngineError::PromptTooLong { prompt, context: self.context });
        }
        request.validate(self.vocab)?;
        if prompt >= self.capacity {
            let (needed, budget) = (self.peak_bytes(cache, prompt + 1), cache.ledger().budget());
            return Err(EngineError::KvTooSmall { prompt, needed, budget });
        }
        Ok(request.max_tokens.unwrap_or(usize::MAX).min(self.capacity - prompt))
    }
}
