//! Passes over a context that its recipe wants before it is reduced, for those who run one sequence at a time. The engine's
//! scheduler does the same among its batches.

use crate::tokenizer::{Specials, Tokenizer};
use crate::{Decoder, ModelError};
use cachalot_kv::reduce::Words;
use cachalot_kv::{KvCache, KvError, Segment, SequenceKv};

/// Computes what [`SequenceKv::pass_tokens`] asks for over the tokens of the context, in steps of at most `step`, and reduces
/// the sequence when that is done. Returns the logits after the last token of the context where a pass has them.
///
/// # Errors
/// What the cache or the model refuses; the sequence is of no use then.
pub fn finish_context(
    decoder: &dyn Decoder,
    cache: &KvCache,
    seq: &mut SequenceKv,
    context: &[u32],
    step: usize,
) -> Result<Option<Vec<f32>>, ModelError> {
    let refused = |e: KvError| ModelError::Forward { reason: e.to_string() };
    let mut logits = None;
    while seq.pass_rows() > 0 {
        let mut tokens = seq.pass_tokens(context);
        tokens.truncate(step.max(1));
        cache.reserve(seq, tokens.len()).map_err(refused)?;
        let wanted: &[usize] = if seq.answers(tokens.len()) { &[tokens.len() - 1] } else { &[] };
        let found = decoder.forward(cache, &mut [Segment { seq, rows: tokens.len() }], &tokens, wanted)?;
        if !wanted.is_empty() {
            logits = Some(found);
        }
        cache.settle(seq);
        cache.reduce(seq).map_err(refused)?;
    }
    Ok(logits)
}

/// Requests to repeat a context in a model's tokens, as KVzip (Kim et al., 2025) words them.
///
/// # Errors
/// Where the tokenizer refuses them.
pub fn words(tokenizer: &Tokenizer) -> Result<Words, ModelError> {
    let tokens = |text: &str| tokenizer.encode(text, Specials::Plain);
    Ok(Words {
        first: tokens("\n\nRepeat the previous context exactly.")?,
        further: tokens("\n\nRepeat the part of the previous context exactly, starting with")?,
        suffix: tokens("\n")?,
    })
}
