//! The seam between the engine and whatever computes logits.

use cachalot_kv::{KvCache, Segment};

use crate::ModelError;
use crate::spec::ModelSpec;

/// Something that predicts tokens with the help of a cache. The engine is generic over it; its tests use a stand-in.
pub trait Decoder: Send + Sync {
    /// What the model is made of.
    fn spec(&self) -> &ModelSpec;

    /// One step: appends `tokens` to the sequences of `segments` and returns logits.
    ///
    /// `tokens` are the rows of all segments in order. `logits_rows` are the rows whose logits are wanted; the result
    /// is `[logits_rows.len()][vocab]` in that order. Space for the rows was reserved in the cache before.
    ///
    /// Row-independent: a token's logits have the same bits whatever travels with it in the step, however its prompt
    /// was cut into steps, and with any number of threads.
    ///
    /// # Errors
    /// `Forward` where the arguments contradict each other, a token is not in the vocabulary or the cache refuses. No
    /// sequence has grown then.
    fn forward(
        &self,
        cache: &KvCache,
        segments: &mut [Segment<'_>],
        tokens: &[u32],
        logits_rows: &[usize],
    ) -> Result<Vec<f32>, ModelError>;
}
