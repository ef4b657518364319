//! Stretches of a prompt that were computed in another context; see [`crate::blend`].

use std::ops::Range;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::mend::Select;
use cachalot_kv::{KvCache, KvError, SequenceKv};
use cachalot_store::Domain;

use super::{Reuse, Thread};
use crate::blend::{Blend, Kept, LEAST, Method, Plan, Template, blocks_of, cut, matches};

impl Thread {
    /// How stretches that were computed elsewhere are to be used, if at all.
    pub fn blend(&self) -> Option<&Blend> {
        self.wish.blend.as_ref().filter(|blend| blend.method != Method::Exact)
    }

    /// The stretches of a prompt by which others may know it.
    pub(super) fn chunks(&self, prompt: &[u32]) -> Vec<Range<usize>> {
        match self.blend() {
            Some(Blend { method: Method::KvComm { .. }, .. }) => {
                Template::of(prompt, &self.wish.chunks).map_or(Vec::new(), |template| template.stretches())
            }
            Some(blend) if blend.auto && self.wish.chunks.is_empty() => cut::chunks(prompt),
            _ => self.wish.chunks.clone(),
        }
    }
}

impl Reuse {
    /// Puts what is known of a prompt's stretches behind what a sequence has begun with. Tokens that were moved; none where the
    /// request does not want that or nothing is there.
    ///
    /// # Errors
    /// [`KvError::OutOfBudget`] or [`KvError::OutOfMemory`] where there is no room, [`KvError::Misuse`] where pages are missing that
    /// a sliding window has let go of; the sequence is as it was.
    pub fn blend(
        &mut self,
        cache: &KvCache,
        kv: &mut SequenceKv,
        thread: &mut Thread,
        prompt: &[u32],
    ) -> Result<usize, KvError> {
        let (Some(domain), Some(blend)) = (thread.domain, thread.blend()) else { return Ok(0) };
        match blend.method {
            Method::Ape { .. } => {
                self.clock += 1;
                return self.side_by_side(cache, kv, thread, prompt);
            }
            Method::KvComm { .. } => {
                self.clock += 1;
                return self.communicate(cache, kv, thread, prompt);
            }
            _ => {}
        }
        let (mut select, refresh) = (blend.method.select(cache.config().layers.len()), blend.refresh());
        let alpha = thread.alpha();
        self.clock += 1;
        // The last token is computed in any case, for what comes after it.
        let places = kv.len()..prompt.len().saturating_sub(1).min(kv.unobserved()).max(kv.len());
        let found = match (&thread.wish.before, thread.before, alpha) {
            (Some(before), Some(domain), _) => self.of_before(domain, &before.tokens, prompt, &places),
            (_, _, Some(alpha)) => {
                let (found, rows) = self.crafted(domain, thread, prompt, &places, alpha);
                select = Select::Rows(rows);
                found
            }
            _ => self.known(domain, thread, prompt, &places),
        };
        let whole = |kept: &Kept| cache.first_damaged(&kept.blocks.iter().collect::<Vec<_>>()).is_none();
        let found = found.into_iter().map(|(place, kept)| (place, kept.filter(whole))).collect();
        let plan = Plan::new(kv.len(), found);
        if alpha.is_some() {
            self.watch(cache, kv, thread, prompt, &plan.fresh);
        }
        if plan.is_empty() {
            return Ok(0);
        }
        cache.assemble(kv, &plan.pieces(), &select)?;
        if let Some(Err(error)) = refresh.map(|refresh| cache.watch_stale(kv, refresh)) {
            tracing::debug!(%error, "rows are not computed again while the answer is generated");
        }
        thread.fresh = plan.fresh;
        // Those after the same edit are given what it made of the prompt.
        (thread.reduced, thread.computed) = (thread.wish.edit.is_none(), kv.len());
        Ok(kv.moved())
    }

    /// What is there for the chunks of a prompt.
    fn known(
        &mut self,
        domain: Domain,
        thread: &Thread,
        prompt: &[u32],
        places: &Range<usize>,
    ) -> Vec<(Range<usize>, Option<Kept>)> {
        let chunks = thread.chunks(prompt).into_iter().filter(|chunk| chunk.end > places.start);
        let found = chunks.map(|chunk| {
            let kept = self.library.find(&mut self.tree, domain, &prompt[chunk.clone()], self.clock);
            clip(chunk, kept, places)
        });
        found.collect()
    }

