//! The thread that steps, and the handles that feed it.

use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cachalot_kv::KvCache;
use cachalot_model::Decoder;
use cachalot_store::tier::Tenant;
use cachalot_store::{Block, Identity};
use tokio::sync::{mpsc::unbounded_channel, oneshot};

use crate::blend::{Blend, Method, Wish};
use crate::constraint::ConstraintFactory;
use crate::deletion::{Closed, Deletion, Doors};
use crate::generation::Generation;
use crate::limits::Limits;
use crate::queue::Queue;
use crate::recipes::Recipes;
use crate::reuse::Parcel;
use crate::reuse::below::Below;
use crate::scheduler::{Scheduler, Submission};
use crate::text::Vocabulary;
use crate::{EngineConfig, EngineError, EngineStats, Explanation, Request, ReuseConfig, Scope, observe, panic_message};

/// Requests are taken.
const OPEN: u8 = 0;
/// No new ones; those there are finish.
const CLOSING: u8 = 1;
/// Those there are end now.
const ABORTING: u8 = 2;

/// How often what is below the pool is looked at while nothing else is to be done.
const BELOW: Duration = Duration::from_millis(20);
/// The same while a prompt waits for it.
const FETCHING: Duration = Duration::from_micros(500);
/// How long what is to be written below may take when the engine ends.
const CLOSING_BELOW: Duration = Duration::from_secs(20);

enum Command {
    Submit(Box<Submission>),
    /// Something that only the thread that steps may look at.
    Ask(Box<dyn FnOnce(&mut Scheduler) + Send>),
    /// Look at the state again.
    Wake,
}

struct Shared {
    decoder: Arc<dyn Decoder>,
    cache: Arc<KvCache>,
    constraints: ConstraintFactory,
    recipes: Recipes,
    reuse: ReuseConfig,
    limits: Limits,
    queue: Queue,
    doors: Doors,
    state: AtomicU8,
    stats: Mutex<EngineStats>,
    started: Instant,
    /// Where seeds come from that nobody chose.
    entropy: RandomState,
    seeds: AtomicU64,
}

impl Shared {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn random_seed(&self) -> u64 {
        self.entropy.hash_one(self.seeds.fetch_add(1, SeqCst))
    }
}

/// Owns the one thread that steps. Dropping it ends all requests at once; [`Engine::shutdown`] lets them finish.
pub struct Engine {
    handle: EngineHandle,
    thread: Option<JoinHandle<()>>,
}

/// Submits requests. Cheap to clone.
#[derive(Clone)]
pub struct EngineHandle {
    shared: Arc<Shared>,
    commands: Sender<Command>,
}

impl Engine {
    /// Starts the thread. It sleeps while there is nothing to do.
    pub fn start(
        decoder: Arc<dyn Decoder>,
        vocabulary: Arc<impl Vocabulary + 'static>,
        cache: KvCache,
        config: EngineConfig,
    ) -> Engine {
        let vocabulary: Arc<dyn Vocabulary> = vocabulary;
        let cache = Arc::new(cache.with_words(vocabulary.words()));
        let limits = Limits::new(decoder.spec().vocab, decoder.spec().context, &cache, &config);
        let recipes = Recipes::new(cache.config().layers.clone(), config.kv_profiles, cache.config().plan.clone());
        let scheduler =
            Scheduler::new(cache.clone(), vocabulary.clone(), limits.clone(), config.replay, config.reuse.clone());
        let shared = Arc::new(Shared {
            decoder,
            cache,
            constraints: ConstraintFactory::new(vocabulary),
            recipes,
            reuse: config.reuse,
            limits,
            queue: Queue::new(config.queue),
            doors: Doors::default(),
            state: AtomicU8::new(OPEN),
            stats: Mutex::new(scheduler.stats()),
            started: Instant::now(),
            entropy: RandomState::new(),
            seeds: AtomicU64::new(0),
        });
        let (commands, receiver) = channel();
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("cachalot-engine".to_owned())
            .spawn(move || run(scheduler, &receiver, &for_thread))
            .inspect_err(|error| tracing::error!(%error, "the engine's thread did not start; requests will be refused"))
            .ok();
        Engine { handle: EngineHandle { shared, commands }, thread }
    }

    /// For submitting requests.
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Takes no new requests, finishes those there are, and returns when they are finished.
    pub fn shutdown(mut self) {
        self.end(CLOSING);
    }

