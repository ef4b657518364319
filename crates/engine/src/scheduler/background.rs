//! Replays: answers that are computed again over the exact cache, in what requests leave of a step.
//!
//! Requests are planned as if there were none. A replay gets rows where the step's tokens and places are not used up, of a
//! step with foreground rows a few at most; memory where it is free and not promised; and gives all of it back when a
//! request wants it, which ends the replay. A report goes before a shadow in everything but that.

use std::collections::VecDeque;
use std::time::Duration;

use cachalot_kv::SequenceKv;

use super::Scheduler;
use super::batch::{Batch, ReplayPart};
use crate::observe;
use crate::replay::{Kind, Replay, Script, Skipped};
use crate::{EngineError, Event};

/// Rows whose logits are wanted, of one replay in one step: with foreground rows beside them, and without. Each is
/// compared between two steps, while everybody waits.
const COMPARED: [usize; 2] = [4, 32];

impl Scheduler {
    /// All choices of a request are complete; it is, too, unless its client waits for the comparison.
    pub(super) fn conclude(&mut self, request: u64, now: Duration) {
        let Some(group) = self.groups.get_mut(&request) else { return };
        let Some(mut watch) = group.watch.take() else { return self.complete(request) };
        if watch.kind == Kind::Shadow {
            self.complete(request);
        }
        watch.scripts.sort_by_key(|script| script.choice);
        let patient = now.saturating_add(self.replays.config.patience);
        let replay = |scripts: VecDeque<Script>| Replay {
            request,
            kind: watch.kind,
            tenant: watch.tenant,
            label: watch.label.clone(),
            prompt: watch.prompt,
            share: watch.share,
            exact: self.replays.config.reference,
            scripts,
            kv: None,
            asked: now,
            deadline: watch.deadline.map_or(patient, |deadline| deadline.min(patient)),
            computed: 0,
            spent: Duration::ZERO,
            tally: Default::default(),
        };
        let (kept, without): (VecDeque<Script>, VecDeque<Script>) =
            watch.scripts.into_iter().partition(|script| !script.rows.is_empty());
        let (kept, without) = (replay(kept), replay(without));
        let last = kept.scripts.is_empty();
        if last || !without.scripts.is_empty() {
            self.skip(without, Skipped::NoSteps, now, last);
        }
        match self.replays.admits(kept.kind) {
            _ if last => {}
            Ok(()) => self.replays.waiting.push_back(kept),
            Err(why) => self.skip(kept, why, now, true),
        }
    }

    /// The client hears that its request is complete.
    fn complete(&mut self, request: u64) {
        if let Some(group) = self.groups.remove(&request) {
            group.done();
        }
    }

    /// Gives a replay up, and says why of all its choices; with the last of them the request is complete.
    fn skip(&mut self, mut replay: Replay, why: Skipped, now: Duration, last: bool) {
        // The memory is free before anybody hears of it.
        replay.kv = None;
        tracing::debug!(request = replay.request, kind = replay.kind.name(), %why, "an answer was not compared");
        if last {
            observe::replayed(replay.kind, why.code(), replay.spent);
        }
        while self.tell(&mut replay, Err(why.clone()), now) {}
        if last && replay.kind == Kind::Report {
            self.complete(replay.request);
        }
    }

    /// The report of the choice in work goes to whom it is for; false where there is none.
    fn tell(&mut self, replay: &mut Replay, outcome: Result<(), Skipped>, now: Duration) -> bool {
        let Some((choice, report)) = replay.close(outcome, &self.cache, now) else { return false };
        #[cfg(test)]
        self.replays.ended.push((replay.request, replay.kind, report.clone()));
        if replay.kind == Kind::Report
            && let Some(group) = self.groups.get(&replay.request)
        {
            group.send(Event::Report { choice, report });
        }
        true
    }

    /// Gives up the replay of a request, if there is one.
    pub(super) fn end_replay(&mut self, request: u64, why: Skipped, now: Duration) -> bool {
        let Some(replay) = self.replays.remove(request) else { return false };
        self.skip(replay, why, now, true);
        true
    }

    /// Takes no more shadows, and gives up those there are.
    pub fn end_shadows(&mut self, now: Duration) {
        self.replays.closing = true;
        while let Some(request) = self.replays.any(|replay| replay.kind == Kind::Shadow) {
            self.end_replay(request, Skipped::Closing, now);
        }
    }

    /// Makes room for a request: gives up the replay that is missed least. False when none holds any memory.
    pub(super) fn make_room(&mut self, now: Duration) -> bool {
        // What nobody uses goes first.
        if self.reuse.evict() {
            return true;
        }
        let holds = |replay: &&Replay| replay.kv.as_ref().is_some_and(|kv| kv.bytes() > 0);
        let Some(request) = self.replays.active.iter().rev().find(holds).map(|replay| replay.request) else {
            return false;
        };
        self.end_replay(request, Skipped::Memory, now)
    }

    /// Before a step: replays that took too long end, and those for which there is a place and memory begin.
    pub(super) fn begin_replays(&mut self, now: Duration) {
        while let Some(request) = self.replays.any(|replay| now > replay.deadline) {
            let Some(replay) = self.replays.remove(request) else { break };
            let seconds = now.saturating_sub(replay.asked).as_secs_f64();
            self.skip(replay, Skipped::Deadline { seconds }, now, true);
        }
        for kind in [Kind::Report, Kind::Shadow] {
            while self.replays.running(kind) < self.replays.config.concurrent.max(1) {
                let Some(index) = self.replays.waiting.iter().position(|replay| replay.kind == kind) else { break };
                if !self.begin(index, now) {
                    break;
                }
            }
        }
    }

