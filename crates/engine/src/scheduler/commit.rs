//! After a step: caches go back, tokens are sampled, choices fork and end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use cachalot_kv::KvError;

use super::batch::Batch;
use super::group::Group;
use super::sequence::{Sequence, Ticket, insert};
use super::{Ending, Scheduler};
use crate::replay::{Script, Skipped};
use crate::sampling::{Sampler, token_logprobs};
use crate::text::TextOutput;
use crate::{EngineError, Event, FinishReason};

/// Sealed pages whose checksums are checked after a step, over all its sequences: about a hundredth of the step's time.
pub(super) const SCRUB_PAGES: usize = 16;

impl Scheduler {
    /// Takes the batch back, with its logits or with the error that ends all its sequences.
    pub fn commit(&mut self, mut batch: Batch, logits: Result<Vec<f32>, EngineError>, now: Duration) {
        let vocab = self.limits.vocab;
        let expected = batch.logits_rows() * vocab;
        let logits = logits.and_then(|logits| match logits.len() == expected {
            true => Ok(logits),
            false => Err(EngineError::Model(format!("it returned {} logits instead of {expected}", logits.len()))),
        });
        let logits = match logits {
            Ok(logits) => logits,
            Err(error) => {
                let tickets: Vec<Ticket> = batch.parts.iter().map(|part| part.ticket).collect();
                let replays: Vec<u64> = batch.replays.iter().map(|part| part.request).collect();
                drop(batch);
                for request in replays {
                    self.end_replay(request, Skipped::Failed(error.clone()), now);
                }
                return tickets.into_iter().for_each(|ticket| self.end(ticket, Ending::Error(error.clone()), now));
            }
        };
        let (rows, step) = (batch.rows(), now.saturating_sub(batch.planned));
        // Rows that are mended go through some of the layers, or alone through all.
        if let ([part], []) = (&batch.parts[..], &batch.replays[..])
            && rows > 1
            && part.kv.is_whole()
        {
            // Advanced already.
            self.reuse.observe_prefill(rows, part.kv.len().saturating_sub(rows), step);
        }
        let mut replays = std::mem::take(&mut batch.replays);
        self.settle_replays(&mut replays, step, rows, now);
        let foreground = batch.parts.iter().filter(|part| part.logits).count();
        let (logits, replayed) = logits.split_at(foreground * vocab);
        self.commit_requests(batch, logits, now);
        // Last: nobody's token waits for a comparison.
        self.compare_replays(&replays, replayed, now);
    }

