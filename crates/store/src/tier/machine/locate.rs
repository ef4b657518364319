//! Where objects are, as far as is known without asking anybody.

use super::{Action, Job, Machine, Run};
use crate::BlockKey;
use crate::tier::known::Belief;
use crate::tier::object::{Level, Tenant};
use std::time::Duration;

impl Machine {
    /// How many blocks from the front exist and in which tier: from the index, at once. Where the run ends before something that the
    /// remote tier may have, that is asked for what follows, in the background.
    pub fn lookup(&mut self, now: Duration, tenant: Tenant, keys: &[BlockKey]) -> Run {
        if self.deletions.contains_key(&tenant) {
            return Run::default();
        }
        let levels: Vec<_> =
            keys.iter().map_while(|key| self.locate(now, &tenant, key).map(|(level, _)| level)).collect();
        let probe = self.probe(now, tenant, &keys[levels.len()..]);
        Run { levels, probe }
    }

    /// Whether memory or disk has an object. The remote tier is not asked.
    pub fn is_near(&self, now: Duration, tenant: Tenant, key: &BlockKey) -> bool {
        let located = if self.deletions.contains_key(&tenant) { None } else { self.locate(now, &tenant, key) };
        located.is_some_and(|(level, _)| level < Level::Remote)
    }

    /// The fastest tier that has an object and its bytes there.
    pub(super) fn locate(&self, now: Duration, tenant: &Tenant, key: &BlockKey) -> Option<(Level, u64)> {
        if let Some(entry) = self.ram.as_ref().and_then(|ram| ram.ready(tenant, key)) {
            return Some((Level::Ram, entry.bytes));
        }
        if !self.rests(now, Level::Disk)
            && let Some(entry) = self.disk.as_ref().and_then(|disk| disk.ready(tenant, key))
        {
            return Some((Level::Disk, entry.bytes));
        }
        match self.known.as_ref()?.get(now, tenant, key)? {
            Belief::Present(bytes) if !self.rests(now, Level::Remote) => Some((Level::Remote, bytes)),
            _ => None,
        }
    }

    /// Asks the remote tier, where the first of these may be there and nobody asks already.
    fn probe(&mut self, now: Duration, tenant: Tenant, keys: &[BlockKey]) -> Option<super::Ticket> {
        let most = self.config.remote.as_ref()?.probe;
        if self.rests(now, Level::Remote) {
            return None;
        }
        let known = self.known.as_ref()?;
        let first = keys.first()?;
        match known.get(now, &tenant, first) {
            Some(Belief::Busy) => {
                // Somebody may be asking for it; then that is the one to wait for.
                return self.jobs.values().find_map(|job| match job {
                    Job::Probe { keys, ticket, .. } if keys.contains(first) => Some(*ticket),
                    _ => None,
                });
            }
            Some(_) => return None,
            None => (),
        }
        let unknown = keys.iter().take(most).filter(|key| known.get(now, &tenant, key).is_none());
        let mut unknown: Vec<_> = unknown.copied().collect();
        // The same key twice would be asked for twice.
        let mut seen = std::collections::HashSet::new();
        unknown.retain(|key| seen.insert(*key));
        for key in &unknown {
            self.believe(now, *key, tenant, Belief::Busy);
        }
        let ticket = self.ticket();
        let asked = unknown.clone();
        self.start(Job::Probe { tenant, keys: unknown, ticket }, |job| Action::Probe { job, tenant, keys: asked });
        Some(ticket)
    }

    pub(super) fn believe(&mut self, now: Duration, key: BlockKey, tenant: Tenant, belief: Belief) {
        let (Some(known), Some(remote)) = (&mut self.known, &self.config.remote) else { return };
        let until = match belief {
            Belief::Present(_) => now + remote.present,
            Belief::Absent | Belief::Busy => now + remote.absent,
        };
        known.set(key, tenant, belief, until);
    }
}
