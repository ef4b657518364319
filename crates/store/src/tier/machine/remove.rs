//! Removing: spoilt objects, victims, leftovers of failed writes, and again what could not be removed.

use std::time::Duration;

use super::{Action, Job, Machine};
use crate::BlockKey;
use crate::tier::fault::{Fault, FaultKind};
use crate::tier::known::Belief;
use crate::tier::object::{Level, Tenant};
use crate::tier::shelf::State;

/// Removals that are tried again at one time.
const RETRIES: usize = 64;

impl Machine {
    /// Begins to remove what lies under a key. On disk its entry is leaving and stays in the account until then.
    pub(super) fn remove(&mut self, level: Level, tenant: Tenant, key: BlockKey) {
        if let (Level::Disk, Some(disk)) = (level, &mut self.disk) {
            disk.set(&key, State::Leaving);
        }
        self.start(Job::Remove { level, tenant, key }, |job| Action::Remove { job, level, tenant, key });
    }

    /// What could not be read is not tried again.
    pub(super) fn discard(&mut self, now: Duration, level: Level, tenant: Tenant, key: BlockKey, why: FaultKind) {
        match level {
            Level::Ram => {
                self.ram.as_mut().and_then(|ram| ram.take(&key));
            }
            Level::Disk if why == FaultKind::Missing => {
                self.disk.as_mut().and_then(|disk| disk.take(&key));
            }
            Level::Disk => self.remove(Level::Disk, tenant, key),
            Level::Remote if why.is_damage() => {
                self.believe(now, key, tenant, Belief::Busy);
                self.remove(Level::Remote, tenant, key);
            }
            Level::Remote => self.believe(now, key, tenant, Belief::Absent),
        }
    }

    pub(super) fn on_removed(&mut self, now: Duration, job: Job, result: Result<(), Fault>) {
        let Job::Remove { level, tenant, key } = job else { return };
        match (level, result) {
            (Level::Ram, _) => (),
            (Level::Disk, Ok(())) => {
                self.disk.as_mut().and_then(|disk| disk.take(&key));
            }
            (Level::Disk, Err(fault)) => {
                self.fault(now, &fault);
                self.disk.as_mut().into_iter().for_each(|disk| disk.set(&key, State::Stuck));
            }
            (Level::Remote, result) => {
                if let Err(fault) = result {
                    self.fault(now, &fault);
                }
                self.believe(now, key, tenant, Belief::Absent);
            }
        }
        self.pump_disk(now);
    }

    /// Tries again, now and then, to remove what could not be.
    pub(super) fn retry_removals(&mut self, now: Duration) {
        if now < self.retry_stuck {
            return;
        }
        self.retry_stuck = now + self.config.rest;
        let Some(disk) = &self.disk else { return };
        let whose = |key: BlockKey| disk.get(&key).map(|entry| (key, entry.tenant));
        let stuck: Vec<_> = disk.stuck().into_iter().filter_map(whose).collect();
        let free = stuck.into_iter().filter(|(_, tenant)| !self.deletions.contains_key(tenant));
        for (key, tenant) in free.take(RETRIES).collect::<Vec<_>>() {
            self.remove(Level::Disk, tenant, key);
        }
    }
}
