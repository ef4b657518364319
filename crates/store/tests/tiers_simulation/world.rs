//! A machine on simulated disks with a seed: everything happens in an order the seed chooses, and after every step what must hold is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cachalot_store::BlockKey;
use cachalot_store::tier::backend::{Backend, Backends, Folder};
use cachalot_store::tier::machine::{Action, Event, Outcome};
use cachalot_store::tier::{
    Completed, Level, Machine, MachineConfig, Object, PolicyKind, RemoteConfig, ShelfConfig, Tenant, Ticket,
    WritePolicy,
};

use crate::disk::SimDisk;
use crate::remote::SimRemote;
use crate::rng::Rng;

pub const TENANTS: usize = 3;
pub const KEYS: usize = 40;
pub const RAM: u64 = 20_000;
pub const DISK: u64 = 40_000;
pub const QUOTA: u64 = 15_000;
pub const READS: u64 = 12_000;
pub const QUEUE: u64 = 10_000;
pub const LARGEST: u64 = 2_128;

/// What may go wrong.
#[derive(Clone, Copy)]
pub struct Weather {
    /// Share of calls that fail, when they do.
    pub faults: f64,
    /// Bytes change by themselves.
    pub damage: bool,
    /// The power goes.
    pub crashes: bool,
}

pub struct World {
    pub rng: Rng,
    pub weather: Weather,
    pub config: MachineConfig,
    pub root: PathBuf,
    pub disk: SimDisk,
    pub folder: Folder,
    pub remote: SimRemote,
    pub machine: Machine,
    pub now: Duration,
    pub begun: Vec<Action>,
    pub done: Vec<Event>,
    /// Objects of fetches that have no answer yet, with the time until which one must come.
    pub open: BTreeMap<(Ticket, usize), (Tenant, BlockKey, Duration)>,
    pub deleting: BTreeMap<Ticket, Tenant>,
    /// What a write to disk said it would keep, less what was told to go since.
    pub durable: BTreeSet<(Tenant, BlockKey)>,
    pub pinned: BTreeMap<(Tenant, BlockKey), Duration>,
    /// Files were spoilt since the index was made: lengths may differ.
    pub spoilt: bool,
    /// Since a crash there has been more than there may be.
    pub recovering: bool,
    /// Files of others in the folder.
    pub foreign: u64,
    pub delivered: [u64; 3],
    pub missed: u64,
    pub proofs: u64,
    pub crashes: u64,
    /// A digest of all that happened.
    pub trace: blake3::Hasher,
}

pub fn tenant(n: usize) -> Tenant {
    Tenant::named(&n.to_string())
}

pub fn key(tenant: Tenant, n: usize) -> BlockKey {
    BlockKey(*blake3::Hasher::new().update(&tenant.0).update(&[n as u8]).finalize().as_bytes())
}

/// The bytes of a block follow from its key, as those of real ones do.
pub fn content(key: BlockKey) -> Arc<[u8]> {
    let len = usize::from(key.0[1]) * 2_000 / 255;
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&key.0).finalize_xof().fill(&mut bytes);
    bytes.into()
}

impl World {
    pub fn new(seed: u64, write: WritePolicy, policy: PolicyKind, weather: Weather) -> World {
        let root = PathBuf::from("/sim");
        let disk = SimDisk::new(seed ^ 1, &root);
        let shelf = |capacity| ShelfConfig { policy, quota: Some(QUOTA), queue: QUEUE, ..ShelfConfig::new(capacity) };
        let config = MachineConfig {
            write,
            ram: Some(shelf(RAM)),
            disk: Some(shelf(DISK)),
            remote: Some(RemoteConfig { queue: QUEUE, probe: 8, known: 64, moves: 2, ..RemoteConfig::default() }),
            reads: READS,
            waiting: 64,
            deadline: Duration::from_secs(5),
            failures: 4,
            rest: Duration::from_secs(3),
        };
        let folder = Folder::open(Arc::new(disk.clone()), &root, None).unwrap();
        World {
            rng: Rng(seed),
            weather,
            machine: Machine::new(Duration::ZERO, config.clone(), Vec::new()),
            config,
            root,
            folder,
            disk,
            remote: SimRemote::new(seed ^ 2),
            now: Duration::ZERO,
            begun: Vec::new(),
            done: Vec::new(),
            open: BTreeMap::new(),
            deleting: BTreeMap::new(),
            durable: BTreeSet::new(),
            pinned: BTreeMap::new(),
            spoilt: false,
            recovering: false,
            foreign: 0,
            delivered: [0; 3],
            missed: 0,
            proofs: 0,
            crashes: 0,
            trace: blake3::Hasher::new(),
        }
    }

