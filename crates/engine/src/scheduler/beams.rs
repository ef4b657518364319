//! Beam search: beams wait for one another after each step, then fork and end as the search says.
//!
//! A beam that waits is no sequence of the batch; its cache stays unless the memory is needed, and is computed again then.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::group::Group;
use super::sequence::{Sequence, insert};
use super::{Ending, Scheduler};
use crate::beam::{Beam, Candidate, Hypothesis, Search};
use crate::sampling::token_logprobs;
use crate::text::{TextOutput, Vocabulary};
use crate::{EngineError, Event, FinishReason};

/// The beams of a request.
pub(super) struct Beams {
    pub search: Search,
    /// Those that have what they could go on with.
    parked: Vec<(Sequence, Vec<Candidate>)>,
}

impl Beams {
    pub fn new(beam: Beam, limit: usize) -> Beams {
        Beams { search: Search::new(beam, limit), parked: Vec::new() }
    }

    /// Frees the cache of one that waits. Whether there was any.
    fn let_go(&mut self) -> bool {
        let held = self.parked.iter_mut().rev().find(|(sequence, _)| sequence.kv.is_some());
        held.is_some_and(|(sequence, _)| {
            sequence.kv = None;
            sequence.thread.restart();
            true
        })
    }
}

impl Scheduler {
    /// Beams that wait for others.
    pub(super) fn parked_beams(&self) -> usize {
        self.groups.values().filter_map(|group| group.beams.as_ref()).map(|beams| beams.parked.len()).sum()
    }

    /// Frees the cache of a beam that waits for others, of the youngest request that has any and is no older than this one.
    pub(super) fn let_go_of_parked(&mut self, request: u64) -> bool {
        let younger = self.groups.iter().filter(|(id, group)| **id >= request && group.beams.is_some());
        let mut ids: Vec<u64> = younger.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        let beams = |group: &mut Group| group.beams.as_mut().is_some_and(Beams::let_go);
        let freed = ids.into_iter().rev().any(|id| self.groups.get_mut(&id).is_some_and(beams));
        if freed {
            self.counters.preemptions += 1;
            crate::observe::preempted();
        }
        freed
    }

    /// A beam knows what it could go on with. With the last of them the search takes its step.
    pub(super) fn beam_reached(&mut self, mut sequence: Sequence, logits: &[f32], now: Duration) {
        let request = sequence.ticket.request;
        let Some(group) = self.groups.get_mut(&request) else { return };
        let (scratch, eos) = (&mut self.scratch, self.vocabulary.eos());
        let found = match guarded(|| candidates(&mut sequence, group, logits, scratch, eos)) {
            Ok(found) => found,
            Err(error) => {
                drop(sequence);
                return self.end_request(request, Ending::Error(error), now);
            }
        };
        // Its places in the batch are those of its beams from now on.
        sequence.forks = 0;
        let Some(beams) = &mut group.beams else { return };
        beams.parked.push((sequence, found));
        if beams.parked.len() == beams.search.width() {
            self.beams_step(request, now);
        }
    }

    fn beams_step(&mut self, request: u64, now: Duration) {
        let Some(beams) = self.groups.get_mut(&request).and_then(|group| group.beams.as_mut()) else { return };
        let parked = std::mem::take(&mut beams.parked);
        let (mut parents, mut all): (Vec<Sequence>, Vec<Candidate>) = (Vec::new(), Vec::new());
        for (sequence, candidates) in parked {
            parents.push(sequence);
            all.extend(candidates);
        }
        let next = beams.search.step(all);
        if next.is_empty() {
            drop(parents);
            return self.beams_end(request, now);
        }
        parents.sort_by_key(|parent| parent.ticket);
        parents.retain(|parent| next.iter().any(|chosen| chosen.beam == parent.ticket.choice));
        let mut made = Vec::with_capacity(next.len());
        for (slot, chosen) in next.iter().enumerate() {
            let Some(at) = parents.iter().position(|parent| parent.ticket.choice == chosen.beam) else { continue };
            // The last that goes on from here takes the beam itself.
            let last = next[slot + 1..].iter().all(|other| other.beam != chosen.beam);
            let mut sequence = if last { parents.remove(at) } else { self.fork_beam(&parents[at], made.len(), now) };
            sequence.ticket.choice = slot;
            if let Err(error) = guarded(|| accept(&mut sequence, chosen.token)) {
                drop((sequence, made, parents));
                return self.end_request(request, Ending::Error(error), now);
            }
            made.push(sequence);
        }
        self.counters.generated_tokens += made.len() as u64;
        for mut sequence in made {
            if sequence.kv.is_some() && self.running.len() < self.limits.max_batch {
                insert(&mut self.running, sequence);
                continue;
            }
            // More beams than places: those without one are computed again when it is their turn.
            sequence.kv = None;
            sequence.thread.restart();
            insert(&mut self.waiting, sequence);
        }
    }

