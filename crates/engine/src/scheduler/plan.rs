//! Before a step: who leaves, who enters, and how many rows everyone gets.

use std::time::Duration;

use cachalot_kv::KvError;
use cachalot_kv::allot::Budget;

use super::batch::Batch;
use super::sequence::insert;
use super::{Ending, Scheduler};
use crate::{EngineError, FinishReason};

/// Prompt rows a step has at least, however many sequences decode: long prompts must not starve behind a full batch.
const MIN_CHUNK: usize = 16;

/// What became of one sequence's request for rows.
enum Granted {
    Yes,
    /// Not in this step.
    No,
    /// It left the batch, set aside or failed.
    Left,
}

impl Scheduler {
    /// Decides on the next step. `None` when there is nothing to compute; if [`Scheduler::is_idle`] says no even so,
    /// ask again.
    pub fn plan(&mut self, now: Duration) -> Option<Batch> {
        self.drop_abandoned(now);
        self.reuse.tick(now);
        self.reuse.take_arrivals(now);
        self.admit(now);
        self.begin_replays(now);
        let decodes = self.running.iter().filter(|sequence| sequence.pending() == 1).count();
        let mut prompt_rows =
            self.limits.step_tokens.saturating_sub(decodes).max(MIN_CHUNK.min(self.limits.step_tokens));
        let mut batch = Batch::new(now);
        let mut index = 0;
        while index < self.running.len() {
            self.begin_errand(index);
            if self.waits_for_another(index) || self.waits_below(index, now) || self.waits_beside(index, now) {
                index += 1;
                continue;
            }
            self.begin_shared(index);
            self.refresh(index);
            let Some(sequence) = self.running.get(index) else { break };
            let pending = sequence.pending();
            let rows = if pending == 1 { 1 } else { pending.min(prompt_rows) };
            // Its context is reduced before what follows is computed.
            let rows = rows.min(sequence.kv.as_ref().map_or(rows, |kv| kv.rows_to_reduction()));
            let rows = if pending > 1 { rows.min(self.rows_to_stop(sequence)) } else { rows };
            let granted = if rows == 0 { Granted::No } else { self.reserve(index, rows, batch.rows() == 0, now) };
            match granted {
                Granted::Yes => {
                    if pending > 1 {
                        prompt_rows -= rows;
                    }
                    self.enlist(index, rows, &mut batch);
                    index += 1;
                }
                Granted::No => index += 1,
                Granted::Left => {}
            }
        }
        self.enlist_replays(&mut batch, now);
        (batch.rows() > 0).then_some(batch)
    }

    fn enlist(&mut self, index: usize, rows: usize, batch: &mut Batch) {
        let Some(sequence) = self.running.get_mut(index) else { return };
        let from = sequence.computed();
        let Some(kv) = sequence.kv.take() else { return };
        let until = from + rows;
        let complete = until == sequence.tokens.len() && kv.answers(rows);
        let sampled =
            sequence.errand.is_none() && self.groups.get(&sequence.ticket.request).is_some_and(|group| group.limit > 0);
        if kv.pass_rows() > 0 {
            let tokens = kv.pass_tokens(&sequence.tokens[..sequence.prompt]);
            batch.push(sequence.ticket, kv, &tokens[..rows], complete && sampled);
        } else {
            batch.push(sequence.ticket, kv, &sequence.tokens[from..until], complete && sampled);
        }
    }

    fn drop_abandoned(&mut self, now: Duration) {
        let abandoned: Vec<u64> =
            self.groups.iter().filter(|(_, group)| group.is_abandoned()).map(|(&request, _)| request).collect();
        for request in abandoned {
            self.end_request(request, Ending::Reason(FinishReason::Cancelled), now);
        }
    }