    fn run_of_keys(&mut self) -> (Tenant, Vec<BlockKey>) {
        let whose = tenant(self.rng.below(TENANTS));
        let (first, len) = (self.rng.below(KEYS), 1 + self.rng.below(6));
        (whose, (first..(first + len).min(KEYS)).map(|n| key(whose, n)).collect())
    }

    /// Something happens.
    pub fn step(&mut self) {
        match self.rng.below(100) {
            0..15 => {
                let (tenant, keys) = self.run_of_keys();
                let object = |key| Object { key, tenant, bytes: content(key) };
                self.machine.store(self.now, keys.into_iter().map(object).collect());
            }
            15..30 => {
                let (tenant, keys) = self.run_of_keys();
                let ticket = self.machine.fetch(self.now, tenant, &keys);
                for (index, key) in keys.into_iter().enumerate() {
                    self.open.insert((ticket, index), (tenant, key, self.now + self.config.deadline));
                }
                if self.rng.chance(0.05) {
                    self.machine.cancel(ticket);
                }
            }
            30..36 => {
                let (tenant, keys) = self.run_of_keys();
                let run = self.machine.lookup(self.now, tenant, &keys);
                assert!(run.levels.len() <= keys.len());
            }
            36..60 => self.execute(),
            60..80 => self.deliver(),
            80..88 => self.poll(),
            88..93 => self.now += Duration::from_millis(self.rng.below(1500) as u64),
            93..95 => self.pin(),
            95 => {
                let tenant = tenant(self.rng.below(TENANTS));
                if self.rng.chance(0.3) {
                    self.pinned.retain(|(whose, _), _| *whose != tenant);
                    let ticket = self.machine.delete_tenant(self.now, tenant);
                    self.deleting.insert(ticket, tenant);
                }
            }
            96..98 => self.change_weather(),
            98 if self.weather.damage => self.damage(),
            99 if self.weather.crashes && self.rng.chance(0.2) => self.crash(),
            _ => self.machine.tick(self.now),
        }
        self.begun.extend(self.machine.actions());
        self.check();
    }

    fn change_weather(&mut self) {
        let share = if self.rng.chance(0.5) { self.weather.faults } else { 0.0 };
        self.disk.set_faults(share);
        self.remote.set_faults(share);
    }

    fn damage(&mut self) {
        let files = self.disk.files();
        if let Some((path, _)) = files.get(self.rng.below(files.len())) {
            self.spoilt = true;
            self.disk.damage(path, &mut self.rng);
            let spoilt = path.file_name().unwrap().to_str().unwrap();
            self.durable.retain(|(_, key)| key.to_string() != spoilt);
        }
        self.remote.damage(&mut self.rng);
    }

    fn pin(&mut self) {
        let (tenant, keys) = self.run_of_keys();
        let time = Duration::from_millis(self.rng.below(4000) as u64);
        if self.rng.chance(0.3) {
            self.machine.unpin(tenant, &keys);
            self.pinned.retain(|(whose, key), _| *whose != tenant || !keys.contains(key));
            return;
        }
        for key in keys {
            if self.machine.pin(self.now, tenant, &[key], time) == 1 {
                let until = self.pinned.entry((tenant, key)).or_default();
                *until = (*until).max(self.now + time);
            }
        }
    }