    /// What an edited prompt has in common with what it was.
    fn of_before(
        &mut self,
        domain: Domain,
        before: &[u32],
        prompt: &[u32],
        places: &Range<usize>,
    ) -> Vec<(Range<usize>, Option<Kept>)> {
        let there = self.tree.find(domain, before);
        self.tree.touch(&there.path, self.clock);
        let blocks = self.tree.along(&there.path);
        let common = matches::matches(&before[..there.tokens], prompt).into_iter();
        let common = common.filter(|m| m.new.end > places.start && m.new.start < places.end);
        let kept = common.map(|m| {
            let first = m.old.start / PAGE_TOKENS;
            let blocks = blocks.get(blocks_of(&m.old)).unwrap_or_default().iter().map(|&block| block.clone()).collect();
            clip(m.new, Some(Kept { blocks, first, span: m.old }), places)
        });
        kept.filter(|(_, kept)| kept.is_some()).collect()
    }

    /// Lets others know the stretches of a prompt that was computed whole, as far as its blocks are in the tree: those of the
    /// first `known` tokens, of which the last may not be full.
    pub(super) fn tell(&mut self, domain: Domain, thread: &mut Thread, tokens: &[u32], known: usize, prompt: usize) {
        let chunks = if thread.told { Vec::new() } else { thread.chunks(&tokens[..prompt.min(tokens.len())]) };
        let Some(last) = chunks.last() else { return };
        thread.told = last.end <= known;
        let full = known / PAGE_TOKENS;
        let before = full.checked_sub(1).map(|block| thread.key(domain, tokens, block));
        let mut keys = thread.keys[..full].to_vec();
        if !known.is_multiple_of(PAGE_TOKENS) {
            keys.push(domain.key(before, &tokens[full * PAGE_TOKENS..known]));
        }
        for chunk in chunks.into_iter().filter(|chunk| chunk.len() >= LEAST && chunk.end <= known) {
            let context = thread.context(&chunk);
            self.library.know(domain, tokens, (chunk, context), &keys, self.clock);
        }
    }

    /// Holds those stretches of a sequence that it computed though others of its context came from elsewhere.
    pub(super) fn hold_fresh(&mut self, cache: &KvCache, kv: SequenceKv, thread: &mut Thread, tokens: &[u32]) {
        let (Some(domain), false) = (thread.domain, thread.fresh.is_empty()) else { return };
        let len = kv.len();
        let blocks = cache.retire(kv, 0);
        for span in std::mem::take(&mut thread.fresh) {
            if let (true, Some(own)) = (span.len() >= LEAST && span.end <= len, blocks.get(blocks_of(&span))) {
                let context = thread.context(&span);
                self.library.hold(domain, tokens, (span, context), own.to_vec(), self.clock);
            }
        }
    }
}

/// The part of a stretch that lies in `places`.
pub(super) fn clip(place: Range<usize>, kept: Option<Kept>, places: &Range<usize>) -> (Range<usize>, Option<Kept>) {
    let within = place.start.max(places.start)..place.end.min(places.end);
    let kept = kept.filter(|_| within.len() >= LEAST).map(|kept| {
        let start = kept.span.start + within.start - place.start;
        Kept { span: start..start + within.len(), ..kept }
    });
    (if kept.is_some() { within } else { place }, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_clipped_on_both_sides() {
        let kept = || Some(Kept { blocks: Vec::new(), first: 1, span: 100..200 });
        let clipped = |place, places| {
            let (place, kept) = clip(place, kept(), &places);
            (place, kept.map(|kept| kept.span))
        };
        assert_eq!(clipped(500..600, 0..1000), (500..600, Some(100..200)));
        assert_eq!(clipped(500..600, 530..1000), (530..600, Some(130..200)));
        assert_eq!(clipped(500..600, 0..570), (500..570, Some(100..170)));
        assert_eq!(clipped(500..600, 590..1000), (500..600, None));
    }
}
