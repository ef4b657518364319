//! All that tiers decide, without threads, clock or I/O: calls and [`Event`]s go in with the time, [`Action`]s come out.
//!
//! What runs it ([`crate::tier::Tiers`], or a simulation) carries out actions in any order it likes and answers each with one event.

mod delete;
mod events;
mod fetch;
mod job;
mod locate;
mod remove;
mod report;
mod store;
pub mod types;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

pub use types::{Action, Completed, Event, JobId, Miss, Outcome, Purged, Run, Ticket};

use super::config::MachineConfig;
use super::fault::Fault;
use super::known::Known;
use super::object::{Level, Parcel, Tenant};
use super::shelf::{Shelf, State};
use super::stats::LevelStats;
use crate::BlockKey;
use delete::Deletion;
use job::Job;

/// An object that is in the disk tier at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub key: BlockKey,
    /// Bytes at rest.
    pub bytes: u64,
    /// When it was written, in any unit: older ones go first.
    pub age: u64,
}

/// A tier's failures in a row.
#[derive(Default)]
struct Health {
    failures: u32,
    rest_until: Duration,
}

/// An object of a fetch that is not being read yet.
struct Wanted {
    ticket: Ticket,
    index: usize,
    tenant: Tenant,
    key: BlockKey,
    deadline: Duration,
}

/// See the module.
pub struct Machine {
    config: MachineConfig,
    ram: Option<Shelf>,
    disk: Option<Shelf>,
    known: Option<Known>,
    /// What waits for room on disk.
    pending: VecDeque<Parcel>,
    jobs: BTreeMap<JobId, Job>,
    reading: HashMap<BlockKey, JobId>,
    waiting: VecDeque<Wanted>,
    read_bytes: u64,
    moves: usize,
    /// With the bytes each of them keeps in the account.
    completed: VecDeque<(Completed, Tenant, u64)>,
    deletions: BTreeMap<Tenant, Deletion>,
    counts: [LevelStats; 3],
    health: [Health; 3],
    retry_stuck: Duration,
    /// What is in memory and still to go down before a shutdown.
    flushing: VecDeque<BlockKey>,
    actions: Vec<Action>,
    next: u64,
}

impl Machine {
    /// Tiers with what the disk has already. What is too much for the cap is evicted at once.
    pub fn new(now: Duration, config: MachineConfig, mut found: Vec<Found>) -> Machine {
        let mut machine = Machine {
            ram: config.ram.clone().map(Shelf::new),
            disk: config.disk.clone().map(Shelf::new),
            retry_stuck: now + config.rest,
            known: config.remote.as_ref().map(|remote| Known::new(remote.known)),
            config,
            pending: VecDeque::new(),
            jobs: BTreeMap::new(),
            reading: HashMap::new(),
            waiting: VecDeque::new(),
            read_bytes: 0,
            moves: 0,
            completed: VecDeque::new(),
            deletions: BTreeMap::new(),
            counts: Default::default(),
            health: Default::default(),
            flushing: VecDeque::new(),
            actions: Vec::new(),
            next: 0,
        };
        found.sort_unstable_by_key(|f| (f.age, f.key));
        if let Some(disk) = &mut machine.disk {
            for Found { tenant, key, bytes, .. } in found {
                disk.add(key, tenant, bytes, State::Ready, None);
            }
        }
        machine.pump_disk(now);
        machine
    }

    /// What is to be done since this was last asked for.
    pub fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// What was asked for and is there. Its bytes leave the account: they are the caller's now.
    pub fn poll(&mut self, now: Duration) -> Vec<Completed> {
        self.tick(now);
        let mut all = Vec::with_capacity(self.completed.len());
        for (completed, _, bytes) in std::mem::take(&mut self.completed) {
            self.read_bytes -= bytes;
            all.push(completed);
        }
        self.pump_reads(now);
        all
    }

    /// Lets time pass: ends what took too long, pins whose time is over, and tries again what could not be removed.
    pub fn tick(&mut self, now: Duration) {
        self.expire_reads(now);
        for shelf in [&mut self.ram, &mut self.disk].into_iter().flatten() {
            shelf.expire_pins(now);
        }
        self.retry_removals(now);
        self.pump_disk(now);
        self.pump_reads(now);
    }

    fn ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }

    fn start(&mut self, job: Job, action: impl FnOnce(JobId) -> Action) -> JobId {
        self.next += 1;
        let id = JobId(self.next);
        self.jobs.insert(id, job);
        self.actions.push(action(id));
        id
    }

    fn count(&mut self, level: Level) -> &mut LevelStats {
        &mut self.counts[level as usize]
    }

    fn has(&self, level: Level) -> bool {
        match level {
            Level::Ram => self.ram.is_some(),
            Level::Disk => self.disk.is_some(),
            Level::Remote => self.known.is_some(),
        }
    }

    fn rests(&self, now: Duration, level: Level) -> bool {
        self.health[level as usize].rest_until > now
    }

    fn fault(&mut self, now: Duration, fault: &Fault) {
        tracing::warn!(level = fault.level.name(), kind = fault.kind.name(), "{fault}");
        self.count(fault.level).faults.count(fault.kind);
        let health = &mut self.health[fault.level as usize];
        health.failures += 1;
        // Memory has no way to it that could fail; one that is damaged object by object is still better than none.
        if health.failures >= self.config.failures && fault.level != Level::Ram {
            health.failures = 0;
            health.rest_until = now + self.config.rest;
        }
    }

    fn well(&mut self, level: Level) {
        self.health[level as usize].failures = 0;
    }
}
