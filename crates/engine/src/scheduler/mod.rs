//! Continuous batching as a state machine: no threads, no clock, no randomness of its own.
//!
//! A step is [`Scheduler::plan`], [`Batch::forward`] and [`Scheduler::commit`]. Every running sequence that decodes gets
//! one row in every step; what is left of the step's tokens goes to prompts, oldest first, in chunks. Order of arrival
//! decides everything:
//!
//! - **Admission** is strictly first come, first served, or by what is there of prompts ([`crate::reuse::Order`]): into the batch goes the head of the queue, when there is a place
//!   for all its choices and its prompt fits the free KV bytes beside what the running ones need next.
//! - **Memory** is reserved before each step, exactly for that step. When a sequence cannot get its next page, the
//!   youngest is set aside: its cache is freed, it goes back to its place in the queue and will compute its tokens again.
//!   The oldest is never set aside, so everybody finishes.
//! - **Replays** compare answers with the exact cache in what all of that leaves over; see [`crate::replay`].
//! - **Choices** (`n` above one) compute their prompt once and fork its cache; beams fork at every step.
//!
//! Kernels and cache give a row the same bits in any batch and any chunk, and random draws belong to a sequence and a
//! position; so the text of a sequence depends on nothing here, only its time does.

mod background;
mod batch;
mod beams;
mod commit;
mod errand;
mod group;
mod plan;
mod replays;
mod sequence;
mod shared;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use cachalot_kv::{CachePlan, KvCache};
use cachalot_store::Domain;
use cachalot_store::tier::Tenant;
use tokio::sync::mpsc::UnboundedSender;

pub use batch::Batch;
use group::Group;
use replays::Replays;
use sequence::{Sequence, Ticket};

use crate::blend::Wish;
use crate::constraint::Constraint;
use crate::limits::Limits;
use crate::queue::Place;
use crate::replay::{ReplayConfig, Skipped};
use crate::reuse::below::Below;
use crate::reuse::{Explanation, Parcel, Reuse, ReuseConfig, Thread};
use crate::sampling::{Sampler, Scratch};
use crate::text::{TextOutput, Vocabulary};
use crate::{Deletion, EngineError, EngineStats, Event, FinishReason, Request, observe};

/// A request on its way in.
pub struct Submission {
    /// What is asked for.
    pub request: Request,
    /// How its cache is kept.
    pub plan: Arc<CachePlan>,
    /// Where it shares what it computes; nowhere where `None`.
    pub domain: Option<Domain>,
    /// Where it shared before it was edited.
    pub before: Option<Domain>,
    /// Its recipe as metrics may name it; see [`crate::recipes::Recipes::label`].
    pub label: Arc<str>,
    /// Its constraint, compiled.
    pub constraint: Option<Constraint>,
    /// The request's seed, or a random one.
    pub seed: u64,
    /// Where the events go; closed means that nobody wants them.
    pub events: UnboundedSender<Event>,
    /// Set when nobody wants further tokens, though the events are still read.
    pub cancelled: Arc<AtomicBool>,
    /// Its place in the queue.
    pub place: Place,
    /// When it came.
    pub submitted: Duration,
}

/// How a choice ends.
#[derive(Clone)]
enum Ending {
    Reason(FinishReason),
    Error(EngineError),
}

#[derive(Default)]
struct Counters {
    prompt_tokens: u64,
    generated_tokens: u64,
    preemptions: u64,
}

/// All requests in flight.
pub struct Scheduler {
    cache: Arc<KvCache>,
    vocabulary: Arc<dyn Vocabulary>,
    limits: Limits,
    groups: HashMap<u64, Group>,
    /// By ticket. New requests, and sequences set aside.
    waiting: VecDeque<Sequence>,
    /// By ticket.
    running: VecDeque<Sequence>,
    replays: Replays,
    reuse: Reuse,
    requests: u64,
    scratch: Scratch,
    counters: Counters,
}

impl Scheduler {
    /// Nothing in flight.
    pub fn new(
        cache: Arc<KvCache>,
        vocabulary: Arc<dyn Vocabulary>,
        limits: Limits,
        replays: ReplayConfig,
        reuse: ReuseConfig,
    ) -> Scheduler {
        Scheduler {
            replays: Replays::new(replays, &cache),
            reuse: Reuse::new(reuse),
            cache,
            vocabulary,
            limits,
            groups: HashMap::new(),
            waiting: VecDeque::new(),
            running: VecDeque::new(),
            requests: 0,
            scratch: Scratch::default(),
            counters: Counters::default(),
        }
    }

