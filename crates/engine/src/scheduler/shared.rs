//! What sequences share: when one begins with the blocks of others, and when it waits for another to compute them.

use std::cmp::Ordering::Less;
use std::time::Duration;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::SequenceKv;

use super::sequence::Ticket;
use super::{Scheduler, Sequence};
use crate::observe;
use crate::reuse::{Meanwhile, Order, Thread, Wanted};

impl Scheduler {
    /// Who leaves the queue next. Those who were in the batch before come first in any order.
    pub(super) fn next_waiting(&self, now: Duration) -> Option<(usize, &Sequence)> {
        let rank = |sequence: &Sequence| {
            let moments = self.groups.get(&sequence.ticket.request).map(|group| &group.moments);
            if moments.is_none_or(|moments| moments.admitted.is_some()) {
                return f64::INFINITY;
            }
            let waited = moments.map_or(Duration::ZERO, |moments| now.saturating_sub(moments.submitted));
            Order::rank(self.reuse.hits(&sequence.thread, &sequence.tokens), sequence.tokens.len(), waited)
        };
        let index = match self.reuse.order() {
            Order::HitRate if self.waiting.len() > 1 => {
                let ranks = self.waiting.iter().take(Order::COMPARED).map(rank).enumerate();
                // Of several that are alike the oldest.
                ranks.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))?.0
            }
            _ => 0,
        };
        Some((index, self.waiting.get(index)?))
    }

    /// Whether an older sequence is about to compute what this one begins with, so that waiting is cheaper than computing
    /// it twice. The older one never waits for a younger one, so somebody always gets on.
    pub(super) fn waits_for_another(&mut self, index: usize) -> bool {
        let Some(own) = self.running.get(index).filter(|own| is_new(own)) else { return false };
        if own.thread.layout(&own.tokens[..own.prompt]).is_some() {
            // Its contexts are there already, or it has been waited for them.
            return false;
        }
        let there = self.reuse.matched(&own.thread, &own.tokens);
        let mut best: Option<(usize, usize)> = None;
        for (i, other) in self.running.iter().enumerate().take(index) {
            if other.thread.domain != own.thread.domain || other.thread.reduced {
                continue;
            }
            let common = whole_blocks(common(&own.tokens, &other.tokens).min(own.tokens.len().saturating_sub(1)));
            // Up to there it is computed already, and more is to come.
            if common > there.max(other.thread.computed) && best.is_none_or(|(most, _)| common > most) {
                best = Some((common, i));
            }
        }
        let Some((position, leader)) = best else { return false };
        if own.kv.as_ref().is_some_and(|kv| kv.unobserved() < position) {
            return false;
        }
        self.running[leader].thread.stop_at(position);
        true
    }

    /// Whether what a new sequence begins with is on its way from below the pool.
    pub(super) fn waits_below(&mut self, index: usize, now: Duration) -> bool {
        let queued = self.running.iter().take(index).map(Sequence::pending).sum();
        let Some(sequence) = self.running.get_mut(index).filter(|sequence| is_new(sequence)) else { return false };
        let Sequence { kv: Some(kv), thread, tokens, plan, prompt, ticket, .. } = sequence else { return false };
        if thread.layout(&tokens[..*prompt]).is_some() {
            // It begins with its prefix, which every context has, too.
            return false;
        }
        let moments = self.groups.get(&ticket.request).map(|group| group.moments.submitted);
        let submitted = moments.unwrap_or(now);
        let wanted = Wanted { cache: &self.cache, kv, plan, tokens, queued, submitted };
        self.reuse.look_below(&wanted, thread, now) || self.reuse.look_for_chunks(&wanted, *prompt, thread, now)
    }

    /// Whether a sequence has come to blocks that are read for it and about to be there; takes them up where they are.
    pub(super) fn waits_beside(&mut self, index: usize, now: Duration) -> bool {
        let Some(sequence) = self.running.get_mut(index) else { return false };
        let Sequence { kv: Some(kv), thread, tokens, plan, spans, ticket, prompt, errand, .. } = sequence else {
            return false;
        };
        match self.reuse.meanwhile(thread, kv.len(), now) {
            Meanwhile::Compute => return false,
            Meanwhile::Wait => return true,
            Meanwhile::Take => {}
        }
        let fresh = self.cache.create_with(plan).and_then(|fresh| {
            let mut fresh = fresh.with_spans(spans);
            self.cache.expect(&mut fresh, *prompt).map(|()| fresh)
        });
        let Ok(fresh) = fresh else { return false };
        let saved = self.reuse.adopt(&self.cache, kv, fresh, thread, tokens);
        let (ticket, own) = (*ticket, errand.is_none());
        observe::reused(saved);
        observe::lossy(saved * usize::from(thread.is_lossy()));
        if let Some(group) = self.groups.get_mut(&ticket.request).filter(|g| own && g.moments.prompt_done.is_none()) {
            group.cached_tokens += saved;
            group.lossy_tokens += saved * usize::from(thread.is_lossy());
        }
        false
    }

    /// Lets a sequence that has computed nothing yet begin with what is there.
    pub(super) fn begin_shared(&mut self, index: usize) {
        let Some(sequence) = self.running.get_mut(index).filter(|sequence| is_new(sequence)) else { return };
        let Sequence { kv: Some(kv), thread, tokens, ticket, prompt, .. } = sequence else { return };
        let ticket = *ticket;
        let begun = self.reuse.begin(&self.cache, kv, thread, tokens);
        (0..begun.corrupt).for_each(|_| observe::corrupt());
        let own = sequence.errand.is_none();
        if let Some(group) = self.groups.get_mut(&ticket.request).filter(|g| own && g.moments.prompt_done.is_none()) {
            group.cached_tokens = begun.tokens.min(*prompt);
            group.lossy_tokens = group.cached_tokens * usize::from(thread.is_lossy());
        }
        observe::reused(begun.tokens);
        observe::lossy(begun.tokens * usize::from(thread.is_lossy()));
        self.blend(index, ticket);
    }

    /// Puts stretches behind that which were computed elsewhere, where the request wants that. Without room for them in plain
    /// elements the prompt is computed whole.
    fn blend(&mut self, index: usize, ticket: Ticket) {
        let Some(Sequence { kv: Some(kv), thread, tokens, prompt, .. }) = self.running.get_mut(index) else { return };
        let moved = self.reuse.blend(&self.cache, kv, thread, &tokens[..*prompt]);
        let moved = moved.inspect_err(|error| tracing::debug!(%error, "a prompt is computed whole")).unwrap_or(0);
        observe::moved(moved);
        let group = self.groups.get_mut(&ticket.request);
        if let Some(group) = group.filter(|group| group.moments.prompt_done.is_none()) {
            group.moved_tokens = moved;
        }
    }

    /// Before the next token of an answer: some moved rows may be computed again first.
    pub(super) fn refresh(&mut self, index: usize) {
        if let Some(sequence) = self.running.get_mut(index)
            && sequence.generated() > 0
            && sequence.pending() == 1
            && let Some(kv) = &mut sequence.kv
        {
            self.cache.refresh(kv);
        }
    }

    /// Rows of a prompt that a step may have so that it ends where others may want to go on.
    pub(super) fn rows_to_stop(&self, sequence: &Sequence) -> usize {
        let from = sequence.computed();
        if sequence.kv.as_ref().is_some_and(|kv| kv.pass_rows() > 0) || from >= sequence.prompt {
            return usize::MAX;
        }
        sequence.thread.rows_to_stop(from, self.reuse.every())
    }

    /// Bytes that a sequence needs to compute its tokens, without those of blocks that it will share.
    pub(super) fn bytes_to_begin(&self, sequence: &Sequence) -> u64 {
        let tokens = &sequence.tokens;
        let mut needed = self.limits.peak_bytes(&self.cache, &sequence.plan, tokens.len() + 1);
        if sequence.thread.blend().is_some() {
            // What is put together stays in plain elements until it is mended.
            needed = needed.max(self.cache.plain_bytes(&sequence.plan, tokens.len() + 1));
        }
        // What is reduced does not stay shared.
        if sequence.thread.domain.is_none() || sequence.plan.keep.is_some() {
            return needed;
        }
        let others = self.running.iter().filter(|other| {
            other.thread.domain == sequence.thread.domain && other.ticket.cmp(&sequence.ticket) == Less
        });
        let coming = others.map(|other| common(tokens, &other.tokens)).max().unwrap_or(0);
        let shared = whole_blocks(coming.max(self.reuse.matched(&sequence.thread, tokens)));
        needed.saturating_sub(self.cache.bytes_with(&sequence.plan, shared))
    }

    /// Bytes there are for those that enter: free, held by replays, or by blocks that nobody uses.
    pub(super) fn available(&self, needed: u64) -> u64 {
        let free = self.cache.ledger().free() + self.replays.held();
        if needed <= free { free } else { free + self.reuse.reclaimable(needed - free) }
    }

    /// A sequence has computed all it will.
    pub(super) fn retire(&mut self, kv: Option<SequenceKv>, thread: &mut Thread, tokens: &[u32], prompt: usize) {
        if let Some(kv) = kv {
            self.reuse.retire(&self.cache, kv, thread, tokens, prompt);
        }
    }
}

/// Whether a sequence has not looked yet what it can begin with.
pub(super) fn is_new(sequence: &Sequence) -> bool {
    sequence.thread.domain.is_some()
        && !sequence.thread.attached
        && sequence.kv.as_ref().is_some_and(SequenceKv::is_empty)
}

/// Tokens that two sequences begin with alike.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn whole_blocks(tokens: usize) -> usize {
    tokens / PAGE_TOKENS * PAGE_TOKENS
}
