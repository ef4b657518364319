//! Tiers with threads: what a scheduler uses.

mod queue;
mod workers;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use workers::{Shared, Workers};

use super::backend::{Backend, Bucket, BucketConfig, Folder, RealDisk, Scan};
use super::config::{MachineConfig, RemoteConfig, ShelfConfig};
use super::fault::Fault;
use super::machine::{Completed, Event, Machine, Run, Ticket};
use super::object::{Level, Object, Tenant};
use super::stats::{Proof, Stats};
use crate::{BlockKey, StoreError};

/// The disk tier.
#[derive(Clone)]
pub struct DiskConfig {
    /// Its folder; made where it is not there. One process uses it at a time.
    pub folder: PathBuf,
    /// Read past the system's page cache; see [`RealDisk::direct`].
    pub direct: bool,
    /// Its cap and the rest.
    pub shelf: ShelfConfig,
}

/// All that a store is made of.
#[derive(Clone)]
pub struct TierConfig {
    /// What holds for all tiers; its own `ram`, `disk` and `remote` are not looked at.
    pub rules: MachineConfig,
    /// Memory.
    pub ram: Option<ShelfConfig>,
    /// Local disk.
    pub disk: Option<DiskConfig>,
    /// Object store.
    pub remote: Option<(BucketConfig, RemoteConfig)>,
    /// Threads that read from disk.
    pub readers: usize,
    /// Requests to the object store at one time.
    pub requests: usize,
    /// Called on another thread when [`Tiers::poll`] may have something; must not block.
    pub wake: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Default for TierConfig {
    fn default() -> TierConfig {
        let rules = MachineConfig::default();
        TierConfig { rules, ram: None, disk: None, remote: None, readers: 4, requests: 16, wake: None }
    }
}

/// Tiers of one scheduler thread. No call waits for I/O but those that say so.
pub struct Tiers {
    machine: Machine,
    events: Receiver<Event>,
    started: Instant,
    workers: Workers,
    /// Held as long as the folder is used; dropped last.
    _lock: Option<File>,
}

impl Tiers {
    /// Opens all tiers, looks at the folder of the disk tier, which takes a while where there is much, and starts the threads.
    ///
    /// # Errors
    /// Where the folder cannot be used, another process uses it, or the URL is none.
    pub fn open(config: TierConfig) -> Result<(Tiers, Scan), StoreError> {
        let mut rules = config.rules;
        (rules.ram, rules.disk, rules.remote) = (config.ram, None, None);
        let (mut scan, mut lock, mut disk, mut remote) = (Scan::default(), None, None, None);
        if let Some(DiskConfig { folder, direct, shelf }) = config.disk {
            let opened = Folder::open(Arc::new(RealDisk { direct }), &folder, shelf.coding.clone())?;
            lock = Some(lock_folder(folder)?);
            scan = opened.scan()?;
            for fault in &scan.faults {
                tracing::warn!("{fault}");
            }
            if scan.foreign_count > 0 {
                tracing::warn!(count = scan.foreign_count, first = ?scan.foreign.first(), "files that are not ours, left alone");
            }
            disk = Some(Arc::new(opened) as Arc<dyn Backend>);
            rules.disk = Some(shelf);
        }
        if let Some((bucket, rule)) = config.remote {
            remote = Some(Arc::new(Bucket::open(bucket)?) as Arc<dyn Backend>);
            rules.remote = Some(rule);
        }
        let (sender, events) = channel();
        let shared = Shared::new(disk, remote, config.wake);
        let workers = Workers::start(shared, &sender, config.readers, config.requests)
            .map_err(|source| StoreError::Io { place: "threads of the store".to_owned(), source })?;
        let machine = Machine::new(Duration::ZERO, rules, std::mem::take(&mut scan.found));
        let mut tiers = Tiers { machine, events, started: Instant::now(), workers, _lock: lock };
        tiers.turn();
        Ok((tiers, scan))
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes in what threads have done and hands out what is to be done.
    fn turn(&mut self) {
        let now = self.now();
        while let Ok(event) = self.events.try_recv() {
            self.machine.handle(now, event);
        }
        for action in self.machine.actions() {
            self.workers.send(action);
        }
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut Machine, Duration) -> T) -> T {
        self.turn();
        let now = self.now();
        let result = call(&mut self.machine, now);
        self.turn();
        result
    }

    /// How many blocks from the front exist, and in which tier. See [`Machine::lookup`].
    pub fn lookup(&mut self, tenant: Tenant, keys: &[BlockKey]) -> Run {
        self.call(|machine, now| machine.lookup(now, tenant, keys))
    }