    /// Takes a request into the queue. One that breaks the limits ends at once, with an error event.
    pub fn submit(&mut self, submission: Submission, now: Duration) {
        let (plan, domain, before) = (submission.plan.clone(), submission.domain, submission.before);
        let tenant = submission.request.tenant.clone();
        let wish = Arc::new(submission.request.wish.clone());
        let spans = submission.request.spans.clone().into();
        let lossy = domain.filter(|_| wish.edit.is_none());
        let lossy = lossy.and_then(|_| self.reuse.lossy_domain(&self.cache, &plan, &tenant));
        let limit = self.limits.check(&submission.request, &self.cache, &plan);
        let beam = submission.request.beam;
        let watched = limit.is_ok() && beam.is_none();
        let watch = watched.then(|| self.replays.watch(&submission)).flatten();
        let (mut group, prompt) = Group::new(submission, *limit.as_ref().unwrap_or(&0), watch);
        if let Err(error) = limit {
            group.send(Event::Error(error));
            (0..group.n).for_each(|choice| _ = group.finish(choice, FinishReason::Error, now));
            return group.done();
        }
        let ticket = Ticket { request: self.requests, choice: 0 };
        let places = beam.filter(|_| group.beams.is_some()).map_or(group.n, |beam| beam.width);
        self.requests += 1;
        self.waiting.push_back(Sequence {
            ticket,
            sampler: Sampler::new(group.sampling.clone(), group.seed, 0, &prompt),
            output: TextOutput::new(&*self.vocabulary, group.starts_text, &group.stop),
            constraint: group.constraint.clone(),
            prompt: prompt.len(),
            tokens: prompt,
            plan,
            spans,
            kv: None,
            logits: None,
            record: self.replays.record(group.watch.as_ref(), group.seed, 0),
            forks: places.saturating_sub(1),
            last_token: None,
            thread: Thread::new(domain, &tenant, wish).after(before).lossy(lossy),
            errand: None,
        });
        self.groups.insert(ticket.request, group);
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.groups.is_empty() && self.replays.is_idle()
    }

    /// Ends everything, as if every client had gone away.
    pub fn cancel_all(&mut self, now: Duration) {
        self.end_all(Ending::Reason(FinishReason::Cancelled), now);
    }

    /// Ends everything with an error.
    pub fn fail_all(&mut self, error: EngineError, now: Duration) {
        self.end_all(Ending::Error(error), now);
    }

    /// Numbers of the moment.
    pub fn stats(&self) -> EngineStats {
        let ledger = self.cache.ledger();
        EngineStats {
            queued: self.waiting.len(),
            running: self.running.len(),
            replays: self.replays.len(),
            kv_bytes: ledger.used(),
            kv_budget_bytes: ledger.budget(),
            shared_blocks: self.reuse.size().0,
            shared_bytes: self.reuse.size().1,
            pinned_bytes: self.reuse.pinned_bytes(),
            reused_tokens: self.reuse.tokens,
            evicted_blocks: self.reuse.evicted,
            prompt_tokens: self.counters.prompt_tokens,
            generated_tokens: self.counters.generated_tokens,
            preemptions: self.counters.preemptions,
        }
    }

    /// What a prompt could begin with, and why not with more.
    ///
    /// # Errors
    /// [`EngineError::Cache`] where no sequence with this plan can be made at the moment.
    pub fn explain(
        &self,
        tokens: &[u32],
        plan: &Arc<CachePlan>,
        domain: Option<Domain>,
        wish: Wish,
    ) -> Result<Explanation, EngineError> {
        let created = self.cache.create_with(plan).and_then(|mut kv| {
            self.cache.expect(&mut kv, tokens.len())?;
            Ok(kv)
        });
        let kv = created.map_err(|error| EngineError::Cache(error.to_string()))?;
        Ok(self.reuse.explain(&self.cache, &kv, &Thread::new(domain, "", Arc::new(wish)), tokens))
    }

    /// Tokens at the beginning of a prompt that are pinned, and for how long.
    pub fn pinned(&self, domain: Domain, tokens: &[u32], now: Duration) -> Option<(usize, Duration)> {
        self.reuse.pinned(domain, tokens, now)
    }

    /// When the next pin is over.
    pub fn next_unpin(&self) -> Option<Duration> {
        self.reuse.next_unpin()
    }

    /// The blocks that `tokens` begins with as a whole.
    pub fn export(&self, domain: Domain, tokens: &[u32]) -> Vec<Parcel> {
        self.reuse.export(domain, tokens)
    }

    /// Takes in blocks, each behind the one before it. How many found their place.
    pub fn import(&mut self, tenant: Tenant, parcels: Vec<Parcel>) -> usize {
        self.reuse.import(tenant, parcels)
    }

    /// Lets go of shared blocks that nobody uses until so many bytes are free. Whether they are.
    pub fn free_shared(&mut self, bytes: u64) -> bool {
        while self.cache.ledger().free() < bytes && self.reuse.evict() {}
        self.cache.ledger().free() >= bytes
    }

