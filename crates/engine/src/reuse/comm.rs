//! Messages in the prompts of several agents, moved and corrected by anchors (KVCOMM, Ye et al., 2025); see [`crate::blend`].
//!
//! The base of a message, and of an agent's text behind one, is the first context that it is known in. A message is computed in
//! its prompt where its base is not there or anchors do not foretell it; its prompt becomes an anchor when it ends. Weights are
//! taken once, when a prompt is put together, so anchors that come later change nothing of it.

use std::ops::Range;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::anchor::{Anchor, Likeness, Pair, formula};
use cachalot_kv::mend::Piece;
use cachalot_kv::{CachePlan, KvCache, KvError, SequenceKv, SharedBlock};
use cachalot_store::Domain;

use super::blend::clip;
use super::{Reuse, Thread};
use crate::blend::{Kept, LEAST, Method, Name, Place, Plan, Set, Template};

/// What anchors may take of the budget: one of so many parts.
const PART: u64 = 8;

/// A message with what is known of it.
struct Known {
    index: usize,
    base: Kept,
    /// The agent's text behind it, as it is when nothing is added to it.
    after: Option<(Kept, Name)>,
}

/// Something to be put in place, and corrected there.
struct Moved<'a> {
    stretch: Range<usize>,
    kept: &'a Kept,
    message: &'a Kept,
    anchors: Vec<&'a Anchor>,
    /// Of messages.
    like: Option<&'a Likeness>,
}

impl Thread {
    /// A prompt as messages in an agent's text, where it is to be seen so.
    pub(super) fn template(&self, prompt: &[u32]) -> Option<Template> {
        self.kvcomm().and_then(|_| Template::of(prompt, &self.wish.chunks))
    }

    /// KVCOMM's numbers, where it is asked for: the greatest entropy, and most anchors.
    fn kvcomm(&self) -> Option<(f64, usize)> {
        match self.blend()?.method {
            Method::KvComm { gamma, anchors } => Some((gamma, anchors)),
            _ => None,
        }
    }
}

impl Reuse {
    /// Puts a prompt together from messages and an agent's text, where all of its messages are foretold. Tokens that were moved.
    ///
    /// # Errors
    /// As [`KvCache::assemble`]; the sequence is as it was.
    pub(super) fn communicate(
        &mut self,
        cache: &KvCache,
        kv: &mut SequenceKv,
        thread: &mut Thread,
        prompt: &[u32],
    ) -> Result<usize, KvError> {
        let (Some(domain), Some(template), Some((gamma, _))) =
            (thread.domain, thread.template(prompt), thread.kvcomm())
        else {
            return Ok(0);
        };
        let agent = template.agent;
        let places = kv.len()..prompt.len().saturating_sub(1).min(kv.unobserved()).max(kv.len());
        let (known, mut unforeseen) = self.known_of(cache, domain, &template, prompt, &places);
        let mut likes = Vec::new();
        for message in &known {
            let sets = self.anchors.fitting(domain, Place { agent, index: message.index }, message.base.span.len());
            let anchors: Vec<&Anchor> = sets.iter().map(|set| &set.anchor).collect();
            let like = cache.likeness(kv.plan(), &message.base.piece(), &anchors);
            match like.filter(|like| formula::foretold(like.distances(), gamma)) {
                Some(like) => likes.push((sets, like)),
                None => unforeseen.push(message.index),
            }
        }
        if !unforeseen.is_empty() {
            thread.unforeseen = unforeseen;
            return Ok(0);
        }
        let moved: Vec<Moved<'_>> =
            known.iter().zip(&likes).flat_map(|(known, like)| of_message(&template, known, like)).collect();
        let mut placed = Vec::new();
        let mut found = Vec::new();
        for moved in moved {
            let kept = Kept { blocks: moved.kept.blocks.clone(), span: moved.kept.span.clone(), ..*moved.kept };
            if let (within, Some(kept)) = clip(moved.stretch.clone(), Some(kept), &places) {
                found.push((within.clone(), Some(kept)));
                placed.push((within, moved));
            }
        }
        let plan = Plan::new(kv.len(), found);
        if plan.is_empty() {
            return Ok(0);
        }
        cache.assemble(kv, &plan.pieces(), &cachalot_kv::mend::Select::Rows(Vec::new()))?;
        for (within, moved) in &placed {
            let part = within.start - moved.stretch.start..within.end - moved.stretch.start;
            match moved.like {
                Some(like) => cache.correct(kv, within.start, part, &moved.anchors, like),
                None => cache.correct_after(kv, within.start, part, &moved.message.piece(), &moved.anchors),
            }
        }
        let counts: Vec<(Place, usize, Vec<f32>)> = known
            .iter()
            .zip(&likes)
            .map(|(known, (_, like))| {
                (Place { agent, index: known.index }, known.base.span.len(), like.distances().to_vec())
            })
            .collect();
        for (place, tokens, distances) in counts {
            self.anchors.count(domain, place, tokens, &distances, self.clock);
        }
        (thread.reduced, thread.computed) = (true, kv.len());
        Ok(kv.moved())
    }

