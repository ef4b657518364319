//! Replays: answers that are computed again over the exact cache, in what requests leave of a step.
//!
//! Requests are planned as if there were none. A replay gets rows where the step's tokens and places are not used up, of a
//! step with foreground rows a few at most; memory where it is free and not promised; and gives all of it back when a
//! request wants it, which ends the replay. A report goes before a shadow in everything but that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cachalot_kv::{CachePlan, KvCache, Ledger, SequenceKv};

use super::Scheduler;
use super::batch::{Batch, ReplayPart};
use crate::observe;
use crate::replay::{Draw, Kind, Record, Replay, ReplayConfig, Script, Skipped};
use crate::{EngineError, Event};

/// Rows whose logits are wanted, of one replay in one step: with foreground rows beside them, and without. Each is
/// compared between two steps, while everybody waits.
const COMPARED: [usize; 2] = [4, 32];

/// How a request is watched while it generates.
pub(super) struct Watch {
    pub kind: Kind,
    pub label: Arc<str>,
    pub share: f64,
    /// Most rows of a choice.
    most: usize,
    prompt: usize,
    deadline: Option<Duration>,
    /// Choices that are complete.
    pub scripts: Vec<Script>,
}

/// All replays, and what they may take.
pub(super) struct Replays {
    config: ReplayConfig,
    plan: Arc<CachePlan>,
    draw: Draw,
    /// Bytes of kept rows: of reports, and of shadows, which must not take the place of what clients ask for.
    rows: [Ledger; 2],
    waiting: VecDeque<Replay>,
    /// Reports first, each kind by age.
    active: Vec<Replay>,
    closing: bool,
    #[cfg(test)]
    pub ended: Vec<(u64, Kind, crate::replay::KvReport)>,
}

impl Replays {
    pub fn new(config: ReplayConfig, cache: &KvCache) -> Replays {
        let heads = cache.config().layers.iter().map(|layer| layer.kv_heads);
        Replays {
            plan: Arc::new(CachePlan::exact(config.reference, heads)),
            draw: Draw::new(config.shadow, SHADOWS),
            rows: [config.row_bytes - config.row_bytes / 4, config.row_bytes / 4].map(Ledger::new),
            waiting: VecDeque::new(),
            active: Vec::new(),
            closing: false,
            config,
            #[cfg(test)]
            ended: Vec::new(),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }

    pub fn len(&self) -> usize {
        self.waiting.len() + self.active.len()
    }

    /// Bytes of pages that replays hold between steps.
    pub fn held(&self) -> u64 {
        self.active.iter().filter_map(|replay| replay.kv.as_ref()).map(SequenceKv::bytes).sum()
    }

    /// Bytes of rows that are kept, by kind.
    #[cfg(test)]
    pub fn rows(&self) -> [u64; 2] {
        [0, 1].map(|kind| self.rows[kind].used())
    }

    /// Whether and how a request is to be watched. The label is its recipe's, as metrics may name it.
    pub fn watch(&mut self, submission: &super::Submission) -> Option<Watch> {
        let (request, config) = (&submission.request, &self.config);
        let prompt = request.prompt.len();
        let watch = |kind, share, choices: usize, deadline| {
            let (label, most) = (submission.label.clone(), config.rows / choices.max(1));
            Watch { kind, label, share, most, prompt, deadline, scripts: Vec::new() }
        };
        if let Some(spec) = &request.report {
            let deadline = spec.within.map(|within| submission.submitted.saturating_add(within));
            return Some(watch(Kind::Report, spec.share, request.n, deadline));
        }
        if request.max_tokens == Some(0) || !self.draw.next() {
            return None;
        }
        if is_exact(&submission.plan, &self.plan) {
            observe::replayed(Kind::Shadow, Skipped::Exact.code(), Duration::ZERO);
            return None;
        }
        Some(watch(Kind::Shadow, config.shadow_steps, 1, None))
    }

    /// The rows to be kept of a choice; of a shadow's first only.
    pub fn record(&self, watch: Option<&Watch>, seed: u64, choice: usize) -> Option<Record> {
        let watch = watch.filter(|watch| watch.kind == Kind::Report || choice == 0)?;
        Some(Record::new(watch.share, watch.most, seed, choice, &self.rows[watch.kind as usize]))
    }

    fn remove(&mut self, request: u64) -> Option<Replay> {
        if let Some(index) = self.waiting.iter().position(|replay| replay.request == request) {
            return self.waiting.remove(index);
        }
        let index = self.active.iter().position(|replay| replay.request == request)?;
        Some(self.active.remove(index))
    }

    fn activate(&mut self, replay: Replay) {
        let rank = |replay: &Replay| (replay.kind, replay.asked, replay.request);
        let place = self.active.partition_point(|other| rank(other) < rank(&replay));
        self.active.insert(place, replay);
    }

    fn any(&self, of: impl Fn(&Replay) -> bool) -> Option<u64> {
        self.active.iter().chain(&self.waiting).find(|replay| of(replay)).map(|replay| replay.request)
    }

    fn running(&self, kind: Kind) -> usize {
        self.active.iter().filter(|replay| replay.kind == kind).count()
    }

    /// Into the queue, where there is a place.
    fn enqueue(&mut self, replay: Replay) -> Result<(), (Replay, Skipped)> {
        let most = match replay.kind {
            Kind::Shadow if self.closing => return Err((replay, Skipped::Closing)),
            Kind::Shadow => self.config.waiting_shadows,
            Kind::Report => self.config.waiting_reports,
        };
        let waiting = self.waiting.iter().filter(|other| other.kind == replay.kind).count();
        // One that can begin at once does not wait.
        if waiting >= most && self.running(replay.kind) + waiting >= self.config.concurrent.max(1) {
            return Err((replay, Skipped::Queue { waiting }));
        }
        self.waiting.push_back(replay);
        Ok(())
    }
}

/// Seed of the draw of shadows.
const SHADOWS: u64 = 0x5ead;

/// Whether a plan keeps everything in the elements of an exact one.
fn is_exact(plan: &CachePlan, exact: &CachePlan) -> bool {
    let lanes = plan.lanes.iter().flatten().zip(exact.lanes.iter().flatten());
    plan.keep.is_none() && lanes.into_iter().all(|(lane, exact)| lane.body.is_none() && lane.exact == exact.exact)
}

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
        if !last && let Err((replay, why)) = self.replays.enqueue(kept) {
            self.skip(replay, why, now, true);
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
        if needed > self.cache.ledger().budget() || alone && needed > self.cache.ledger().free() {
            return self.end_replay(request, Skipped::Memory, now);
        }
        // Somebody who waits may want this memory next.
        if !self.waiting.is_empty() || promised.saturating_add(needed) > self.cache.ledger().free() {
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
                Ok(mut kv) => self.cache.reserve(&mut kv, rows).map(|()| kv),
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