    /// As [`Engine::shutdown`], but what is not finished after `patience` is cancelled.
    pub fn shutdown_within(mut self, patience: Duration) {
        let over = Arc::new(AtomicBool::new(false));
        let (handle, finished) = (self.handle(), over.clone());
        let watch = std::thread::Builder::new().name("cachalot-shutdown".to_owned()).spawn(move || {
            std::thread::park_timeout(patience);
            if !finished.load(SeqCst) {
                handle.enter(ABORTING);
            }
        });
        self.end(CLOSING);
        over.store(true, SeqCst);
        if let Ok(watch) = watch {
            watch.thread().unpark();
            let _ = watch.join();
        }
    }

    fn end(&mut self, state: u8) {
        self.handle.enter(state);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end(ABORTING);
    }
}

impl EngineHandle {
    /// Takes a request into the queue.
    ///
    /// Compiling a constraint, or planning a recipe, takes milliseconds, on the caller's thread; asynchronous callers may want to do that
    /// where blocking is allowed.
    ///
    /// # Errors
    /// Everything that can be known before the request is computed: see [`crate::ErrorKind`].
    pub fn submit(&self, request: Request) -> Result<Generation, EngineError> {
        self.try_submit(request).inspect_err(|_| observe::refused())
    }

    fn try_submit(&self, mut request: Request) -> Result<Generation, EngineError> {
        let shared = &self.shared;
        request.wish.lossy = request.wish.lossy.or(Some(shared.reuse.allow_lossy));
        request.wish.blend = request.wish.blend.or(shared.reuse.blend);
        if shared.state.load(SeqCst) != OPEN {
            return Err(EngineError::ShuttingDown);
        }
        let plan = shared.recipes.plan(request.kv.as_deref())?;
        shared.limits.check(&request, &shared.cache, &plan)?;
        let place = shared.queue.enter()?;
        let submitted = shared.now();
        let constraint = request.constraint.as_ref().map(|spec| shared.constraints.compile(spec)).transpose()?;
        let seed = request.sampling.seed.unwrap_or_else(|| shared.random_seed());
        let wish = &request.wish;
        let domain = shared.reuse.domain(&plan, &request.tenant, wish.edit);
        let before = wish.before.as_ref();
        let before = before.and_then(|before| shared.reuse.domain(&plan, &request.tenant, before.edit));
        let tenant = Tenant::named(&request.tenant);
        let label = shared.recipes.label(request.kv.as_deref());
        let (events, receiver) = unbounded_channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let generation = Generation::new(receiver, cancelled.clone());
        let submission =
            Submission { request, plan, domain, before, label, constraint, seed, events, cancelled, place, submitted };
        let closed = shared.doors.look();
        if closed.contains_key(&tenant) {
            return Err(EngineError::TenantDeleted);
        }
        self.commands.send(Command::Submit(Box::new(submission))).map_err(|_| EngineError::ShuttingDown)?;
        Ok(generation)
    }

    /// Numbers after the latest step; requests it has not seen yet count as queued.
    pub fn stats(&self) -> EngineStats {
        let mut stats = *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.queued = stats.queued.max(self.shared.queue.len());
        stats
    }

    /// What a prompt could begin with at the moment, and why not with more.
    ///
    /// # Errors
    /// Of the recipe; [`EngineError::ShuttingDown`].
    pub async fn explain(&self, tokens: Vec<u32>, scope: Scope<'_>) -> Result<Explanation, EngineError> {
        self.explain_with(tokens, scope, Wish { blend: Some(Blend::of(Method::Exact)), ..Wish::default() }).await
    }

    /// The same of a request that wants stretches moved, and what would be.
    ///
    /// # Errors
    /// As [`EngineHandle::explain`]; [`EngineError::InvalidParameter`] where its chunks are not in the prompt.
    pub async fn explain_with(
        &self,
        tokens: Vec<u32>,
        scope: Scope<'_>,
        mut wish: Wish,
    ) -> Result<Explanation, EngineError> {
        wish.blend = wish.blend.or(self.shared.reuse.blend);
        crate::request::check_stretches("kv.chunks", &wish.chunks, tokens.len())?;
        let plan = self.shared.recipes.plan(scope.kv)?;
        let shared = &self.shared;
        let domain = shared.reuse.domain(&plan, scope.tenant, scope.edit);
        let lossy = shared.reuse.lossy_domain(&shared.cache, &plan, scope.tenant).filter(|_| scope.edit.is_none());
        let now = shared.now();
        self.ask(move |scheduler| {
            let mut explained = scheduler.explain(&tokens, &plan, domain, wish)?;
            let lossy =
                lossy.map(|lossy| scheduler.explain(&tokens, &plan, Some(lossy), Wish::default())).transpose()?;
            let lossy = lossy.map(|lossy| lossy.reusable_tokens);
            if let Some((tokens, left)) = domain.and_then(|domain| scheduler.pinned(domain, &tokens, now)) {
                (explained.pinned_tokens, explained.pinned_seconds) =
                    (Some(tokens), Some(left.as_secs_f64().ceil() as u64));
            }
            explained.lossy_reusable_tokens = lossy.filter(|&tokens| tokens > explained.reusable_tokens);
            Ok(explained)
        })
        .await?
    }

