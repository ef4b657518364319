//! Entries that are not evicted before a time.

use super::{Shelf, State};
use crate::BlockKey;
use crate::tier::object::Tenant;
use std::time::Duration;

impl Shelf {
    /// Keeps a ready entry until a time, or longer where it was pinned for longer. False where there is none, or pins have their share
    /// of the tier already: a tier full of pins would be no cache.
    pub fn pin(&mut self, tenant: &Tenant, key: &BlockKey, until: Duration) -> bool {
        let most = (self.config.capacity as f64 * self.config.pins.clamp(0.0, 1.0)) as u64;
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if entry.state != State::Ready || entry.tenant != *tenant {
            return false;
        }
        match entry.pinned_until {
            Some(old) if old >= until => return true,
            Some(old) => drop(self.pins.remove(&(old, *key))),
            None if self.pinned + entry.bytes > most => return false,
            None => self.pinned += entry.bytes,
        }
        entry.pinned_until = Some(until);
        self.pins.insert((until, *key))
    }

    /// Lets it go again.
    pub fn unpin(&mut self, key: &BlockKey) {
        if let Some(entry) = self.entries.get_mut(key)
            && let Some(until) = entry.pinned_until.take()
        {
            self.pinned -= entry.bytes;
            self.pins.remove(&(until, *key));
        }
    }

    /// Ends the pins whose time is over.
    pub fn expire_pins(&mut self, now: Duration) {
        while let Some(&(until, key)) = self.pins.first()
            && until <= now
        {
            self.unpin(&key);
        }
    }

    /// Bytes of pinned entries.
    pub fn pinned_bytes(&self) -> u64 {
        self.pinned
    }
}
