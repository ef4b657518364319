//! Tiers below a scheduler on a simulated disk and object store: what they do, and when, a seed chooses.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use cachalot_kv::KvCache;
use cachalot_store::BlockKey;
use cachalot_store::codec::{Codec, Plain};
use cachalot_store::tier::backend::{Backends, Folder};
use cachalot_store::tier::machine::{Action, Event};
use cachalot_store::tier::{
    Completed, Machine, MachineConfig, Object, RemoteConfig, Run, ShelfConfig, Stats, Tenant, Ticket, WritePolicy,
};

use super::disk::SimDisk;
use super::remote::SimRemote;
use super::rng::Rng;
use crate::reuse::below::{Done, TierStore, Tiered, Work, Workers, work_on};

const ROOT: &str = "/sim";

/// What outlives an engine.
pub struct Ground {
    pub disk: SimDisk,
    pub remote: Arc<SimRemote>,
    config: MachineConfig,
    /// Objects that tiers delivered, by their level.
    pub delivered: Arc<[AtomicU64; 3]>,
}

impl Ground {
    /// Tiers of a few dozen blocks, so that they spill.
    pub fn new(seed: u64, write: WritePolicy) -> Ground {
        let shelf = |capacity| ShelfConfig { queue: 100_000, ..ShelfConfig::new(capacity) };
        Ground {
            disk: SimDisk::new(seed ^ 1, Path::new(ROOT)),
            remote: Arc::new(SimRemote::new(seed ^ 2)),
            config: MachineConfig {
                write,
                ram: Some(shelf(60_000)),
                disk: Some(shelf(200_000)),
                remote: Some(RemoteConfig { queue: 100_000, probe: 8, ..RemoteConfig::default() }),
                failures: 4,
                rest: Duration::from_secs(1),
                ..MachineConfig::default()
            },
            delivered: Arc::default(),
        }
    }

    pub fn set_faults(&self, share: f64) {
        self.disk.set_faults(share);
        self.remote.set_faults(share);
    }

    /// The power goes in the middle of something, and comes back: what was not synced is there in part, or not, or torn.
    pub fn crash(&self) {
        self.disk.crash(Path::new(ROOT));
    }

    /// Bits that flip by themselves, files that lose their end.
    pub fn damage(&self, rng: &mut Rng) {
        let files = self.disk.files();
        if let Some((path, _)) = files.get(rng.below(files.len())) {
            self.disk.damage(path, rng);
        }
        self.remote.damage(rng);
    }

    /// Objects of a tenant, wherever.
    pub fn of(&self, tenant: Tenant) -> usize {
        let folder = PathBuf::from(ROOT).join(tenant.to_string());
        let files = self.disk.files();
        files.iter().filter(|(path, _)| path.starts_with(&folder)).count() + self.remote.of(tenant)
    }

    /// What a process opens when it starts.
    pub fn open(&self, seed: u64, cache: &Arc<KvCache>) -> Box<TierStore> {
        self.set_faults(0.0);
        let folder = Folder::open(Arc::new(self.disk.clone()), Path::new(ROOT), None).unwrap();
        let found = folder.scan().unwrap().found;
        let tiers = SimTiers {
            machine: Machine::new(Duration::ZERO, self.config.clone(), found),
            folder,
            remote: self.remote.clone(),
            begun: Vec::new(),
            done: Vec::new(),
            now: Duration::ZERO,
            rng: Rng(seed),
            delivered: self.delivered.clone(),
        };
        let pool = SimPool { cache: cache.clone(), waiting: Vec::new(), rng: Rng(seed ^ 3) };
        Box::new(TierStore::over(Box::new(tiers), Box::new(pool), 100_000))
    }
}

/// Tiers whose threads do something, in any order, whenever somebody looks.
struct SimTiers {
    machine: Machine,
    folder: Folder,
    remote: Arc<SimRemote>,
    begun: Vec<Action>,
    done: Vec<Event>,
    now: Duration,
    rng: Rng,
    delivered: Arc<[AtomicU64; 3]>,
}

impl SimTiers {
    fn execute(&mut self) {
        if !self.begun.is_empty() {
            let action = self.begun.swap_remove(self.rng.below(self.begun.len()));
            let backends = Backends { disk: Some(&self.folder), remote: Some(&*self.remote) };
            self.done.push(backends.execute(action));
        }
    }

    fn deliver(&mut self) {
        if !self.done.is_empty() {
            let event = self.done.swap_remove(self.rng.below(self.done.len()));
            self.machine.handle(self.now, event);
        }
    }

    fn turn(&mut self) {
        let most = if self.rng.chance(0.01) { 3_000 } else { 20 };
        self.now += Duration::from_millis(self.rng.below(most) as u64);
        self.begun.extend(self.machine.actions());
        (0..self.rng.below(5)).for_each(|_| self.execute());
        (0..self.rng.below(5)).for_each(|_| self.deliver());
        self.begun.extend(self.machine.actions());
    }
}

impl Tiered for SimTiers {
    fn lookup(&mut self, tenant: Tenant, keys: &[BlockKey]) -> Run {
        let run = self.machine.lookup(self.now, tenant, keys);
        self.begun.extend(self.machine.actions());
        run
    }

    fn is_near(&mut self, tenant: Tenant, key: BlockKey) -> bool {
        self.machine.is_near(self.now, tenant, &key)
    }

    fn fetch(&mut self, tenant: Tenant, keys: &[BlockKey]) -> Ticket {
        self.machine.fetch(self.now, tenant, keys)
    }

    fn cancel(&mut self, ticket: Ticket) {
        self.machine.cancel(ticket);
    }

    fn store(&mut self, run: Vec<Object>) {
        self.machine.store(self.now, run);
    }

    fn delete_tenant(&mut self, tenant: Tenant) -> Ticket {
        self.machine.delete_tenant(self.now, tenant)
    }

    fn poll(&mut self) -> Vec<Completed> {
        self.turn();
        let all = self.machine.poll(self.now);
        for completed in &all {
            if let Completed::Fetched { result: Ok((_, level)), .. } = completed {
                self.delivered[*level as usize].fetch_add(1, Relaxed);
            }
        }
        all
    }

    fn settle(&mut self, most: Duration) -> bool {
        let turns = if most.is_zero() { 0 } else { 10_000 };
        for _ in 0..turns {
            if self.machine.is_idle() {
                return true;
            }
            self.turn();
            self.machine.tick(self.now);
        }
        self.machine.is_idle()
    }

    fn close(mut self: Box<Self>, most: Duration) -> (bool, Stats) {
        self.machine.flush(self.now);
        let settled = self.settle(most);
        (settled, self.machine.stats(self.now))
    }
}

/// Threads that take their time.
struct SimPool {
    cache: Arc<KvCache>,
    waiting: Vec<Work>,
    rng: Rng,
}

impl Workers for SimPool {
    fn send(&mut self, work: Work) {
        self.waiting.push(work);
    }

    fn done(&mut self) -> Option<Done> {
        if self.waiting.is_empty() || self.rng.chance(0.4) {
            return None;
        }
        let work = self.waiting.swap_remove(self.rng.below(self.waiting.len()));
        Some(work_on(&self.cache, &[Arc::new(Plain) as Arc<dyn Codec>], work))
    }
}