    /// Asks the thread that steps, between two steps.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Scheduler) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        let ask = move |scheduler: &mut Scheduler| {
            // Whoever asked may have gone away.
            let _ = reply.send(ask(scheduler));
        };
        self.commands.send(Command::Ask(Box::new(ask))).map_err(|_| EngineError::ShuttingDown)?;
        answer.await.map_err(|_| EngineError::ShuttingDown)
    }

    /// The cache, for those who keep blocks of it elsewhere.
    pub fn cache(&self) -> &Arc<KvCache> {
        &self.shared.cache
    }

    /// Ends the requests of a tenant, and takes no others until what this gives is dropped. Also how many requests ended.
    ///
    /// # Errors
    /// [`EngineError::ShuttingDown`].
    pub async fn close_tenant(&self, tenant: &str) -> Result<(Closed, usize), EngineError> {
        let (tenant, now) = (Tenant::named(tenant), self.shared.now());
        let closed = self.shared.doors.close(tenant);
        let ended = self.ask(move |scheduler| scheduler.end_tenant(tenant, now)).await?;
        Ok((closed, ended))
    }

    /// Removes all of a tenant: its requests end, its blocks leave the pool, and every tier. Meanwhile its requests are refused.
    ///
    /// # Errors
    /// [`EngineError::ShuttingDown`].
    pub async fn delete_tenant(&self, tenant: &str) -> Result<Deletion, EngineError> {
        let (_closed, ended) = self.close_tenant(tenant).await?;
        let (tenant, now) = (Tenant::named(tenant), self.shared.now());
        let (reply, answer) = oneshot::channel();
        let tell = Box::new(move |deletion| {
            let _ = reply.send(deletion);
        });
        self.ask(move |scheduler| scheduler.delete_tenant(tenant, tell, now)).await?;
        let mut deletion = answer.await.map_err(|_| EngineError::ShuttingDown)?;
        deletion.requests += ended;
        let left = self.ask(move |scheduler| scheduler.shared_by(tenant)).await?;
        (deletion.pool.left_objects, deletion.pool.left_bytes) = left;
        Ok(deletion)
    }

    /// From now on blocks are kept below the pool, too, and come from there.
    ///
    /// # Errors
    /// [`EngineError::ShuttingDown`].
    pub fn attach(&self, below: Box<dyn Below>) -> Result<(), EngineError> {
        let attach: Box<dyn FnOnce(&mut Scheduler) + Send> = Box::new(move |scheduler| scheduler.attach(below));
        self.commands.send(Command::Ask(attach)).map_err(|_| EngineError::ShuttingDown)
    }

    /// What the blocks of a scope depend on.
    ///
    /// # Errors
    /// Of the recipe.
    pub fn identity(&self, scope: Scope<'_>) -> Result<Identity, EngineError> {
        let plan = self.shared.recipes.plan(scope.kv)?;
        Ok(self.shared.reuse.identity(&plan, scope.tenant, scope.edit))
    }

    /// The blocks that are there for some tokens, from the first one: their pages are shared, not copied.
    ///
    /// # Errors
    /// Of the recipe; [`EngineError::ShuttingDown`].
    pub async fn export(&self, tokens: Vec<u32>, scope: Scope<'_>) -> Result<Vec<Parcel>, EngineError> {
        let domain = self.identity(scope)?.domain();
        self.ask(move |scheduler| scheduler.export(domain, &tokens)).await
    }

    /// Takes in blocks that were kept elsewhere. They must be of this scope; every page is checked. How
    /// many tokens are there now.
    ///
    /// # Errors
    /// Of the recipe; [`EngineError::Cache`] where a block is another's, damaged, or finds no room.
    pub async fn import(&self, blocks: Vec<Block>, scope: Scope<'_>) -> Result<usize, EngineError> {
        let plan = self.shared.recipes.plan(scope.kv)?;
        let domain = self.identity(scope)?.domain();
        if blocks.iter().any(|block| block.domain != domain) {
            let what = "the blocks belong to another model, recipe, profile, tenant or edit";
            return Err(EngineError::Cache(what.to_owned()));
        }
        let bytes = blocks.iter().map(Block::bytes).sum();
        self.ask(move |scheduler| scheduler.free_shared(bytes)).await?;
        let mut parcels = Vec::with_capacity(blocks.len());
        for block in blocks {
            let parcel = Parcel::of_block(&self.shared.cache, &plan, block);
            parcels.push(parcel.map_err(|error| EngineError::Cache(error.to_string()))?);
        }
        let lengths: Vec<usize> = parcels.iter().map(|parcel| parcel.tokens.len()).collect();
        let tenant = Tenant::named(scope.tenant);
        let taken = self.ask(move |scheduler| scheduler.import(tenant, parcels)).await?;
        Ok(lengths[..taken].iter().sum())
    }

    /// The recipes that requests may name.
    pub fn recipes(&self) -> &Recipes {
        &self.shared.recipes
    }

    /// Most tokens of prompt and answer together.
    pub fn context(&self) -> usize {
        self.shared.limits.context.min(self.shared.limits.capacity)
    }

    fn enter(&self, state: u8) {
        self.shared.state.fetch_max(state, SeqCst);
        // Without a thread nobody needs to be woken.
        let _ = self.commands.send(Command::Wake);
    }
}