    fn commit_requests(&mut self, batch: Batch, logits: &[f32], now: Duration) {
        let mut rows = logits.chunks_exact(self.limits.vocab.max(1));
        let scrubbed = SCRUB_PAGES.div_ceil(batch.parts.len().max(1));
        for part in batch.parts {
            // Taken first: a sequence that is gone must not shift the rows of the others.
            let row = if part.logits { rows.next() } else { None };
            let Ok(index) = self.running.binary_search_by_key(&part.ticket, |sequence| sequence.ticket) else {
                continue;
            };
            let Some(mut sequence) = self.running.remove(index) else { continue };
            let mut kv = part.kv;
            self.reuse.publish(&self.cache, &mut kv, &mut sequence.thread, &sequence.tokens, sequence.prompt);
            self.cache.settle(&mut kv);
            let checked = self.cache.scrub(&mut kv, scrubbed);
            if checked.is_err() {
                // Its bytes changed under us. Others do not read them, so they go on.
                crate::observe::corrupt();
                self.reuse.purge();
            }
            // Reducing takes no more than the sequence has already.
            while kv.rows_to_reduction() == 0 && self.cache.ledger().free() < kv.bytes() && self.make_room(now) {}
            let reduced = checked.and_then(|()| self.cache.reduce(&mut kv));
            if let Ok(Some(share)) = reduced {
                sequence.thread.reduced = true;
                crate::observe::reduced(share);
                if let Some(group) = self.groups.get_mut(&part.ticket.request).filter(|_| part.ticket.choice == 0) {
                    group.kept_share = Some(share);
                }
            }
            if let Err(KvError::OutOfBudget { .. } | KvError::OutOfMemory { .. }) = reduced
                && sequence.thread.domain.is_some()
            {
                // What others share of it leaves no bytes for what stays. Alone it takes no more than it has.
                drop(kv);
                sequence.logits = None;
                sequence.end_errand();
                sequence.thread.restart();
                sequence.thread.domain = None;
                self.counters.preemptions += 1;
                crate::observe::preempted();
                insert(&mut self.waiting, sequence);
                continue;
            }
            if let Err(error) = reduced {
                let forks = sequence.forks;
                drop((kv, sequence));
                self.end_choices(part.ticket, forks, Ending::Error(EngineError::Cache(error.to_string())), now);
                continue;
            }
            let (passing, recomputed) = (kv.pass_rows() > 0, kv.recomputed());
            sequence.kv = Some(kv);
            if sequence.errand.is_some() {
                self.go_on_with_errand(sequence);
                continue;
            }
            if let Some(group) = self.groups.get_mut(&part.ticket.request) {
                if part.ticket.choice == 0 {
                    group.recomputed_tokens = recomputed;
                    group.pinned = sequence.thread.pinned;
                }
                // Passes over a context come when it has been read; what is mended has not been.
                let read = passing && sequence.kv.as_ref().is_some_and(|kv| kv.moved() == 0);
                let done = if read { sequence.prompt } else { sequence.computed().min(sequence.prompt) };
                group.prompt_progress(done, now);
                if sequence.generated() == 0 && sequence.pending() == 0 {
                    self.counters.prompt_tokens += sequence.prompt as u64;
                }
            }
            if sequence.pending() > 0 {
                sequence.logits = row.map(<[f32]>::to_vec).or(sequence.logits);
                insert(&mut self.running, sequence);
            } else {
                let earlier = sequence.logits.take();
                self.step_reached(sequence, row.or(earlier.as_deref()), now);
            }
        }
    }

    /// All tokens of the sequence are computed; `logits` are those after the last one.
    fn step_reached(&mut self, sequence: Sequence, logits: Option<&[f32]>, now: Duration) {
        let Some(logits) = logits else {
            // Nothing was to be generated.
            let Sequence { ticket, forks, tokens, kv, mut thread, prompt, .. } = sequence;
            self.retire(kv, &mut thread, &tokens, prompt);
            if let Some(group) = self.groups.get_mut(&ticket.request) {
                group.pinned = thread.pinned;
            }
            if let Some(watch) = self.groups.get_mut(&ticket.request).and_then(|group| group.watch.as_mut()) {
                let script = |choice| Script { choice, tokens: tokens.clone(), rows: Default::default() };
                watch.scripts.extend((ticket.choice..=ticket.choice + forks).map(script));
            }
            return self.end_choices(ticket, forks, Ending::Reason(FinishReason::Length), now);
        };
        if self.groups.get(&sequence.ticket.request).is_some_and(|group| group.beams.is_some()) {
            return self.beam_reached(sequence, logits, now);
        }
        let mut sequence = sequence;
        let siblings = self.fork(&mut sequence, now);
        for sequence in std::iter::once(sequence).chain(siblings) {
            self.advance(sequence, logits, now);
        }
    }

    /// The further choices of a request, at the end of its prompt. One whose cache finds no room gets none, and will
    /// compute it when it is its turn.
    fn fork(&mut self, first: &mut Sequence, now: Duration) -> Vec<Sequence> {
        let forks = std::mem::take(&mut first.forks);
        let request = first.ticket.request;
        let mut made = Vec::with_capacity(forks);
        for choice in 1..=forks {
            // Those beyond the batch have no use for a cache now.
            let kv = first.kv.as_ref().filter(|_| self.running.len() + choice < self.limits.max_batch);
            let mut copy = kv.map(|kv| self.cache.fork(kv));
            while copy.as_ref().is_some_and(Result::is_err) && self.make_room(now) {
                copy = kv.map(|kv| self.cache.fork(kv));
            }
            let Some(group) = self.groups.get(&request) else { return Vec::new() };
            made.push(Sequence {
                ticket: Ticket { choice, ..first.ticket },
                tokens: first.tokens.clone(),
                prompt: first.prompt,
                plan: first.plan.clone(),
                spans: first.spans.clone(),
                kv: copy.and_then(Result::ok),
                logits: None,
                sampler: Sampler::new(group.sampling.clone(), group.seed, choice, &first.tokens),
                output: TextOutput::new(&*self.vocabulary, group.starts_text, &group.stop),
                constraint: group.constraint.clone(),
                record: self.replays.record(group.watch.as_ref(), group.seed, choice),
                forks: 0,
                last_token: None,
                thread: first.thread.branch(),
                errand: None,
            });
        }
        made
    }

