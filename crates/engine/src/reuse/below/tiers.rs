//! Tiers of the store as what lies below the pool.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cachalot_kv::{CachePlan, KvCache};
use cachalot_store::cost::{CostFile, CostModel};
use cachalot_store::tier::{Completed, Object, Proof, Tenant, Ticket, TierConfig, Tiers};
use cachalot_store::{BlockKey, StoreError};

use super::seam::{Tiered, Workers};
use super::worker::{Codecs, Done, Pool, Work, name};
use super::{Arrived, Below, FetchId, NoteRead, Parts, There};
use crate::observe;
use crate::reuse::Parcel;

/// How tiers are used.
#[derive(Clone)]
pub struct TierOptions {
    /// Where and how much.
    pub tiers: TierConfig,
    /// Threads that turn blocks into bytes and back.
    pub threads: usize,
    /// Most bytes of blocks that wait to be turned into bytes; others are not kept.
    pub queue: u64,
    /// How pages are written before any tier sees them; their names are [`crate::ReuseConfig::lossy`] where they change them.
    pub codecs: Codecs,
    /// Where it is kept what things cost here.
    pub cost: Option<CostFile>,
}

struct Fetching {
    id: FetchId,
    tenant: Tenant,
    /// How blocks are made of it; what has none are notes.
    plan: Option<Arc<CachePlan>>,
    /// Whether each object is [`Parts::near`].
    near: Vec<bool>,
}

/// The tiers, and the threads in front of them.
pub struct TierStore {
    tiers: Option<Box<dyn Tiered>>,
    pool: Box<dyn Workers>,
    queue: u64,
    cost: Option<CostFile>,
    /// Bytes of blocks that are being turned into bytes.
    writing: u64,
    /// Pieces of work of each tenant that threads have.
    working: HashMap<Tenant, usize>,
    /// Objects that were asked for and have not arrived.
    reading: usize,
    fetches: HashMap<Ticket, Fetching>,
    next: u64,
    arrived: Vec<Arrived>,
    notes: Vec<NoteRead>,
    deletions: Vec<Deletion>,
    settled: bool,
}

/// A tenant that is to go. Its blocks that are being turned into bytes come first, so that they are removed with the others.
struct Deletion {
    tenant: Tenant,
    ticket: Option<Ticket>,
    tell: Box<dyn FnOnce(Proof) + Send>,
}

impl TierStore {
    /// Opens the tiers for the blocks of a cache.
    ///
    /// # Errors
    /// Where a folder or URL cannot be used.
    pub fn open(options: TierOptions, cache: &Arc<KvCache>) -> Result<TierStore, StoreError> {
        let (tiers, _) = Tiers::open(options.tiers)?;
        let pool = Pool::start(cache, &options.codecs, options.threads)
            .map_err(|source| StoreError::Io { place: "threads of the store".to_owned(), source })?;
        Ok(TierStore { cost: options.cost, ..TierStore::over(Box::new(tiers), Box::new(pool), options.queue) })
    }

    /// Of these parts.
    pub(crate) fn over(tiers: Box<dyn Tiered>, pool: Box<dyn Workers>, queue: u64) -> TierStore {
        TierStore {
            tiers: Some(tiers),
            pool,
            queue,
            cost: None,
            writing: 0,
            working: HashMap::new(),
            reading: 0,
            fetches: HashMap::new(),
            next: 0,
            arrived: Vec::new(),
            notes: Vec::new(),
            deletions: Vec::new(),
            settled: true,
        }
    }

    fn send(&mut self, tenant: Tenant, work: Work) {
        *self.working.entry(tenant).or_default() += 1;
        self.pool.send(work);
    }