fn run(mut scheduler: Scheduler, commands: &Receiver<Command>, shared: &Shared) {
    let mut generated = 0;
    loop {
        let state = shared.state.load(SeqCst);
        if !take_commands(&mut scheduler, commands, shared, state != OPEN) {
            break;
        }
        if state != OPEN {
            // Clients are waited for, metrics are not.
            scheduler.end_shadows(shared.now());
        }
        if state == ABORTING {
            scheduler.cancel_all(shared.now());
        }
        if !scheduler.is_idle()
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| step(&mut scheduler, shared)))
        {
            // The scheduler itself failed: nothing is known of its sequences, so all of them end.
            let error = EngineError::Panicked(panic_message(&*panic));
            tracing::error!(%error, "a step failed outside the model; all requests end");
            scheduler.fail_all(error, shared.now());
        }
        scheduler.poll_below(shared.now());
        let stats = scheduler.stats();
        observe::state(&stats, stats.generated_tokens - generated, &shared.cache);
        generated = stats.generated_tokens;
        *shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
        if scheduler.is_idle() && state != OPEN {
            break;
        }
    }
    scheduler.close_below(CLOSING_BELOW);
    scheduler.forget_shared();
    *shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = scheduler.stats();
    // Requests that came while the engine closed learn it from their closed channel.
}

/// Takes what has come; waits for something if there is nothing else to do. False when nothing can come any more.
fn take_commands(scheduler: &mut Scheduler, commands: &Receiver<Command>, shared: &Shared, closing: bool) -> bool {
    let mut may_wait = scheduler.is_idle() && !closing;
    let pins = scheduler.next_unpin().map(|end| end.saturating_sub(shared.now()));
    // Somebody has to look at what threads have done, and at pins whose time is over.
    let wait = if scheduler.is_busy_below() { Some(BELOW) } else { pins };
    loop {
        let command = match may_wait {
            false => commands.try_recv(),
            true => match wait {
                Some(wait) => commands.recv_timeout(wait).map_err(|error| match error {
                    RecvTimeoutError::Timeout => TryRecvError::Empty,
                    RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
                }),
                None => commands.recv().map_err(|_| TryRecvError::Disconnected),
            },
        };
        may_wait = false;
        match command {
            Ok(Command::Submit(submission)) => scheduler.submit(*submission, shared.now()),
            Ok(Command::Ask(ask)) => ask(scheduler),
            Ok(Command::Wake) => {}
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return !scheduler.is_idle(),
        }
    }
}

fn step(scheduler: &mut Scheduler, shared: &Shared) {
    let Some(mut batch) = scheduler.plan(shared.now()) else {
        if scheduler.is_busy_below() {
            // All there is to do waits for blocks from below.
            std::thread::sleep(FETCHING);
        }
        return;
    };
    observe::step(batch.sequences(), batch.rows());
    let forward = catch_unwind(AssertUnwindSafe(|| batch.forward(&*shared.decoder, &shared.cache)));
    let logits = forward.unwrap_or_else(|panic| Err(EngineError::Panicked(panic_message(&*panic))));
    scheduler.commit(batch, logits, shared.now());
}

#[cfg(test)]
mod tests;