    fn advance(&mut self, mut sequence: Sequence, logits: &[f32], now: Duration) {
        let ticket = sequence.ticket;
        let Some(group) = self.groups.get_mut(&ticket.request) else { return };
        // Grammar and tokenizer are other people's code at work on a client's input: a panic there is one sequence's.
        let (scratch, eos) = (&mut self.scratch, self.vocabulary.eos());
        let next = catch_unwind(AssertUnwindSafe(|| next_token(&mut sequence, group, logits, scratch, eos, now)));
        let next = next.unwrap_or_else(|panic| Err(EngineError::Panicked(crate::panic_message(&*panic))));
        if next.is_ok() {
            self.counters.generated_tokens += 1;
            let step = sequence.generated().saturating_sub(1);
            if let Some(record) = &mut sequence.record {
                record.see(step, logits);
            }
        }
        match next {
            Ok(None) if sequence.kv.is_some() => insert(&mut self.running, sequence),
            Ok(None) => insert(&mut self.waiting, sequence),
            Ok(Some(reason)) => {
                let Sequence { kv, tokens, record, mut thread, prompt, .. } = sequence;
                if let Some(kv) = kv {
                    self.reuse.retire(&self.cache, kv, &mut thread, &tokens, prompt);
                    group.pinned = thread.pinned;
                }
                if let (Some(watch), Some(record)) = (&mut group.watch, record) {
                    watch.scripts.push(Script { choice: ticket.choice, tokens, rows: record.into_rows() });
                }
                self.end_choices(ticket, 0, Ending::Reason(reason), now);
            }
            Err(error) => {
                drop(sequence);
                self.end_choices(ticket, 0, Ending::Error(error), now);
            }
        }
    }
}

/// Samples, and tells the client; why the choice ends, if it does.
fn next_token(
    sequence: &mut Sequence,
    group: &mut Group,
    logits: &[f32],
    scratch: &mut crate::sampling::Scratch,
    eos: &[u32],
    now: Duration,
) -> Result<Option<FinishReason>, EngineError> {
    let mask = sequence.constraint.as_mut().map(|constraint| constraint.mask()).transpose()?.flatten();
    let id = sequence.sampler.sample(logits, mask.as_ref(), scratch)?;
    let logprob = group.logprobs.and_then(|top| token_logprobs(logits, id, top));
    sequence.sampler.accept(id);
    sequence.tokens.push(id);
    if let Some(constraint) = &mut sequence.constraint {
        constraint.accept(id)?;
    }
    let ends = (!group.ignore_eos && eos.contains(&id)) || group.stop_tokens.contains(&id);
    let mut text = if ends { String::new() } else { sequence.output.push(id) };
    let complete = sequence.constraint.as_ref().is_some_and(|constraint| constraint.is_complete());
    let mut reason = None;
    if sequence.generated() >= group.limit {
        reason = Some(FinishReason::Length);
    }
    if ends || complete || sequence.output.is_stopped() {
        reason = Some(FinishReason::Stop);
    }
    if reason.is_some() {
        text += &sequence.output.finish();
        if sequence.output.is_stopped() {
            reason = Some(FinishReason::Stop);
        }
    }
    let event = Event::Token { choice: sequence.ticket.choice, text, id, logprob };
    group.token(event, sequence.last_token.replace(now), now);
    Ok(reason)
}
