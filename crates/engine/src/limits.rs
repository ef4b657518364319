//! What this engine can hold, known before a request is accepted.

use cachalot_kv::{CachePlan, KvCache};

use crate::{EngineConfig, EngineError, Request};

/// The bounds a request must keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Logits of the model.
    pub vocab: usize,
    /// Most tokens of prompt and answer together: the model's positions, or fewer if so configured.
    pub context: usize,
    /// Most tokens whose cache, kept as the engine keeps it by itself, fits the whole KV budget; no more than `context`.
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
        let (max_batch, step_tokens) = (config.max_batch.max(1), config.max_batch_tokens.max(1));
        let limits = Limits { vocab, context, capacity: 0, max_batch, step_tokens };
        Limits { capacity: limits.capacity_of(cache, &cache.config().plan), ..limits }
    }

    /// [`Limits::capacity`] of a sequence with a plan of its own.
    pub fn capacity_of(&self, cache: &KvCache, plan: &CachePlan) -> usize {
        let budget = cache.ledger().budget();
        // The bytes never fall as tokens are added, so the largest number that fits is found by halving.
        let (mut capacity, mut over) = (0, self.context + 1);
        while over - capacity > 1 {
            let middle = capacity + (over - capacity) / 2;
            if self.peak_bytes(cache, plan, middle) <= budget { capacity = middle } else { over = middle }
        }
        capacity
    }

    /// The most bytes a sequence holds on its way to `tokens`, computed in chunks of a step's tokens.
    pub fn peak_bytes(&self, cache: &KvCache, plan: &CachePlan, tokens: usize) -> u64 {
        cache.peak_bytes(plan, tokens, self.step_tokens)
    }

    /// Checks a request whose cache follows `plan`; returns the most tokens each of its choices may have.
    ///
    /// # Errors
    /// Everything [`Request::validate`] finds, [`EngineError::PromptTooLong`] and [`EngineError::KvTooSmall`].
    pub fn check(&self, request: &Request, cache: &KvCache, plan: &CachePlan) -> Result<usize, EngineError> {
        let prompt = request.prompt.len();
        // First the length: of a prompt that is much too long, nothing else matters.
        if prompt >= self.context {
            return Err(EngineError::PromptTooLong { prompt, context: self.context });
        }
        request.validate(self.vocab)?;
        let own = std::ptr::eq(plan, &*cache.config().plan);
        let capacity = if own { self.capacity } else { self.capacity_of(cache, plan) };
        if prompt >= capacity {
            let (needed, budget) = (self.peak_bytes(cache, plan, prompt + 1), cache.ledger().budget());
            return Err(EngineError::KvTooSmall { prompt, needed, budget });
        }
        Ok(request.max_tokens.unwrap_or(usize::MAX).min(capacity - prompt))
    }
}
