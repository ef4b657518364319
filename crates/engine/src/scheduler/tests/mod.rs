mod beams;
mod below;
mod evict;
mod limits;
mod order;
mod pins;
mod replays;
mod shadows;
mod sharing;
mod simulation;
mod single;
mod world;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use cachalot_kv::KvCache;
use cachalot_model::Decoder;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::queue::Queue;
use crate::testing::{ByteVocabulary, Expected, HashDecoder, cache};
use crate::{EngineConfig, Usage};

/// [`ReuseConfig::every`] of tests that want sharing.
const ON: usize = usize::MAX;

/// A scheduler with its model and cache, and a clock that ticks a millisecond for every look at it.
struct Bench {
    scheduler: Scheduler,
    cache: Arc<KvCache>,
    decoder: HashDecoder,
    limits: Limits,
    queue: Queue,
    reuse: ReuseConfig,
    now: Duration,
    steps: usize,
}

impl Bench {
    fn new(decoder: HashDecoder, pages: u64, config: EngineConfig) -> Bench {
        Bench::over(cache(pages), decoder, config)
    }

    fn over(cache: KvCache, decoder: HashDecoder, config: EngineConfig) -> Bench {
        let cache = Arc::new(cache);
        // Tests of other things count all memory.
        let reuse = if config.reuse.every == ON {
            ReuseConfig { every: 128, ..config.reuse.clone() }
        } else {
            ReuseConfig::off()
        };
        let config = EngineConfig { reuse: reuse.clone(), ..config };
        let limits = Limits::new(decoder.spec().vocab, decoder.spec().context, &cache, &config);
        let scheduler = Scheduler::new(
            cache.clone(),
            Arc::new(ByteVocabulary::new(&[])),
            limits.clone(),
            config.replay,
            config.reuse,
        );
        Bench { scheduler, cache, decoder, limits, queue: Queue::new(1000), reuse, now: Duration::ZERO, steps: 0 }
    }

    fn check(&self, request: &Request) -> Result<usize, EngineError> {
        self.limits.check(request, &self.cache, &self.cache.config().plan)
    }

    fn tick(&mut self) -> Duration {
        self.now += Duration::from_millis(1);
        self.now
    }

    fn submit(&mut self, request: Request) -> Client {
        self.submit_with(request, self.cache.config().plan.clone())
    }

    /// A request with a recipe of its own.
    fn submit_with(&mut self, request: Request, plan: Arc<CachePlan>) -> Client {
        let (events, receiver) = unbounded_channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let submitted = self.tick();
        let submission = Submission {
            domain: self.reuse.domain(&plan, &request.tenant, request.wish.edit),
            before: (request.wish.before.as_ref())
                .and_then(|before| self.reuse.domain(&plan, &request.tenant, before.edit)),
            plan,
            label: "f16".into(),
            constraint: None,
            seed: request.sampling.seed.unwrap_or(0),
            place: self.queue.enter().unwrap(),
            cancelled: cancelled.clone(),
            request: request.clone(),
            events,
            submitted,
        };
        self.scheduler.submit(submission, submitted);
        Client { request, receiver: Some(receiver), cancelled, seen: Seen::default() }
    }

    /// One step; whether there was one.
    fn step(&mut self) -> bool {
        let now = self.tick();
        let Some(mut batch) = self.scheduler.plan(now) else { return false };
        assert!(batch.sequences() <= self.limits.max_batch);
        let decodes = batch.parts.iter().filter(|part| part.rows == 1).count();
        assert!(batch.rows() <= decodes + self.limits.step_tokens.max(16), "{} rows", batch.rows());
        let logits = batch.forward(&self.decoder, &self.cache);
        let now = self.tick();
        self.scheduler.commit(batch, logits, now);
        self.steps += 1;
        true
    }

    fn run(&mut self) {
        while !self.scheduler.is_idle() {
            self.step();
        }
        self.scheduler.forget_shared();
        assert_eq!(self.cache.ledger().used(), 0, "all memory comes back");
        assert_eq!(self.queue.len(), 0, "all places come back");
    }
}

/// Reads the events of one request.
struct Client {
    request: Request,
    receiver: Option<UnboundedReceiver<Event>>,
    cancelled: Arc<AtomicBool>,
    seen: Seen,
}

#[derive(Default, Debug)]
struct Seen {
    choices: std::collections::BTreeMap<usize, (Vec<u32>, String, Option<FinishReason>)>,
    progress: Vec<usize>,
    errors: Vec<EngineError>,
    reports: std::collections::BTreeMap<usize, crate::KvReport>,
    usage: Option<Usage>,
}

impl Client {
    fn read(&mut self) -> &Seen {
        while let Some(event) = self.receiver.as_mut().and_then(|receiver| receiver.try_recv().ok()) {
            let seen = &mut self.seen;
            assert!(seen.usage.is_none(), "nothing comes after Done");
            match event {
                Event::PromptProgress { done, total } => {
                    assert_eq!(total, self.request.prompt.len());
                    seen.progress.push(done);
                }
                Event::Token { choice, text, id, .. } => {
                    let entry = seen.choices.entry(choice).or_default();
                    assert!(entry.2.is_none(), "no token after Finished");
                    entry.0.push(id);
                    entry.1 += &text;
                }
                Event::Finished { choice, reason } => {
                    let entry = seen.choices.entry(choice).or_default();
                    assert!(entry.2.replace(reason).is_none(), "Finished once");
                }
                Event::Report { choice, report } => {
                    assert!(seen.choices[&choice].2.is_some(), "no report before Finished");
                    assert!(seen.reports.insert(choice, report).is_none(), "one report");
                }
                Event::Done(usage) => seen.usage = Some(usage),
                Event::Error(error) => seen.errors.push(error),
            }
        }
        &self.seen
    }

    /// The complete answer is `expected`, choice by choice.
    fn check(&mut self, expected: &[Expected]) {
        self.read();
        let seen = &self.seen;
        assert_eq!(seen.errors, []);
        let got: Vec<Expected> = seen
            .choices
            .values()
            .map(|(ids, text, reason)| Expected { ids: ids.clone(), text: text.clone(), reason: reason.unwrap() })
            .collect();
        assert_eq!(got, expected, "{:?}", self.request);
        let usage = seen.usage.unwrap();
        assert_eq!(usage.prompt_tokens, self.request.prompt.len());
        assert_eq!(usage.completion_tokens, expected.iter().map(|e| e.ids.len()).sum::<usize>());
        assert!(seen.progress.is_sorted_by(|a, b| a < b) && seen.progress.last() == Some(&usage.prompt_tokens));
    }
}
