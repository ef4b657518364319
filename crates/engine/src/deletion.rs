//! Deleting a tenant: what was removed where, and what a look afterwards still found.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cachalot_store::tier::{Level, Proof, Removed, Tenant};

/// What deleting a tenant came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Requests, and comparisons of answers, that were ended.
    pub requests: usize,
    /// Blocks of the pool. Their bytes are those of pages.
    pub pool: Removed,
    /// The tiers below it, where there are some.
    pub tiers: Option<Proof>,
    /// Files of named sessions, where some are kept.
    pub sessions: Option<Removed>,
}

impl Deletion {
    /// By place: `pool`, the tiers there are, fastest first, and `sessions`.
    pub fn places(&self) -> Vec<(&'static str, &Removed)> {
        let mut places = vec![("pool", &self.pool)];
        for level in [Level::Ram, Level::Disk, Level::Remote] {
            let removed = self.tiers.as_ref().and_then(|proof| proof.levels[level as usize].as_ref());
            places.extend(removed.map(|removed| (level.name(), removed)));
        }
        places.extend(self.sessions.as_ref().map(|removed| ("sessions", removed)));
        places
    }

    /// Whether every place was looked at after the removal, and nothing found.
    pub fn is_complete(&self) -> bool {
        self.places().iter().all(|(_, removed)| removed.is_clean())
    }
}

/// Tenants whose requests are refused at the moment, each with how often that was asked for.
#[derive(Clone, Default)]
pub(crate) struct Doors(Arc<Mutex<HashMap<Tenant, usize>>>);

/// As long as it lives, no request of its tenant is taken.
#[must_use]
pub struct Closed {
    doors: Doors,
    tenant: Tenant,
}

impl Doors {
    /// To be held while a request is sent in, so that none comes behind what is asked for after [`Doors::close`].
    pub fn look(&self) -> MutexGuard<'_, HashMap<Tenant, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn close(&self, tenant: Tenant) -> Closed {
        *self.look().entry(tenant).or_default() += 1;
        Closed { doors: self.clone(), tenant }
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        let mut closed = self.doors.look();
        if let Some(times) = closed.get_mut(&self.tenant) {
            *times -= 1;
            if *times == 0 {
                closed.remove(&self.tenant);
            }
        }
    }
}
