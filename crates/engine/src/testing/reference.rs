//! The plainest way to generate: one sequence, its whole prompt at once, then token by token.

use std::sync::Arc;

use cachalot_kv::Segment;
use cachalot_model::Decoder;

use super::{ByteVocabulary, cache};
use crate::sampling::{Sampler, Scratch};
use crate::text::{TextOutput, Vocabulary};
use crate::{FinishReason, Request};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expected {
    pub ids: Vec<u32>,
    pub text: String,
    pub reason: FinishReason,
}

/// What choice `choice` of a request must be; `limit` is the most tokens there is room for.
pub(crate) fn expected(decoder: &dyn Decoder, request: &Request, choice: usize, limit: usize) -> Expected {
    let vocabulary = ByteVocabulary::new(&[]);
    let (cache, mut scratch) = (cache(1000), Scratch::default());
    let mut kv = cache.create();
    let seed = request.sampling.seed.unwrap();
    let mut sampler = Sampler::new(Arc::new(request.sampling.clone()), seed, choice, &request.prompt);
    let mut output = TextOutput::new(&vocabulary, false, &request.stop);
    let limit = request.max_tokens.unwrap_or(usize::MAX).min(limit);
    let (mut ids, mut text, mut next) = (Vec::new(), String::new(), request.prompt.clone());
    let mut reason = FinishReason::Length;
    while ids.len() < limit {
        cache.reserve(&mut kv, next.len()).unwrap();
        let mut segments = [Segment { seq: &mut kv, rows: next.len() }];
        let logits = decoder.forward(&cache, &mut segments, &next, &[next.len() - 1]).unwrap();
        let id = sampler.sample(&logits, None, &mut scratch).unwrap();
        sampler.accept(id);
        ids.push(id);
        if (vocabulary.eos().contains(&id) && !request.ignore_eos) || request.stop_tokens.contains(&id) {
            reason = FinishReason::Stop;
            break;
        }
        text += &output.push(id);
        if output.is_stopped() {
            reason = FinishReason::Stop;
            break;
        }
        next = vec![id];
    }
    text += &output.finish();
    Expected { ids, text, reason }
}
