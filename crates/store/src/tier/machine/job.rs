//! What is under way.

use super::Ticket;
use crate::BlockKey;
use crate::tier::object::{Level, Tenant};
use std::time::Duration;

/// Who waits for a read.
pub struct Waiter {
    pub ticket: Ticket,
    pub index: usize,
    pub deadline: Duration,
}

/// An action that has no event yet, and what it holds in the account.
pub enum Job {
    Read { level: Level, tenant: Tenant, key: BlockKey, bytes: u64, waiters: Vec<Waiter> },
    Write { level: Level, tenant: Tenant, key: BlockKey, bytes: u64 },
    Remove { level: Level, tenant: Tenant, key: BlockKey },
    Demote { tenant: Tenant, key: BlockKey },
    Probe { tenant: Tenant, keys: Vec<BlockKey>, ticket: Ticket },
    Purge { level: Level, tenant: Tenant },
}

impl Job {
    pub fn tenant(&self) -> &Tenant {
        match self {
            Job::Read { tenant, .. }
            | Job::Write { tenant, .. }
            | Job::Remove { tenant, .. }
            | Job::Demote { tenant, .. }
            | Job::Probe { tenant, .. }
            | Job::Purge { tenant, .. } => tenant,
        }
    }
}
