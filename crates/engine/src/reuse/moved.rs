//! What of a prompt would be moved from other contexts, and which rows of that would be computed again.

use std::ops::Range;

use cachalot_kv::mend::Select;
use cachalot_kv::{KvCache, SequenceKv};
use cachalot_store::{BlockKey, Domain};

use super::chunks::is_miss;
use super::{Reuse, Thread};
use crate::blend::LEAST;

/// What would be moved, of a prompt as it would be put together at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    /// The method, as requests write it.
    pub method: String,
    /// Tokens that would be moved.
    pub moved_tokens: usize,
    /// Rows of them that would be computed again in the last layer. Where a method looks first how far rows deviate it is the most
    /// there could be.
    pub recomputed_tokens: usize,
    /// The prompt's chunks, in order.
    pub chunks: Vec<Chunk>,
}

/// One chunk of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Chunk {
    /// Its first token.
    pub from: usize,
    /// One past its last.
    pub to: usize,
    /// Contexts that it is known in.
    pub variants: usize,
    /// Tokens of it that would be moved; those that the prompt begins with are not.
    pub moved_tokens: usize,
    /// Rows of it, positions in the prompt, that would be computed again; absent where the method says so only when it sees them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<usize>>,
}

impl Reuse {
    /// What [`Reuse::blend`] would do behind the first `begun` tokens of a prompt.
    pub(super) fn explain_moved(
        &self,
        cache: &KvCache,
        kv: &SequenceKv,
        thread: &Thread,
        prompt: &[u32],
        begun: usize,
    ) -> Option<Moved> {
        let (domain, blend) = (thread.domain?, thread.blend()?);
        let places = begun..prompt.len().saturating_sub(1).min(kv.unobserved()).max(begun);
        let spans = thread.chunks(prompt);
        let names: Vec<BlockKey> = spans.iter().map(|span| domain.key(None, &prompt[span.clone()])).collect();
        let chunks: Vec<Chunk> = (spans.iter().enumerate())
            .map(|(i, span)| self.explain_chunk(domain, prompt, span, (&names[..i], thread.alpha()), &places))
            .collect();
        let moved = chunks.iter().map(|chunk| chunk.moved_tokens).sum();
        let recomputed = match blend.method.select(cache.config().layers.len()) {
            Select::Rows(_) => chunks.iter().flat_map(|chunk| &chunk.rows).map(Vec::len).sum(),
            Select::Deviating { filters, .. } => {
                filters.last().map_or(moved, |last| ((moved as f64 * last.share).ceil() as usize).min(moved))
            }
        };
        Some(Moved { method: blend.to_string(), moved_tokens: moved, recomputed_tokens: recomputed, chunks })
    }

    fn explain_chunk(
        &self,
        domain: Domain,
        prompt: &[u32],
        span: &Range<usize>,
        (before, alpha): (&[BlockKey], Option<f64>),
        places: &Range<usize>,
    ) -> Chunk {
        let tokens = &prompt[span.clone()];
        let (variants, choice) = self.library.look(&self.tree, domain, tokens, (before, alpha.unwrap_or(1.0)));
        let within = span.start.max(places.start)..span.end.min(places.end);
        let choice = choice.filter(|choice| !is_miss(choice, tokens.len()));
        let is_there = variants > 0 && (alpha.is_none() || choice.is_some());
        let moved = if is_there && within.len() >= LEAST { within.len() } else { 0 };
        let rows = choice.filter(|_| alpha.is_some() && moved > 0).map(|choice| {
            let rows = choice.rows.iter().map(|row| span.start + *row as usize);
            rows.filter(|row| within.contains(row)).collect()
        });
        Chunk { from: span.start, to: span.end, variants, moved_tokens: moved, rows }
    }
}