    /// Takes in what threads have done.
    fn turn(&mut self) {
        let Some(tiers) = &mut self.tiers else { return };
        let mut written = Vec::new();
        while let Some(done) = self.pool.done() {
            let whose = match done {
                Done::Written { tenant, objects, bytes } => {
                    self.writing = self.writing.saturating_sub(bytes);
                    written.extend(objects);
                    tenant
                }
                Done::Read { id, tenant, parcel } => {
                    self.reading = self.reading.saturating_sub(1);
                    self.arrived.push(Arrived { id, parcel });
                    tenant
                }
            };
            if let Some(left) = self.working.get_mut(&whose) {
                *left -= 1;
            }
        }
        self.working.retain(|_, left| *left > 0);
        if !written.is_empty() {
            self.settled = false;
            tiers.store(written);
        }
        for deletion in self.deletions.iter_mut().filter(|deletion| deletion.ticket.is_none()) {
            if !self.working.contains_key(&deletion.tenant) {
                deletion.ticket = Some(tiers.delete_tenant(deletion.tenant));
            }
        }
        self.settled = self.settled || tiers.settle(Duration::ZERO);
        let mut read = Vec::new();
        for completed in tiers.poll() {
            let (ticket, index, key, result) = match completed {
                Completed::Fetched { ticket, index, key, result } => (ticket, index, key, result),
                Completed::Deleted { ticket, proof } => {
                    if let Some(at) = self.deletions.iter().position(|deletion| deletion.ticket == Some(ticket)) {
                        (self.deletions.swap_remove(at).tell)(proof);
                    }
                    continue;
                }
                Completed::Probed { .. } => continue,
            };
            let Some(fetch) = self.fetches.get(&ticket) else { continue };
            let near = fetch.near.get(index).copied().unwrap_or_default();
            let (id, tenant) = (fetch.id, fetch.tenant);
            let Some(plan) = fetch.plan.clone() else {
                self.reading = self.reading.saturating_sub(1);
                self.notes.push(NoteRead { id, key, bytes: result.ok().map(|(bytes, _)| bytes) });
                continue;
            };
            match result {
                Ok((bytes, level)) => {
                    observe::fetched(level.name(), bytes.len() as u64);
                    read.push((tenant, Work::Read { id, tenant, key, near, bytes, plan }));
                }
                Err(_) => {
                    self.reading = self.reading.saturating_sub(1);
                    self.arrived.push(Arrived { id, parcel: None });
                }
            }
        }
        read.into_iter().for_each(|(tenant, work)| self.send(tenant, work));
    }
}

impl Below for TierStore {
    fn there(&mut self, tenant: Tenant, keys: &[BlockKey]) -> There {
        let Some(tiers) = &mut self.tiers else { return There::default() };
        let run = tiers.lookup(tenant, keys);
        let mut asking = run.probe.is_some();
        let (mut parts, mut levels) = (Vec::new(), Vec::new());
        for (i, key) in keys.iter().enumerate() {
            let near = tiers.lookup(tenant, &[key.near()]);
            asking |= near.probe.is_some() && i <= run.levels.len();
            let part = Parts { kept: i < run.levels.len(), near: !near.levels.is_empty() };
            if !part.any() {
                break;
            }
            parts.push(part);
            levels.extend(run.levels.get(i).copied().max(near.levels.first().copied()));
        }
        There { parts, levels, asking }
    }

    fn is_near(&mut self, tenant: Tenant, key: BlockKey) -> bool {
        self.tiers.as_mut().is_some_and(|tiers| tiers.is_near(tenant, key))
    }

    fn fetch(&mut self, tenant: Tenant, plan: &Arc<CachePlan>, wanted: &[(BlockKey, Parts)]) -> FetchId {
        let id = FetchId(self.next);
        self.next += 1;
        let parts = |(key, parts): &(BlockKey, Parts)| {
            let (key, parts) = (*key, *parts);
            [(false, parts.kept), (true, parts.near)]
                .into_iter()
                .filter_map(move |(near, is)| is.then_some((key, near)))
        };
        let objects: Vec<(BlockKey, bool)> = wanted.iter().flat_map(parts).collect();
        let keys: Vec<BlockKey> = objects.iter().map(|&(key, near)| name(key, near)).collect();
        self.reading += keys.len();
        match &mut self.tiers {
            Some(tiers) => {
                let ticket = tiers.fetch(tenant, &keys);
                let near = objects.iter().map(|object| object.1).collect();
                self.fetches.insert(ticket, Fetching { id, tenant, plan: Some(plan.clone()), near });
            }
            None => {
                self.reading -= keys.len();
                self.arrived.extend(keys.iter().map(|_| Arrived { id, parcel: None }));
            }
        }
        id
    }