    /// Another beam with the same past. One whose cache finds no room gets none, and will compute it when it is its turn.
    fn fork_beam(&mut self, parent: &Sequence, beside: usize, now: Duration) -> Sequence {
        let kv = parent.kv.as_ref().filter(|_| self.running.len() + beside < self.limits.max_batch);
        let mut copy = kv.map(|kv| self.cache.fork(kv));
        while copy.as_ref().is_some_and(Result::is_err) && self.make_room(now) {
            copy = kv.map(|kv| self.cache.fork(kv));
        }
        Sequence {
            ticket: parent.ticket,
            tokens: parent.tokens.clone(),
            prompt: parent.prompt,
            plan: parent.plan.clone(),
            spans: parent.spans.clone(),
            kv: copy.and_then(Result::ok),
            logits: None,
            sampler: parent.sampler.clone(),
            output: parent.output.branch(),
            constraint: parent.constraint.clone(),
            record: None,
            forks: 0,
            errand: None,
            last_token: None,
            thread: parent.thread.branch(),
        }
    }

    /// The search is over: the best texts are told.
    fn beams_end(&mut self, request: u64, now: Duration) {
        let Some(group) = self.groups.get_mut(&request) else { return };
        let Some(beams) = group.beams.take() else { return };
        let best = beams.search.into_best(group.n);
        let vocabulary = &*self.vocabulary;
        let texts = guarded(|| Ok(best.iter().map(|text| spelled(text, group, vocabulary)).collect::<Vec<_>>()));
        let texts = match texts {
            Ok(texts) => texts,
            Err(error) => return self.end_request(request, Ending::Error(error), now),
        };
        let mut told = best.into_iter().zip(texts);
        let mut last = false;
        for choice in 0..group.n {
            // Fewer than were asked for where there are no more that the constraint allows.
            let mut reason = FinishReason::Stop;
            if let Some((Hypothesis { tokens, logprobs, stopped, .. }, texts)) = told.next() {
                let mut before = None;
                for ((id, logprob), text) in tokens.into_iter().zip(logprobs).zip(texts) {
                    group.token(Event::Token { choice, text, id, logprob }, before.replace(now), now);
                }
                reason = if stopped { FinishReason::Stop } else { FinishReason::Length };
            }
            last = group.finish(choice, reason, now);
        }
        if last {
            self.conclude(request, now);
        }
    }
}

/// The text of each of its tokens.
fn spelled(text: &Hypothesis, group: &Group, vocabulary: &dyn Vocabulary) -> Vec<String> {
    let mut output = TextOutput::new(vocabulary, group.starts_text, &group.stop);
    let spell = |(i, &id): (usize, &u32)| {
        let end = i + 1 == text.tokens.len();
        let silent = end && is_end(group, id, vocabulary.eos());
        let mut text = if silent { String::new() } else { output.push(id) };
        if end {
            text += &output.finish();
        }
        text
    };
    text.tokens.iter().enumerate().map(spell).collect()
}

/// Grammar and tokenizer are other people's code at work on a client's input: a panic there is one request's.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|panic| Err(EngineError::Panicked(crate::panic_message(&*panic))))
}

/// A beam goes on with a token.
fn accept(sequence: &mut Sequence, token: u32) -> Result<(), EngineError> {
    sequence.sampler.accept(token);
    sequence.tokens.push(token);
    sequence.output.push(token);
    sequence.constraint.as_mut().map_or(Ok(()), |constraint| constraint.accept(token))
}

fn is_end(group: &Group, id: u32, eos: &[u32]) -> bool {
    (!group.ignore_eos && eos.contains(&id)) || group.stop_tokens.contains(&id)
}

/// What a beam could go on with, by its log-probability; penalties, biases and the constraint are in it.
fn candidates(
    sequence: &mut Sequence,
    group: &Group,
    logits: &[f32],
    scratch: &mut crate::sampling::Scratch,
    eos: &[u32],
) -> Result<Vec<Candidate>, EngineError> {
    let beam = sequence.ticket.choice;
    let Some(search) = group.beams.as_ref().map(|beams| &beams.search) else { return Ok(Vec::new()) };
    let mask = sequence.constraint.as_mut().map(|constraint| constraint.mask()).transpose()?.flatten();
    let best = sequence.sampler.best(logits, mask.as_ref(), search.per_beam(), scratch)?;
    let sum = search.live(beam).map_or(0.0, |live| live.sum);
    let mut found = Vec::with_capacity(best.len());
    for (token, logprob) in best {
        let mut ends = is_end(group, token, eos);
        if !ends && !group.stop.is_empty() {
            let mut then = sequence.output.branch();
            then.push(token);
            ends = then.is_stopped();
        }
        if !ends && let Some(constraint) = &sequence.constraint {
            let mut then = constraint.clone();
            then.accept(token)?;
            ends = then.is_complete();
        }
        let told = group.logprobs.and_then(|top| token_logprobs(logits, token, top));
        found.push(Candidate { beam, token, sum: sum + logprob, logprob: told, ends });
    }
    Ok(found)
}
