//! What carries out a [`machine`](super::machine)'s actions. All of it may block and runs on threads of its own.

mod bucket;
pub mod disk;
mod folder;
mod layout;
mod real;
mod scan;

pub use bucket::{Bucket, BucketConfig};
pub use disk::Disk;
pub use folder::Folder;
pub(super) use layout::LOCK;
pub use real::RealDisk;
pub use scan::Scan;

use super::fault::{Fault, FaultKind};
use super::machine::{Action, Event, Outcome, Purged};
use super::object::{Level, Parcel, Tenant};
use crate::BlockKey;

/// A slower tier, as bytes under keys.
pub trait Backend: Send + Sync {
    /// Writes parcels; each is there whole and durably when its result says so, with the bytes it takes. A failed one may leave something
    /// that `remove` removes.
    fn put(&self, parcels: &[Parcel]) -> Vec<Result<u64, Fault>>;

    /// Reads and verifies an object that takes so many bytes.
    ///
    /// # Errors
    /// Anything that is not the very object.
    fn get(&self, tenant: Tenant, key: BlockKey, bytes: u64) -> Result<Parcel, Fault>;

    /// Removes whatever there is of an object; nothing is no fault.
    ///
    /// # Errors
    /// Where something is left.
    fn remove(&self, tenant: Tenant, key: BlockKey) -> Result<(), Fault>;

    /// For each key from the front the bytes it takes, where it is there; may end behind one that is not.
    fn probe(&self, tenant: Tenant, keys: &[BlockKey]) -> Vec<Result<Option<u64>, Fault>>;

    /// Removes all of a tenant, then lists what is left.
    ///
    /// # Errors
    /// Where the end could not be looked at.
    fn purge(&self, tenant: Tenant) -> Result<Purged, Fault>;
}

/// The backends of a machine.
#[derive(Clone, Copy, Default)]
pub struct Backends<'a> {
    /// Local disk.
    pub disk: Option<&'a dyn Backend>,
    /// Object store.
    pub remote: Option<&'a dyn Backend>,
}

impl<'a> Backends<'a> {
    fn of(&self, level: Level) -> Result<&'a dyn Backend, Fault> {
        let backend = match level {
            Level::Ram => None,
            Level::Disk => self.disk,
            Level::Remote => self.remote,
        };
        let absent =
            || Fault { kind: FaultKind::Io, level, place: "tier".to_owned(), what: "there is none".to_owned() };
        backend.ok_or_else(absent)
    }

    /// Carries out one action.
    pub fn execute(&self, action: Action) -> Event {
        let job = action.job();
        let outcome = match action {
            Action::Read { parcel: Some(parcel), level: Level::Ram, key, .. } => {
                Outcome::Read(if parcel.is_whole() { Ok(parcel) } else { Err(decayed(key)) })
            }
            Action::Read { level, tenant, key, bytes, .. } => {
                Outcome::Read(self.of(level).and_then(|backend| backend.get(tenant, key, bytes)))
            }
            Action::Write { level: Level::Ram, parcel, .. } => {
                parcel.digest();
                Outcome::Written(Ok(parcel.size()))
            }
            Action::Write { level, parcel, .. } => {
                let put = |backend: &dyn Backend| backend.put(&[parcel]).pop();
                Outcome::Written(self.of(level).and_then(|backend| put(backend).unwrap_or_else(|| Err(silent(level)))))
            }
            Action::Remove { level, tenant, key, .. } => {
                Outcome::Removed(self.of(level).and_then(|backend| backend.remove(tenant, key)))
            }
            Action::Demote { tenant, key, bytes, .. } => Outcome::Demoted(self.demote(tenant, key, bytes)),
            Action::Probe { tenant, keys, .. } => Outcome::Probed(match self.of(Level::Remote) {
                Ok(remote) => remote.probe(tenant, &keys),
                Err(fault) => vec![Err(fault)],
            }),
            Action::Purge { level, tenant, .. } => Outcome::Purged(self.of(level).and_then(|b| b.purge(tenant))),
        };
        Event { job, outcome }
    }

    fn demote(&self, tenant: Tenant, key: BlockKey, bytes: u64) -> Result<u64, Fault> {
        let parcel = self.of(Level::Disk)?.get(tenant, key, bytes)?;
        let put = self.of(Level::Remote)?.put(&[parcel]).pop();
        put.unwrap_or_else(|| Err(silent(Level::Remote)))
    }
}

fn decayed(key: BlockKey) -> Fault {
    let what = "bytes changed in memory".to_owned();
    Fault { kind: FaultKind::Corrupt, level: Level::Ram, place: key.to_string(), what }
}

/// A backend that gave fewer results than it was asked for.
fn silent(level: Level) -> Fault {
    Fault { kind: FaultKind::Io, level, place: "tier".to_owned(), what: "no result".to_owned() }
}