    /// Carries out one of the actions, whichever.
    pub fn execute(&mut self) {
        if self.begun.is_empty() {
            return;
        }
        let action = self.begun.swap_remove(self.rng.below(self.begun.len()));
        let action = match action {
            // Memory decays, too.
            Action::Read { job, level, tenant, key, bytes, parcel: Some(parcel) }
                if self.weather.damage && parcel.object().bytes.len() > 1 && self.rng.chance(0.05) =>
            {
                let digest = parcel.digest();
                let mut object = parcel.object().clone();
                object.bytes = object.bytes.iter().map(|byte| byte ^ 4).collect();
                let parcel = Some(cachalot_store::tier::Parcel::sealed(object, digest));
                Action::Read { job, level, tenant, key, bytes, parcel }
            }
            other => other,
        };
        match action {
            Action::Write { job, level: Level::Disk, parcel } => {
                let mut group = vec![(job, parcel)];
                while let Some(at) =
                    self.begun.iter().position(|a| matches!(a, Action::Write { level: Level::Disk, .. }))
                    && self.rng.chance(0.5)
                {
                    if let Action::Write { job, parcel, .. } = self.begun.swap_remove(at) {
                        group.push((job, parcel));
                    }
                }
                let parcels: Vec<_> = group.iter().map(|(_, parcel)| parcel.clone()).collect();
                for ((job, parcel), result) in group.into_iter().zip(self.folder.put(&parcels)) {
                    if result.is_ok() {
                        self.durable.insert((parcel.object().tenant, parcel.object().key));
                    }
                    self.done.push(Event { job, outcome: Outcome::Written(result) });
                }
            }
            action => {
                match &action {
                    Action::Remove { level: Level::Disk, tenant, key, .. } => {
                        self.durable.retain(|name| *name != (*tenant, *key))
                    }
                    Action::Purge { level: Level::Disk, tenant, .. } => {
                        self.durable.retain(|(whose, _)| whose != tenant)
                    }
                    _ => (),
                }
                let backends = Backends { disk: Some(&self.folder), remote: Some(&self.remote) };
                let purged = match &action {
                    Action::Purge { level, tenant, .. } => Some((*level, *tenant)),
                    _ => None,
                };
                let event = backends.execute(action);
                if let (Some((level, tenant)), Outcome::Purged(Ok(result))) = (purged, &event.outcome)
                    && result.left.is_empty()
                {
                    let left = match level {
                        Level::Remote => self.remote.of(tenant),
                        _ => self
                            .disk
                            .files()
                            .iter()
                            .filter(|(p, _)| p.starts_with(self.root.join(tenant.to_string())) && !p.ends_with("notes"))
                            .count(),
                    };
                    assert_eq!(left, 0, "said that nothing is left in {level:?}");
                }
                self.done.push(event);
            }
        }
    }

    pub fn deliver(&mut self) {
        if !self.done.is_empty() {
            let event = self.done.swap_remove(self.rng.below(self.done.len()));
            self.machine.handle(self.now, event);
        }
    }

    pub fn poll(&mut self) {
        for completed in self.machine.poll(self.now) {
            self.trace.update(format!("{completed:?}").as_bytes());
            match completed {
                Completed::Fetched { ticket, index, key: got, result } => {
                    let (tenant, key, _) = self.open.remove(&(ticket, index)).expect("one answer to each question");
                    assert_eq!(got, key);
                    match result {
                        Ok((bytes, level)) => {
                            assert!(bytes == content(key), "wrong bytes from {level:?}");
                            assert!(!self.deleting.values().any(|gone| *gone == tenant), "delivered while deleted");
                            self.delivered[level as usize] += 1;
                        }
                        Err(_) => self.missed += 1,
                    }
                }
                Completed::Probed { .. } => (),
                Completed::Deleted { ticket, proof } => {
                    let tenant = self.deleting.remove(&ticket).expect("a deletion that was asked for");
                    assert_eq!(proof.tenant, tenant);
                    if proof.is_complete() {
                        self.proofs += 1;
                    }
                }
            }
        }
        let late = self.open.values().find(|(_, _, deadline)| *deadline <= self.now);
        assert!(late.is_none(), "no answer in time: {late:?}");
    }
}