    /// Takes sequences out of the queue, strictly in order (that of [`crate::reuse::Order`]), while there is a place for all their choices and memory for
    /// their prompts beside what those in the batch still need. With an empty batch the first one enters in any case.
    fn admit(&mut self, now: Duration) {
        let mut occupied: usize = self.running.iter().map(|sequence| 1 + sequence.forks).sum();
        occupied += self.parked_beams();
        let mut promised: Option<u64> = None;
        while let Some((index, head)) = self.next_waiting(now) {
            let places = (1 + head.forks).min(self.limits.max_batch);
            let needed = self.bytes_to_begin(head);
            if !self.running.is_empty() {
                let promised = promised.get_or_insert_with(|| self.promised_bytes());
                let promised_now = promised.saturating_add(needed);
                if occupied + places > self.limits.max_batch || promised_now > self.available(promised_now) {
                    return;
                }
                *promised = promised_now;
            } else {
                promised = Some(needed);
            }
            occupied += places;
            let Some(mut sequence) = self.waiting.remove(index) else { return };
            let prompt = sequence.prompt;
            // A budget that is a share of what is free must not depend on who is compared.
            let by_free = matches!(&sequence.plan.keep, Some(keep) if matches!(keep.budget, Budget::Free(_)));
            while by_free && self.make_room(now) {}
            let created = self.cache.create_with(&sequence.plan).and_then(|kv| {
                let mut kv = kv.with_spans(&sequence.spans);
                self.cache.expect(&mut kv, prompt).map(|()| kv)
            });
            match created {
                Ok(kv) => sequence.kv = Some(kv),
                Err(error) => {
                    let (ticket, forks) = (sequence.ticket, sequence.forks);
                    drop(sequence);
                    self.end_choices(ticket, forks, Ending::Error(EngineError::Cache(error.to_string())), now);
                    continue;
                }
            }
            if let Some(group) = self.groups.get_mut(&sequence.ticket.request) {
                group.admit(now);
            }
            insert(&mut self.running, sequence);
        }
    }

    /// Bytes the sequences in the batch need for all they have to compute at the moment.
    pub(super) fn promised_bytes(&self) -> u64 {
        let need = |sequence: &super::Sequence| match sequence.kv.as_ref() {
            // It has not looked yet what it can begin with.
            Some(kv) if kv.is_empty() && !sequence.thread.attached => self.bytes_to_begin(sequence),
            kv => kv.map_or(0, |kv| self.cache.bytes_to_finish(kv, sequence.pending())),
        };
        self.running.iter().map(need).sum()
    }

    /// Reserves the memory for `rows` of a sequence, at the expense of younger ones if it must be.
    ///
    /// Sequences are served oldest first, so the youngest has no rows yet, unless it is the one that asks. The oldest
    /// therefore always gets on, and with it, one after the other, everybody.
    fn reserve(&mut self, index: usize, rows: usize, first: bool, now: Duration) -> Granted {
        loop {
            let youngest = self.running.len() - 1;
            let Some(sequence) = self.running.get_mut(index) else { return Granted::Left };
            let (ticket, prompt) = (sequence.ticket, sequence.tokens.len());
            let Some(kv) = sequence.kv.as_mut() else { return Granted::No };
            match self.cache.reserve(kv, rows) {
                Ok(()) => return Granted::Yes,
                Err(KvError::OutOfBudget { .. } | KvError::OutOfMemory { .. }) if self.make_room(now) => {}
                Err(KvError::OutOfBudget { .. } | KvError::OutOfMemory { .. }) if youngest > index => {
                    self.set_aside(youngest);
                }
                Err(KvError::OutOfBudget { .. } | KvError::OutOfMemory { .. })
                    if self.let_go_of_parked(if first { 0 } else { ticket.request }) => {}
                // Nobody else is left who could give anything.
                Err(KvError::OutOfBudget { .. } | KvError::OutOfMemory { .. }) if first && self.reuse.yield_pin() => {}
                // What is being written below is held until it is written.
                Err(KvError::OutOfBudget { .. } | KvError::OutOfMemory { .. }) if first && self.reuse.is_busy() => {
                    return Granted::No;
                }
                Err(KvError::OutOfBudget { needed, budget, .. }) if first => {
                    // Alone, and still too large: it was checked when it came, so somebody else holds the memory.
                    let error = EngineError::KvTooSmall { prompt, needed, budget };
                    self.end(ticket, Ending::Error(error), now);
                    return Granted::Left;
                }
                // Older sequences advance in this step. A prompt waits for them where it is ...
                Err(KvError::OutOfBudget { .. } | KvError::OutOfMemory { .. }) if !first && rows > 1 => {
                    return Granted::No;
                }
                // ... and a decoding sequence leaves its memory to them.
                Err(KvError::OutOfBudget { .. } | KvError::OutOfMemory { .. }) if !first => {
                    self.set_aside(index);
                    return Granted::Left;
                }
                Err(error) => {
                    self.end(ticket, Ending::Error(EngineError::Cache(error.to_string())), now);
                    return Granted::Left;
                }
            }
        }
    }

    /// Frees a sequence's cache and puts it back into the queue, where its arrival places it. It will compute prompt
    /// and answer so far again, with the same bits.
    fn set_aside(&mut self, index: usize) {
        let Some(mut sequence) = self.running.remove(index) else { return };
        (sequence.kv, sequence.logits) = (None, None);
        sequence.end_errand();
        sequence.thread.restart();
        self.counters.preemptions += 1;
        crate::observe::preempted();
        insert(&mut self.waiting, sequence);
    }
}
