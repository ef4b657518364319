//! One request in flight: its client, its choices and its account.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use cachalot_store::tier::Tenant;
use tokio::sync::mpsc::UnboundedSender;

use super::beams::Beams;
use super::replays::Watch;
use super::{Ending, Submission};
use crate::constraint::Constraint;
use crate::observe;
use crate::queue::Place;
use crate::request::Moments;
use crate::reuse::Pinned;
use crate::sampling::Sampling;
use crate::{Event, FinishReason, Usage};

pub(super) struct Group {
    pub sampling: Arc<Sampling>,
    pub seed: u64,
    pub tenant: Tenant,
    pub stop: Vec<String>,
    pub stop_tokens: Vec<u32>,
    pub logprobs: Option<usize>,
    pub ignore_eos: bool,
    pub starts_text: bool,
    pub n: usize,
    /// Most tokens of each choice.
    pub limit: usize,
    /// Before the first token; each choice gets a copy.
    pub constraint: Option<Constraint>,
    pub moments: Moments,
    /// Whether it will be compared with the exact cache, and what is there for that.
    pub watch: Option<Watch>,
    /// Where the most likely texts are searched for.
    pub beams: Option<Beams>,
    /// When the last choice was complete.
    ended: Duration,
    prompt_tokens: usize,
    /// See [`Usage::kept_share`].
    pub kept_share: Option<f64>,
    /// See [`Usage::cached_tokens`].
    pub cached_tokens: usize,
    /// See [`Usage::lossy_tokens`].
    pub lossy_tokens: usize,
    /// See [`Usage::moved_tokens`].
    pub moved_tokens: usize,
    /// See [`Usage::recomputed_tokens`].
    pub recomputed_tokens: usize,
    /// See [`Usage::pinned`].
    pub pinned: Option<Pinned>,
    /// The progress that was reported last.
    prompt_progress: usize,
    completion_tokens: usize,
    /// Choices that have at least one token.
    begun: usize,
    /// Choices that are not finished.
    open: BTreeSet<usize>,
    worst: FinishReason,
    events: UnboundedSender<Event>,
    cancelled: Arc<AtomicBool>,
    place: Option<Place>,
}

impl Group {
    pub fn new(submission: Submission, limit: usize, watch: Option<Watch>) -> (Group, Vec<u32>) {
        let Submission {
            request,
            plan: _,
            domain: _,
            before: _,
            label: _,
            constraint,
            seed,
            events,
            cancelled,
            place,
            submitted,
        } = submission;
        let group = Group {
            sampling: Arc::new(request.sampling),
            seed,
            tenant: Tenant::named(&request.tenant),
            stop: request.stop,
            stop_tokens: request.stop_tokens,
            logprobs: request.logprobs,
            ignore_eos: request.ignore_eos,
            starts_text: request.starts_text,
            n: request.n.max(1),
            limit,
            constraint,
            moments: Moments { submitted, ..Moments::default() },
            watch,
            // Where nothing is to be generated there is nothing to search for.
            beams: request.beam.filter(|_| limit > 0).map(|beam| Beams::new(beam, limit)),
            ended: submitted,
            prompt_tokens: request.prompt.len(),
            kept_share: None,
            cached_tokens: 0,
            lossy_tokens: 0,
            moved_tokens: 0,
            recomputed_tokens: 0,
            pinned: None,
            prompt_progress: 0,
            completion_tokens: 0,
            begun: 0,
            open: (0..request.n.max(1)).collect(),
            worst: FinishReason::Stop,
            events,
            cancelled,
            place: Some(place),
        };
        (group, request.prompt)
    }

    /// Whether nobody wants the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.events.is_closed() || self.cancelled.load(Relaxed)
    }

    pub fn send(&self, event: Event) {
        // A client that went away is noticed before the next step.
        let _ = self.events.send(event);
    }

    /// The request leaves the queue.
    pub fn admit(&mut self, now: Duration) {
        self.place = None;
        self.moments.admitted.get_or_insert(now);
    }

    /// The prompt is computed up to `done`. Passes over what was computed before, after the sequence was set aside, are
    /// silent.
    pub fn prompt_progress(&mut self, done: usize, now: Duration) {
        if done <= self.prompt_progress {
            return;
        }
        self.prompt_progress = done;
        self.send(Event::PromptProgress { done, total: self.prompt_tokens });
        if done == self.prompt_tokens {
            self.moments.prompt_done = Some(now);
            observe::prompt_done(self.prompt_tokens.saturating_sub(self.cached_tokens + self.moved_tokens));
        }
    }

    /// A token was generated; `last` is when the same choice had its last one.
    pub fn token(&mut self, event: Event, last: Option<Duration>, now: Duration) {
        self.completion_tokens += 1;
        self.moments.last_token = Some(now);
        match last {
            Some(last) => observe::inter_token(now.saturating_sub(last)),
            None => self.begun += 1,
        }
        if self.moments.first_token.is_none() {
            self.moments.first_token = Some(now);
            observe::first_token(now.saturating_sub(self.moments.submitted));
        }
        self.send(event);
    }

    /// Choices that are not finished.
    pub fn open_choices(&self) -> Vec<usize> {
        self.open.iter().copied().collect()
    }

    /// Tells the client of an error, if it is one; what to finish with.
    pub fn announce(&self, ending: Ending, request: u64) -> FinishReason {
        match ending {
            Ending::Reason(reason) => reason,
            Ending::Error(error) => {
                tracing::warn!(request, %error, "a generation failed");
                self.send(Event::Error(error));
                FinishReason::Error
            }
        }
    }

    /// One choice is complete. Whether it was the last.
    pub fn finish(&mut self, choice: usize, reason: FinishReason, now: Duration) -> bool {
        let rank = |reason| match reason {
            FinishReason::Stop => 0,
            FinishReason::Length => 1,
            FinishReason::Cancelled => 2,
            FinishReason::Error => 3,
        };
        if rank(reason) > rank(self.worst) {
            self.worst = reason;
        }
        self.send(Event::Finished { choice, reason });
        self.open.remove(&choice);
        if !self.open.is_empty() {
            return false;
        }
        self.ended = now;
        observe::finished(self.worst);
        true
    }

    /// The request is complete.
    pub fn done(self) {
        self.send(Event::Done(Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            cached_tokens: self.cached_tokens,
            lossy_tokens: self.lossy_tokens,
            moved_tokens: self.moved_tokens,
            recomputed_tokens: self.recomputed_tokens,
            pinned: self.pinned,
            kept_share: self.kept_share,
            timings: self.moments.timings(self.ended, self.completion_tokens, self.begun),
        }));
    }
}
