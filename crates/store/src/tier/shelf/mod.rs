//! The index and the account of one tier with a cap: what is there, whose it is, what may go. Touches no byte of it.
//!
//! An entry is `Writing → Ready → Leaving → gone`. Only `Ready` is visible. Every state is in the account, from before the first
//! byte is written until after the last one is removed; `Stuck` is what could not be removed.

mod pins;
mod room;
mod tenants;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

pub use room::Room;
use tenants::Account;

use super::config::ShelfConfig;
use super::object::{Parcel, Tenant};
use crate::BlockKey;

/// Where an entry is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its most bytes are reserved; nobody sees it.
    Writing,
    /// It can be read.
    Ready,
    /// It is being removed, or taken to the tier below and then removed.
    Leaving,
    /// It could not be removed; its bytes stay in the account.
    Stuck,
}

/// One object of a tier.
pub struct Entry {
    /// Whose it is.
    pub tenant: Tenant,
    /// In the account: at rest, header and all.
    pub bytes: u64,
    /// See [`State`].
    pub state: State,
    /// Somebody reads it: it is not removed meanwhile.
    pub leased: bool,
    /// It is not evicted before.
    pub pinned_until: Option<Duration>,
    /// The object itself, in memory.
    pub parcel: Option<Parcel>,
}

/// See the module.
pub struct Shelf {
    config: ShelfConfig,
    entries: HashMap<BlockKey, Entry>,
    tenants: HashMap<Tenant, Account>,
    used: u64,
    leaving: u64,
    pins: BTreeSet<(Duration, BlockKey)>,
    pinned: u64,
    stuck: BTreeSet<BlockKey>,
    /// Somebody may hold more than its quota.
    audit: bool,
}

impl Shelf {
    /// An empty one.
    pub fn new(config: ShelfConfig) -> Shelf {
        Shelf {
            config,
            entries: HashMap::new(),
            tenants: HashMap::new(),
            used: 0,
            leaving: 0,
            pins: BTreeSet::new(),
            pinned: 0,
            stuck: BTreeSet::new(),
            audit: true,
        }
    }

    /// Bytes of all entries.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Its cap.
    pub fn capacity(&self) -> u64 {
        self.config.capacity
    }

    /// Number of entries in any state.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of one tenant.
    pub fn used_by(&self, tenant: &Tenant) -> u64 {
        self.tenants.get(tenant).map_or(0, |account| account.used)
    }

    /// Bytes of what could not be removed.
    pub fn stuck_bytes(&self) -> u64 {
        self.stuck.iter().filter_map(|key| self.entries.get(key)).map(|entry| entry.bytes).sum()
    }

    /// What could not be removed, in order of keys.
    pub fn stuck(&self) -> Vec<BlockKey> {
        self.stuck.iter().copied().collect()
    }

    /// An entry in any state.
    pub fn get(&self, key: &BlockKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// An entry that can be read, where it is this tenant's.
    pub fn ready(&self, tenant: &Tenant, key: &BlockKey) -> Option<&Entry> {
        self.entries.get(key).filter(|entry| entry.state == State::Ready && entry.tenant == *tenant)
    }

    /// All keys of a tenant, or of all, in their order.
    pub fn keys(&self, tenant: Option<&Tenant>) -> Vec<BlockKey> {
        let wanted = |entry: &Entry| tenant.is_none_or(|tenant| entry.tenant == *tenant);
        let mut keys: Vec<_> = self.entries.iter().filter(|(_, e)| wanted(e)).map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    /// Somebody wanted it.
    pub fn touch(&mut self, key: &BlockKey) {
        if let Some(entry) = self.entries.get(key)
            && let Some(account) = self.tenants.get_mut(&entry.tenant)
        {
            account.policy.touch(key);
        }
    }

    /// Takes an entry into the account. What was there under this key is replaced.
    pub fn add(&mut self, key: BlockKey, tenant: Tenant, bytes: u64, state: State, parcel: Option<Parcel>) {
        self.take(&key);
        self.used += bytes;
        let policy = self.config.policy;
        let account = self.tenants.entry(tenant).or_insert_with(|| Account::new(policy));
        account.used += bytes;
        account.policy.insert(key, bytes);
        let entry = Entry { tenant, bytes, state: State::Ready, leased: false, pinned_until: None, parcel };
        self.entries.insert(key, entry);
        self.set(&key, state);
    }

    /// Corrects the size of an entry.
    pub fn resize(&mut self, key: &BlockKey, bytes: u64) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let old = std::mem::replace(&mut entry.bytes, bytes);
        let (leaving, pinned) = (entry.state == State::Leaving, entry.pinned_until.is_some());
        let move_to = |sum: &mut u64| *sum = *sum - old + bytes;
        move_to(&mut self.used);
        let account = self.tenants.get_mut(&entry.tenant);
        if leaving {
            move_to(&mut self.leaving);
        }
        if pinned {
            move_to(&mut self.pinned);
        }
        if let Some(account) = account {
            move_to(&mut account.used);
            if leaving {
                move_to(&mut account.leaving);
            }
        }
    }

    /// Says that somebody reads it, or no longer does.
    pub fn lease(&mut self, key: &BlockKey, leased: bool) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.leased = leased;
        }
    }

    /// Moves an entry on its way.
    pub fn set(&mut self, key: &BlockKey, state: State) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let (old, bytes, tenant) = (std::mem::replace(&mut entry.state, state), entry.bytes, entry.tenant);
        if matches!(state, State::Leaving | State::Stuck) {
            self.unpin(key);
        }
        let Some(account) = self.tenants.get_mut(&tenant) else { return };
        if old == State::Leaving {
            self.leaving -= bytes;
            account.leaving -= bytes;
        }
        match state {
            State::Leaving => {
                self.leaving += bytes;
                account.leaving += bytes;
                account.policy.remove(key);
            }
            State::Stuck => account.policy.remove(key),
            State::Ready if old == State::Leaving => account.policy.insert(*key, bytes),
            State::Ready | State::Writing => (),
        }
        match state {
            State::Stuck => self.stuck.insert(*key),
            _ => self.stuck.remove(key),
        };
    }

    /// It is gone: its bytes leave the account.
    pub fn take(&mut self, key: &BlockKey) -> Option<Entry> {
        self.unpin(key);
        let entry = self.entries.remove(key)?;
        self.stuck.remove(key);
        self.used -= entry.bytes;
        let leaving = if entry.state == State::Leaving { entry.bytes } else { 0 };
        self.leaving -= leaving;
        if let Some(account) = self.tenants.get_mut(&entry.tenant) {
            account.used -= entry.bytes;
            account.leaving -= leaving;
            account.policy.remove(key);
            // An account without bytes is kept only for what its policy remembers; not for ever, for ever more tenants.
            if account.used == 0 && !account.frozen {
                self.tenants.remove(&entry.tenant);
            }
        }
        Some(entry)
    }
}