    /// The messages of a prompt that are not wholly there already and are worth moving, and those of them that nobody knows.
    fn known_of(
        &mut self,
        cache: &KvCache,
        domain: Domain,
        template: &Template,
        prompt: &[u32],
        places: &Range<usize>,
    ) -> (Vec<Known>, Vec<usize>) {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for (index, (message, after)) in template.messages.iter().zip(&template.after).enumerate() {
            if message.end <= places.start || message.len() < LEAST {
                continue;
            }
            let base = self.first(cache, domain, &prompt[message.clone()]);
            let after = if after.len() < LEAST { None } else { self.first(cache, domain, &prompt[after.clone()]) };
            match base {
                Some((base, _)) => known.push(Known { index, base, after }),
                None => unknown.push(index),
            }
        }
        (known, unknown)
    }

    /// The first context that a stretch is known in, where its pages are what they were.
    fn first(&mut self, cache: &KvCache, domain: Domain, tokens: &[u32]) -> Option<(Kept, Name)> {
        let found = self.library.first(&mut self.tree, domain, tokens, self.clock)?;
        cache.first_damaged(&found.0.blocks.iter().collect::<Vec<_>>()).is_none().then_some(found)
    }

    /// Makes anchors of those messages of a prompt that nothing foretold, now that it has ended.
    pub(super) fn set_anchors(
        &mut self,
        cache: &KvCache,
        plan: &CachePlan,
        thread: &mut Thread,
        (tokens, prompt): (&[u32], usize),
        blocks: &[SharedBlock],
    ) {
        let unforeseen = std::mem::take(&mut thread.unforeseen);
        let (Some(domain), Some((_, most))) = (thread.domain, thread.kvcomm()) else { return };
        let prompt = &tokens[..prompt.min(tokens.len())];
        let Some(template) = thread.template(prompt) else { return };
        let limit = cache.ledger().budget() / PART;
        for index in unforeseen {
            let (message, after) = (template.messages[index].clone(), template.after[index].clone());
            let last = message.end.saturating_sub(1) / PAGE_TOKENS;
            let end = ((last + 1) * PAGE_TOKENS).min(tokens.len());
            // The last block may not be full.
            let before = last.checked_sub(1).map(|before| thread.key(domain, tokens, before));
            let block = domain.key(before, &tokens[last * PAGE_TOKENS..end]);
            let own = Name { block, start: message.start };
            // A message that was first known here deviates in nothing, which says nothing of others.
            let Some((base, _)) = self.first(cache, domain, &prompt[message.clone()]).filter(|(_, name)| *name != own)
            else {
                continue;
            };
            let found = if after.len() < LEAST { None } else { self.first(cache, domain, &prompt[after.clone()]) };
            let real = |span: Range<usize>| Piece::Kept { blocks, first: 0, span };
            let pair = Pair { base: base.piece(), real: real(message.clone()) };
            let behind = found.as_ref().map(|(base, _)| Pair { base: base.piece(), real: real(after.clone()) });
            if !self.anchors.make_room(cache.anchor_bytes(&pair, behind.as_ref()), limit) {
                continue;
            }
            self.clock += 1;
            match cache.anchor(plan, &pair, behind.as_ref()) {
                Ok(anchor) => {
                    let (place, name) = (Place { agent: template.agent, index }, found.map(|(_, name)| name));
                    self.anchors.set(domain, place, anchor, name, most, self.clock);
                }
                Err(error) => tracing::debug!(%error, "no anchor was set"),
            }
        }
    }
}

/// What is moved of a message: itself, and the agent's text behind it where anchors know that.
fn of_message<'a>(template: &Template, known: &'a Known, (sets, like): &'a (Vec<&'a Set>, Likeness)) -> Vec<Moved<'a>> {
    let message = Moved {
        stretch: template.messages[known.index].clone(),
        kept: &known.base,
        message: &known.base,
        anchors: sets.iter().map(|set| &set.anchor).collect(),
        like: Some(like),
    };
    let after = known.after.as_ref().and_then(|(kept, name)| {
        let sets = sets.iter().filter(|set| set.after == Some(*name));
        let anchors: Vec<&Anchor> = sets.map(|set| &set.anchor).collect();
        let stretch = template.after[known.index].clone();
        (!anchors.is_empty()).then_some(Moved { stretch, kept, message: &known.base, anchors, like: None })
    });
    std::iter::once(message).chain(after).collect()
}
