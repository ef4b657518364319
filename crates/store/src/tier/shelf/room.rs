//! Who goes when something comes.

use super::{Shelf, State};
use crate::BlockKey;
use crate::tier::object::Tenant;
use std::time::Duration;

/// Whether there is room for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Fits,
    /// When this one has gone. It is `Leaving` now.
    Evict(BlockKey),
    /// When what is leaving has left.
    Later,
    /// No: too large, or nothing may go.
    Never,
}

impl Shelf {
    /// Makes a step towards room for `bytes` of a tenant.
    ///
    /// A tenant over its quota loses its own; in a full tier loses who has most of its quota, which is whoever stores when all have alike.
    /// So one who streams through the tier ends up with no more than a fair share of it. Where nothing may be evicted yet, it is `Later`.
    pub fn room(&mut self, now: Duration, tenant: &Tenant, bytes: u64, may_evict: bool) -> Room {
        self.expire_pins(now);
        let quota = self.quota(tenant);
        if bytes > quota {
            return Room::Never;
        }
        let (used, leaving) = self.tenants.get(tenant).map_or((0, 0), |account| (account.used, account.leaving));
        if used - leaving + bytes > quota {
            if !may_evict {
                return Room::Later;
            }
            return match self.victim_of(tenant) {
                Some(key) => Room::Evict(key),
                None if leaving > 0 => Room::Later,
                None => Room::Never,
            };
        }
        if self.used - self.leaving + bytes > self.config.capacity {
            if !may_evict {
                return Room::Later;
            }
            return match self.victim() {
                Some(key) => Room::Evict(key),
                None if self.leaving > 0 => Room::Later,
                None => Room::Never,
            };
        }
        match used + bytes > quota || self.used + bytes > self.config.capacity {
            true => Room::Later,
            false => Room::Fits,
        }
    }

    /// Whether it, or a tenant, holds more than it may, as after a restart with a smaller cap, or a power failure that brought back what had
    /// been removed, or with a new quota; then the next to go.
    pub fn excess(&mut self, now: Duration) -> Option<BlockKey> {
        self.expire_pins(now);
        if self.used - self.leaving > self.config.capacity {
            return self.victim();
        }
        if !std::mem::take(&mut self.audit) {
            return None;
        }
        let mut over: Vec<_> =
            self.tenants.iter().filter(|(_, a)| !a.frozen).map(|(t, a)| (*t, a.used - a.leaving)).collect();
        over.retain(|(tenant, used)| *used > self.quota(tenant));
        over.sort_unstable();
        let victim = over.iter().find_map(|(tenant, _)| self.victim_of(tenant));
        // What is pinned or read is looked at again.
        self.audit = !over.is_empty();
        victim
    }

    fn victim(&mut self) -> Option<BlockKey> {
        self.fullest().iter().find_map(|tenant| self.victim_of(tenant))
    }

    fn victim_of(&mut self, tenant: &Tenant) -> Option<BlockKey> {
        let entries = &self.entries;
        let may_go = |key: &BlockKey| {
            let entry = entries.get(key);
            entry.is_some_and(|e| e.state == State::Ready && !e.leased && e.pinned_until.is_none())
        };
        let account = self.tenants.get_mut(tenant).filter(|account| !account.frozen)?;
        let key = account.policy.evict(&mut { may_go })?;
        self.set(&key, State::Leaving);
        Some(key)
    }
}