    /// Ends the requests of a tenant, and what compares its answers. How many there were.
    pub fn end_tenant(&mut self, tenant: Tenant, now: Duration) -> usize {
        let of = self.groups.iter().filter(|(_, group)| group.tenant == tenant);
        let mut requests: Vec<u64> = of.map(|(id, _)| *id).collect();
        requests.sort_unstable();
        let ending = Ending::Error(EngineError::TenantDeleted);
        requests.iter().for_each(|id| self.end_request(*id, ending.clone(), now));
        let mut ended = requests.len();
        while let Some(request) = self.replays.any(|replay| replay.tenant == tenant) {
            ended += usize::from(self.end_replay(request, Skipped::Cancelled, now));
        }
        ended
    }

    /// Removes all of a tenant: its requests end, what it shares in the pool goes at once, and what is below later; `tell`
    /// hears of both.
    pub fn delete_tenant(&mut self, tenant: Tenant, tell: Box<dyn FnOnce(Deletion) + Send>, now: Duration) {
        let requests = self.end_tenant(tenant, now);
        let tell = move |deletion| tell(Deletion { requests, ..deletion });
        self.reuse.delete_tenant(tenant, Box::new(tell));
    }

    /// Blocks that a tenant has in the pool for others of its requests, and bytes of their pages.
    pub fn shared_by(&self, tenant: Tenant) -> (u64, u64) {
        self.reuse.shared_by(tenant)
    }

    /// From now on blocks are kept below the pool, too, and come from there.
    pub fn attach(&mut self, below: Box<dyn Below>) {
        self.reuse.attach(below);
    }

    /// Takes in what came from below; to be called now and then while [`Scheduler::is_busy_below`].
    pub fn poll_below(&mut self, now: Duration) {
        self.reuse.tick(now);
        self.reuse.take_arrivals(now);
    }

    /// Whether something is under way below the pool.
    pub fn is_busy_below(&self) -> bool {
        self.reuse.is_busy()
    }

    /// Writes what is to be written below, within so long, and ends it.
    pub fn close_below(&mut self, patience: Duration) {
        self.reuse.close(patience);
    }

    /// Lets go of all that is shared and nobody uses.
    pub fn forget_shared(&mut self) {
        self.reuse.clear();
    }

    fn end_all(&mut self, ending: Ending, now: Duration) {
        let mut requests: Vec<u64> = self.groups.keys().copied().collect();
        requests.sort_unstable();
        requests.into_iter().for_each(|request| self.end_request(request, ending.clone(), now));
        self.end_shadows(now);
    }

    /// Ends all choices of a request that are still open. Asks the request, not its sequences: after a panic one may have
    /// been lost on the way.
    fn end_request(&mut self, request: u64, ending: Ending, now: Duration) {
        for list in [&mut self.running, &mut self.waiting] {
            list.retain(|sequence| sequence.ticket.request != request);
        }
        let why = match &ending {
            Ending::Reason(_) => Skipped::Cancelled,
            Ending::Error(error) => Skipped::Failed(error.clone()),
        };
        let answered = self.groups.get(&request).is_some_and(|group| group.open_choices().is_empty());
        if answered && self.end_replay(request, why.clone(), now) {
            return;
        }
        let Some(mut group) = self.groups.remove(&request) else { return };
        if let Some(watch) = &group.watch {
            observe::replayed(watch.kind, why.code(), Duration::ZERO);
        }
        let reason = group.announce(ending, request);
        for choice in group.open_choices() {
            group.finish(choice, reason, now);
        }
        group.done();
    }

    /// Removes a sequence, wherever it is, and ends its choice; before the fork, all choices of its request.
    fn end(&mut self, ticket: Ticket, ending: Ending, now: Duration) {
        let mut removed = None;
        for list in [&mut self.running, &mut self.waiting] {
            if let Ok(index) = list.binary_search_by_key(&ticket, |sequence| sequence.ticket) {
                removed = list.remove(index);
            }
        }
        let Some(sequence) = removed else { return };
        let forks = sequence.forks;
        // The memory is free before the client hears of it.
        drop(sequence);
        self.end_choices(ticket, forks, ending, now);
    }

    fn end_choices(&mut self, ticket: Ticket, forks: usize, ending: Ending, now: Duration) {
        // Beams are no choices: without one of them the search says nothing.
        if self.groups.get(&ticket.request).is_some_and(|group| group.beams.is_some()) {
            return self.end_request(ticket.request, ending, now);
        }
        let Some(group) = self.groups.get_mut(&ticket.request) else { return };
        let reason = group.announce(ending, ticket.request);
        let mut last = false;
        for choice in ticket.choice..=ticket.choice + forks {
            last = group.finish(choice, reason, now);
        }
        if last {
            self.conclude(ticket.request, now);
        }
    }
}

#[cfg(test)]
mod tests;
