//! Who may change a session, and who may remove all of a tenant.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::SessionName;

/// The right to change one session. Whoever wants it waits for whoever has it.
pub struct Guard {
    pub(super) tenant: String,
    pub(super) name: SessionName,
    _session: OwnedMutexGuard<()>,
    _tenant: OwnedRwLockReadGuard<()>,
}

/// Locks that somebody holds or waits for, by what they are of.
type Held<K, T> = Mutex<HashMap<K, Weak<T>>>;

#[derive(Default)]
pub(super) struct Locks {
    sessions: Held<(String, SessionName), AsyncMutex<()>>,
    tenants: Held<String, RwLock<()>>,
}

fn lock_of<K: Hash + Eq, T: Default>(held: &Held<K, T>, key: K) -> Arc<T> {
    let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
    held.retain(|_, lock| lock.strong_count() > 0);
    let place = held.entry(key).or_default();
    place.upgrade().unwrap_or_else(|| {
        let lock = Arc::default();
        *place = Arc::downgrade(&lock);
        lock
    })
}

impl Locks {
    pub async fn session(&self, tenant: &str, name: &SessionName) -> Guard {
        let session = lock_of(&self.sessions, (tenant.to_owned(), name.clone())).lock_owned().await;
        // In this order: who waits for a session must not hold up a deletion, which waits for who has one.
        let whole = lock_of(&self.tenants, tenant.to_owned()).read_owned().await;
        Guard { tenant: tenant.to_owned(), name: name.clone(), _session: session, _tenant: whole }
    }

    /// Waits for all who change a session of the tenant; those who come later wait for what this gives.
    pub async fn tenant(&self, tenant: &str) -> OwnedRwLockWriteGuard<()> {
        lock_of(&self.tenants, tenant.to_owned()).write_owned().await
    }

    pub fn is_busy(&self, tenant: &str, name: &SessionName) -> bool {
        let held = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&(tenant.to_owned(), name.clone())).is_some_and(|lock| lock.strong_count() > 0)
    }
}