    /// Begins a replay that waits, or gives it up if it never can. False if it has to wait longer.
    fn begin(&mut self, index: usize, now: Duration) -> bool {
        let Some(replay) = self.replays.waiting.get(index) else { return false };
        let request = replay.request;
        let needed = self.limits.peak_bytes(&self.cache, &self.replays.plan, replay.longest());
        let more = |replay: &Replay| {
            let left = replay.longest() - replay.kv.as_ref().map_or(0, SequenceKv::len).min(replay.longest());
            replay.kv.as_ref().map_or(0, |kv| self.cache.bytes_to_finish(kv, left))
        };
        let promised = self.promised_bytes() + self.replays.active.iter().map(more).sum::<u64>();
        let alone = self.running.is_empty() && self.waiting.is_empty() && self.replays.active.is_empty();
        let free = self.cache.ledger().free() + self.reuse.reclaimable(needed);
        if needed > self.cache.ledger().budget() || alone && needed > free {
            return self.end_replay(request, Skipped::Memory, now);
        }
        // Somebody who waits may want this memory next.
        if !self.waiting.is_empty() || promised.saturating_add(needed) > free {
            return false;
        }
        match (self.cache.create_with(&self.replays.plan), self.replays.waiting.remove(index)) {
            (Ok(kv), Some(replay)) => {
                self.replays.activate(Replay { kv: Some(kv), ..replay });
            }
            (Err(error), Some(replay)) => {
                self.skip(replay, Skipped::Failed(EngineError::Cache(error.to_string())), now, true);
            }
            (_, None) => {}
        }
        true
    }

    /// Gives replays what the requests' rows leave of a step.
    pub(super) fn enlist_replays(&mut self, batch: &mut Batch, now: Duration) {
        let foreground = batch.rows() > 0;
        let mut left = self.limits.step_tokens.saturating_sub(batch.rows());
        if foreground {
            left = left.min(self.replays.config.beside);
        }
        let requests: Vec<u64> = self.replays.active.iter().map(|replay| replay.request).collect();
        for request in requests {
            if left == 0 || batch.sequences() >= self.limits.max_batch {
                return;
            }
            let Some(replay) = self.replays.active.iter_mut().find(|replay| replay.request == request) else {
                continue;
            };
            let chunk = replay.chunk(left, COMPARED[usize::from(!foreground)]);
            let rows = chunk.tokens.len();
            let kv = match replay.kv.take().map_or_else(|| self.cache.create_with(&self.replays.plan), Ok) {
                Ok(mut kv) => {
                    let mut reserved = self.cache.reserve(&mut kv, rows);
                    while reserved.is_err() && self.reuse.evict() {
                        reserved = self.cache.reserve(&mut kv, rows);
                    }
                    reserved.map(|()| kv)
                }
                Err(error) => Err(error),
            };
            let (Ok(kv), Some(script)) = (kv, replay.scripts.front()) else {
                self.end_replay(request, Skipped::Memory, now);
                continue;
            };
            left -= rows;
            batch.push_replay(request, kv, &script.tokens[chunk.tokens], &chunk.wanted);
            observe::replay_rows(replay.kind, rows);
        }
    }

    /// After a step: the caches go back before the requests are looked at, so that these can have the memory.
    pub(super) fn settle_replays(&mut self, parts: &mut [ReplayPart], step: Duration, rows: usize, now: Duration) {
        for part in parts {
            let Some(mut kv) = part.kv.take() else { continue };
            let Some(replay) = self.replays.active.iter_mut().find(|replay| replay.request == part.request) else {
                continue;
            };
            self.cache.settle(&mut kv);
            let checked = self.cache.scrub(&mut kv, super::commit::SCRUB_PAGES);
            replay.kv = Some(kv);
            replay.computed += part.rows;
            replay.spent += step.mul_f64(part.rows as f64 / rows.max(1) as f64);
            if let Err(error) = checked {
                observe::corrupt();
                self.end_replay(part.request, Skipped::Failed(EngineError::Cache(error.to_string())), now);
            }
        }
    }

    /// Compares the rows that a step brought; `logits` are those of the parts, in order.
    pub(super) fn compare_replays(&mut self, parts: &[ReplayPart], logits: &[f32], now: Duration) {
        let mut rows = logits.chunks_exact(self.limits.vocab.max(1));
        for part in parts {
            let own: Vec<&[f32]> = rows.by_ref().take(part.logits).collect();
            let Some(mut replay) = self.replays.remove(part.request) else { continue };
            let (compared, took) = observe::timed(|| {
                own.into_iter().try_for_each(|row| {
                    let (kl, same) = replay.compare(row)?;
                    if replay.kind == Kind::Shadow {
                        observe::compared(&replay.label, kl, same);
                    }
                    Ok(())
                })
            });
            replay.spent += took;
            if let Err(why) = compared {
                self.skip(replay, why, now, true);
                continue;
            }
            while replay.choice_done() {
                self.tell(&mut replay, Ok(()), now);
            }
            if replay.scripts.is_empty() {
                let (request, kind) = (replay.request, replay.kind);
                observe::replayed(kind, "compared", replay.spent);
                drop(replay);
                if kind == Kind::Report {
                    self.complete(request);
                }
                continue;
            }
            self.replays.activate(replay);
        }
    }
}
