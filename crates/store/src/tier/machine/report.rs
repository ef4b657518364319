//! Pins, quotas, what is counted, and going down in order.

use std::time::Duration;

use super::Machine;
use crate::BlockKey;
use crate::tier::config::WritePolicy;
use crate::tier::object::{Level, Tenant};
use crate::tier::stats::Stats;

impl Machine {
    /// Keeps objects from being evicted for a while, wherever they lie in memory or on disk now. Says how many of them are pinned
    /// somewhere; pins have a share of each tier and no more.
    pub fn pin(&mut self, now: Duration, tenant: Tenant, keys: &[BlockKey], time_to_live: Duration) -> usize {
        if self.deletions.contains_key(&tenant) {
            return 0;
        }
        let until = now.saturating_add(time_to_live);
        let mut pin = |key: &&BlockKey| {
            let shelves = [&mut self.ram, &mut self.disk].into_iter().flatten();
            shelves.map(|shelf| shelf.pin(&tenant, key, until)).fold(false, |any, pinned| any | pinned)
        };
        keys.iter().filter(&mut pin).count()
    }

    /// Lets them go again.
    pub fn unpin(&mut self, tenant: Tenant, keys: &[BlockKey]) {
        for shelf in [&mut self.ram, &mut self.disk].into_iter().flatten() {
            for key in keys {
                if shelf.get(key).is_some_and(|entry| entry.tenant == tenant) {
                    shelf.unpin(key);
                }
            }
        }
    }

    /// Sets most bytes of a tenant in memory or on disk, or that the tier's rule holds. The remote tier has no quotas.
    pub fn set_quota(&mut self, now: Duration, level: Level, tenant: Tenant, bytes: Option<u64>) {
        let shelf = match level {
            Level::Ram => &mut self.ram,
            Level::Disk => &mut self.disk,
            Level::Remote => return,
        };
        if let Some(shelf) = shelf {
            shelf.set_quota(tenant, bytes);
        }
        while let Some(key) = self.ram.as_mut().and_then(|ram| ram.excess(now)) {
            self.leave_ram(now, &key);
        }
        self.pump_disk(now);
    }

    /// Bytes of a tenant in memory and on disk.
    pub fn used_by(&self, tenant: &Tenant) -> [u64; 2] {
        [&self.ram, &self.disk].map(|shelf| shelf.as_ref().map_or(0, |shelf| shelf.used_by(tenant)))
    }

    /// Everything that is counted.
    pub fn stats(&self, now: Duration) -> Stats {
        let mut levels = self.counts;
        for (level, shelf) in [(Level::Ram, &self.ram), (Level::Disk, &self.disk)] {
            if let Some(shelf) = shelf {
                let stats = &mut levels[level as usize];
                stats.objects = shelf.len() as u64;
                stats.bytes = shelf.used();
                stats.capacity = shelf.capacity();
                stats.pinned = shelf.pinned_bytes();
                stats.stuck = shelf.stuck_bytes();
            }
        }
        if let Some(known) = &self.known {
            let remote = &mut levels[Level::Remote as usize];
            (remote.objects, remote.bytes) = known.present();
        }
        for level in Level::ALL {
            levels[level as usize].resting = self.rests(now, level);
        }
        let reads = (self.waiting.len() + self.reading.len()) as u64;
        Stats { levels, reads, read_bytes: self.read_bytes, jobs: self.jobs.len() as u64 }
    }

    /// With write-back, begins to take all that is in memory only to the tier below, as before a shutdown. Goes on while events come,
    /// until [`Machine::is_idle`].
    pub fn flush(&mut self, now: Duration) {
        if let (WritePolicy::Back, Some(ram)) = (self.config.write, &self.ram) {
            self.flushing = ram.keys(None).into();
            self.pump_flush(now);
        }
    }

    pub(super) fn pump_flush(&mut self, now: Duration) {
        let (level, most) = match (&self.config.disk, &self.config.remote) {
            (Some(disk), _) => (Level::Disk, disk.queue),
            (None, Some(remote)) => (Level::Remote, remote.queue),
            (None, None) => return self.flushing.clear(),
        };
        while let Some(key) = self.flushing.front() {
            let parcel = self.ram.as_ref().and_then(|ram| ram.get(key)?.parcel.clone());
            if let Some(parcel) = parcel {
                let queued = self.counts[level as usize].queue_bytes;
                if queued > 0 && queued + parcel.size() > most {
                    break;
                }
                self.offer_down(now, &parcel);
            }
            self.flushing.pop_front();
        }
        self.pump_disk(now);
    }

    /// Whether nothing is under way or waits to be.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.pending.is_empty() && self.waiting.is_empty() && self.flushing.is_empty()
    }
}
