//! How large tiers are, and how long things may take.

use super::policy::PolicyKind;
use super::{Coding, Tenant};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// When an object goes to slower tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WritePolicy {
    /// When it is stored: all tiers at once.
    #[default]
    Through,
    /// When the tier above evicts it, and when the store is shut down in order.
    Back,
}

/// A tier with a cap.
#[derive(Clone)]
pub struct ShelfConfig {
    /// Most bytes, headers of objects included.
    pub capacity: u64,
    /// What goes first.
    pub policy: PolicyKind,
    /// Most bytes of a tenant that has no quota of its own; `None` for all of the capacity.
    pub quota: Option<u64>,
    /// Quotas of single tenants.
    pub quotas: HashMap<Tenant, u64>,
    /// Share of the capacity that can be pinned.
    pub pins: f64,
    /// Most bytes that wait to be written to it, and are.
    pub queue: u64,
    /// How objects are written; `None` for as they are. Not for memory, which keeps them as they come.
    pub coding: Option<Arc<dyn Coding>>,
}

impl ShelfConfig {
    /// A cap, no quotas, half of it for pins, and a queue of a quarter of it but at most 256 MiB.
    pub fn new(capacity: u64) -> ShelfConfig {
        ShelfConfig {
            capacity,
            policy: PolicyKind::default(),
            quota: None,
            quotas: HashMap::new(),
            pins: 0.5,
            queue: (capacity / 4).min(256 << 20),
            coding: None,
        }
    }
}

/// The remote tier. It has no cap: what it keeps, and for how long, is the bucket's rule.
#[derive(Clone)]
pub struct RemoteConfig {
    /// Most bytes that wait to be written to it, and are.
    pub queue: u64,
    /// Most objects it is asked for in one probe.
    pub probe: usize,
    /// Most objects of which it is remembered whether they are there.
    pub known: usize,
    /// How long it is believed that an object is there.
    pub present: Duration,
    /// How long it is believed that one is not.
    pub absent: Duration,
    /// Most objects that are on their way from the tier above at one time, as it evicts them.
    pub moves: usize,
}

impl Default for RemoteConfig {
    fn default() -> RemoteConfig {
        RemoteConfig {
            queue: 256 << 20,
            probe: 64,
            known: 1 << 20,
            present: Duration::from_secs(600),
            absent: Duration::from_secs(30),
            moves: 8,
        }
    }
}

/// All tiers. A tier that is `None` is not there.
#[derive(Clone)]
pub struct MachineConfig {
    /// When objects go down.
    pub write: WritePolicy,
    /// Memory.
    pub ram: Option<ShelfConfig>,
    /// Local disk.
    pub disk: Option<ShelfConfig>,
    /// Object store.
    pub remote: Option<RemoteConfig>,
    /// Most bytes that are being read, or were read and not yet taken. One object is read however large.
    pub reads: u64,
    /// Most objects that wait to be read.
    pub waiting: usize,
    /// How long a fetch may take before its objects count as missing.
    pub deadline: Duration,
    /// A tier that fails so often in a row is left alone for `rest`.
    pub failures: u32,
    /// See `failures`; also how long until something that could not be removed is tried again.
    pub rest: Duration,
}

impl Default for MachineConfig {
    fn default() -> MachineConfig {
        MachineConfig {
            write: WritePolicy::default(),
            ram: None,
            disk: None,
            remote: None,
            reads: 512 << 20,
            waiting: 1 << 16,
            deadline: Duration::from_secs(5),
            failures: 8,
            rest: Duration::from_secs(10),
        }
    }
}