    /// Whether memory or disk has it. See [`Machine::is_near`].
    pub fn is_near(&mut self, tenant: Tenant, key: BlockKey) -> bool {
        self.call(|machine, now| machine.is_near(now, tenant, &key))
    }

    /// Begins to read. See [`Machine::fetch`].
    pub fn fetch(&mut self, tenant: Tenant, keys: &[BlockKey]) -> Ticket {
        self.call(|machine, now| machine.fetch(now, tenant, keys))
    }

    /// Gives up a fetch. See [`Machine::cancel`].
    pub fn cancel(&mut self, ticket: Ticket) {
        self.call(|machine, _| machine.cancel(ticket));
    }

    /// What was asked for and is there. To be called now and then even if nothing is: time passes here.
    pub fn poll(&mut self) -> Vec<Completed> {
        self.call(Machine::poll)
    }

    /// Takes objects, in the order of their chain. See [`Machine::store`].
    pub fn store(&mut self, run: Vec<Object>) {
        self.call(|machine, now| machine.store(now, run));
    }

    /// Keeps objects for a while; says how many. See [`Machine::pin`].
    pub fn pin(&mut self, tenant: Tenant, keys: &[BlockKey], time_to_live: Duration) -> usize {
        self.call(|machine, now| machine.pin(now, tenant, keys, time_to_live))
    }

    /// Lets them go again.
    pub fn unpin(&mut self, tenant: Tenant, keys: &[BlockKey]) {
        self.call(|machine, _| machine.unpin(tenant, keys));
    }

    /// Sets a tenant's quota. See [`Machine::set_quota`].
    pub fn set_quota(&mut self, level: Level, tenant: Tenant, bytes: Option<u64>) {
        self.call(|machine, now| machine.set_quota(now, level, tenant, bytes));
    }

    /// Bytes of a tenant in memory and on disk.
    pub fn used_by(&self, tenant: &Tenant) -> [u64; 2] {
        self.machine.used_by(tenant)
    }

    /// Begins to remove all of a tenant; [`Completed::Deleted`] brings the proof. See [`Machine::delete_tenant`].
    pub fn delete_tenant(&mut self, tenant: Tenant) -> Ticket {
        self.call(|machine, now| machine.delete_tenant(now, tenant))
    }

    /// Everything that is counted.
    pub fn stats(&mut self) -> Stats {
        self.call(|machine, now| machine.stats(now))
    }

    /// Waits until a thread has done something, or so long. For those who have nothing else to do.
    pub fn wait(&mut self, most: Duration) {
        self.turn();
        if let Ok(event) = self.events.recv_timeout(most) {
            let now = self.now();
            self.machine.handle(now, event);
        }
        self.turn();
    }

    /// Waits until nothing is under way, or so long. False where something still is.
    pub fn settle(&mut self, most: Duration) -> bool {
        let end = self.now() + most;
        self.turn();
        while !self.machine.is_idle() {
            let now = self.now();
            if now >= end {
                return false;
            }
            self.wait((end - now).min(Duration::from_millis(50)));
            let now = self.now();
            self.machine.tick(now);
        }
        true
    }

    /// Shuts down in order: what is in memory only goes down with write-back, and what is being written is written; waits for that, at
    /// most so long. Dropping instead loses what is not written yet, and nothing else.
    pub fn close(mut self, most: Duration) -> (bool, Stats) {
        self.call(Machine::flush);
        let settled = self.settle(most);
        (settled, self.stats())
    }

    /// Deletes a tenant and waits for the proof, at most so long; what else completes meanwhile is handed to `others`.
    pub fn delete_tenant_now(
        &mut self,
        tenant: Tenant,
        most: Duration,
        mut others: impl FnMut(Completed),
    ) -> Option<Proof> {
        let mine = self.delete_tenant(tenant);
        let end = self.now() + most;
        let mut found = None;
        loop {
            for completed in self.poll() {
                match completed {
                    Completed::Deleted { ticket, proof } if ticket == mine => found = Some(proof),
                    other => others(other),
                }
            }
            let now = self.now();
            if found.is_some() || now >= end {
                return found;
            }
            self.wait((end - now).min(Duration::from_millis(50)));
        }
    }
}

/// Two processes in one folder would each evict what the other believes to have.
fn lock_folder(folder: PathBuf) -> Result<File, Fault> {
    let path = folder.join(super::backend::LOCK);
    let fault = |e: &std::io::Error| Fault::of_io(path.display().to_string(), e);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| fault(&e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::Error(e)) => Err(fault(&e)),
        Err(std::fs::TryLockError::WouldBlock) => Err(Fault {
            what: "another process uses this folder; give each its own".to_owned(),
            ..fault(&std::io::ErrorKind::WouldBlock.into())
        }),
    }
}