    fn cancel(&mut self, id: FetchId) {
        let ticket = self.fetches.iter().find_map(|(ticket, fetch)| (fetch.id == id).then_some(*ticket));
        if let (Some(tiers), Some(ticket)) = (&mut self.tiers, ticket) {
            tiers.cancel(ticket);
        }
    }

    fn arrived(&mut self) -> Vec<Arrived> {
        self.turn();
        if self.reading == 0 {
            self.fetches.clear();
        }
        std::mem::take(&mut self.arrived)
    }

    fn keep(&mut self, tenant: Tenant, blocks: Vec<(Parcel, Parts)>) {
        if self.deletions.iter().any(|deletion| deletion.tenant == tenant) {
            return;
        }
        let bytes: u64 = blocks.iter().map(|(parcel, _)| parcel.block.bytes()).sum();
        // What waits holds its pages; beyond this the pool would fill with it.
        if self.writing > 0 && self.writing + bytes > self.queue {
            observe::not_kept(blocks.len());
            return;
        }
        self.writing += bytes;
        self.send(tenant, Work::Write { tenant, blocks });
    }

    fn keep_notes(&mut self, tenant: Tenant, notes: Vec<(BlockKey, Arc<[u8]>)>) {
        let going = self.deletions.iter().any(|deletion| deletion.tenant == tenant);
        if let (Some(tiers), false) = (&mut self.tiers, going || notes.is_empty()) {
            self.settled = false;
            tiers.store(notes.into_iter().map(|(key, bytes)| Object { key, tenant, bytes }).collect());
        }
    }

    fn read_notes(&mut self, tenant: Tenant, keys: &[BlockKey]) -> FetchId {
        let id = FetchId(self.next);
        self.next += 1;
        match &mut self.tiers {
            Some(tiers) => {
                let ticket = tiers.fetch(tenant, keys);
                self.reading += keys.len();
                self.fetches.insert(ticket, Fetching { id, tenant, plan: None, near: vec![false; keys.len()] });
            }
            None => self.notes.extend(keys.iter().map(|&key| NoteRead { id, key, bytes: None })),
        }
        id
    }

    fn notes(&mut self) -> Vec<NoteRead> {
        std::mem::take(&mut self.notes)
    }

    fn delete(&mut self, tenant: Tenant, tell: Box<dyn FnOnce(Proof) + Send>) {
        self.deletions.push(Deletion { tenant, ticket: None, tell });
        self.turn();
    }

    fn recall(&mut self) -> Option<CostModel> {
        let known = self.cost.as_ref()?.read();
        known.inspect_err(|error| tracing::warn!(%error, "what things cost here is learned anew")).unwrap_or(None)
    }

    fn note(&mut self, cost: &CostModel) {
        if let Some(Err(error)) = self.cost.as_ref().map(|file| file.write(cost)) {
            tracing::warn!(%error, "what things cost here was not kept");
        }
    }

    fn is_busy(&self) -> bool {
        self.writing > 0 || self.reading > 0 || !self.settled || !self.deletions.is_empty()
    }

    fn close(&mut self, patience: Duration) {
        let end = Instant::now() + patience;
        while self.writing > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
            self.turn();
        }
        if let Some(tiers) = self.tiers.take() {
            let (settled, stats) = tiers.close(end.saturating_duration_since(Instant::now()));
            if !settled {
                tracing::warn!(jobs = stats.jobs, "some blocks were not written in time; they will be computed again");
            }
        }
    }
}
