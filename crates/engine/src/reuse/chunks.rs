//! Chunks of a prompt and what stood before each: which variant of it is cheapest to mend here, and what is learned of those that
//! are computed (Cache-Craft, Agarwal et al., 2025; see [`crate::blend::craft`]).

use std::ops::Range;

use cachalot_kv::{KvCache, SequenceKv};
use cachalot_store::{BlockKey, Domain};

use super::blend::clip;
use super::{Reuse, Thread};
use crate::blend::craft::{Context, NEARLY_ALL};
use crate::blend::{Choice, Kept, LEAST, Method};

/// What is there for the chunks of a prompt, and rows of it that are computed again.
pub(super) type Found = (Vec<(Range<usize>, Option<Kept>)>, Vec<u32>);

impl Thread {
    /// Cache-Craft's factor, where that is the method.
    pub(super) fn alpha(&self) -> Option<f64> {
        match self.blend()?.method {
            Method::CacheCraft { alpha } => Some(alpha),
            _ => None,
        }
    }

    /// What was learned of one chunk of its prompt.
    pub(super) fn context(&self, chunk: &Range<usize>) -> Option<Context<BlockKey>> {
        self.contexts.iter().find(|(span, _)| span == chunk).map(|(_, context)| context.clone())
    }
}

/// Names of chunks: those of contexts that begin with them.
fn names(domain: Domain, prompt: &[u32], chunks: &[Range<usize>]) -> Vec<BlockKey> {
    chunks.iter().map(|chunk| domain.key(None, &prompt[chunk.clone()])).collect()
}

/// Whether so little of a chunk would stay that it is computed whole.
pub(super) fn is_miss(choice: &Choice, tokens: usize) -> bool {
    choice.rows.len() as f64 >= NEARLY_ALL * tokens as f64
}

impl Reuse {
    /// The cheapest variant of every chunk of a prompt. One of which nearly everything would be computed again is as good as none.
    pub(super) fn crafted(
        &mut self,
        domain: Domain,
        thread: &Thread,
        prompt: &[u32],
        places: &Range<usize>,
        alpha: f64,
    ) -> Found {
        let chunks = thread.chunks(prompt);
        let names = names(domain, prompt, &chunks);
        let mut rows = Vec::new();
        let mut found = Vec::new();
        for (i, chunk) in chunks.into_iter().enumerate().filter(|(_, chunk)| chunk.end > places.start) {
            let tokens = &prompt[chunk.clone()];
            let (_, choice) = self.library.look(&self.tree, domain, tokens, (&names[..i], alpha));
            let choice = choice.filter(|choice| !is_miss(choice, tokens.len()));
            let start = chunk.start;
            let kept = choice.as_ref().and_then(|choice| {
                // Too short a rest of it is computed with what is around it.
                let worth = chunk.end.min(places.end).saturating_sub(start.max(places.start)) >= LEAST;
                worth.then(|| self.library.take(&mut self.tree, domain, tokens, choice, self.clock)).flatten()
            });
            let (place, kept) = clip(chunk, kept, places);
            if let (Some(choice), true) = (choice, kept.is_some()) {
                let again = choice.rows.iter().map(|row| start + *row as usize);
                rows.extend(again.filter(|row| place.contains(row)).map(|row| row as u32));
            }
            found.push((place, kept));
        }
        (found, rows)
    }

    /// Looks at those chunks of a prompt that are computed whole, where the request's method wants to know what they depend on.
    /// Without room for that nothing is learned.
    pub(super) fn watch(
        &self,
        cache: &KvCache,
        kv: &mut SequenceKv,
        thread: &Thread,
        prompt: &[u32],
        fresh: &[Range<usize>],
    ) {
        let chunks = thread.chunks(prompt);
        if let Err(error) = cache.watch_chunks(kv, &chunks, |chunk| chunk.len() >= LEAST && fresh.contains(chunk)) {
            tracing::debug!(%error, "what chunks depend on is not looked at");
        }
    }

    /// Takes over what was seen of the chunks of a prompt, all of whose rows are computed.
    pub(super) fn learn(&self, kv: &mut SequenceKv, thread: &mut Thread, prompt: &[u32]) {
        let Some(domain) = thread.domain else { return };
        let masses = kv.take_chunk_masses();
        if masses.is_empty() {
            return;
        }
        let chunks = thread.chunks(prompt);
        let (names, lengths) = (names(domain, prompt, &chunks), chunks.iter().map(Range::len).collect::<Vec<_>>());
        let contexts = masses.into_iter().map(|mass| {
            let before = mass.inter.len();
            (mass.span.clone(), Context::new(&mass, &names[..before], &lengths[..before]))
        });
        thread.contexts = contexts.collect();
    }
}

#[cfg(test)]
mod tests;
