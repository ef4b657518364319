//! Reading: what is wanted waits for room in the account, is read once for all who want it, and is delivered or missed.

use std::sync::Arc;
use std::time::Duration;

use super::job::{Job, Waiter};
use super::{Action, Completed, Machine, Miss, Ticket, Wanted};
use crate::BlockKey;
use crate::tier::fault::{Fault, FaultKind};
use crate::tier::object::{Level, Parcel, Tenant};

impl Machine {
    /// Begins to read objects. Each of them comes out of [`Machine::poll`], or that it is missing.
    pub fn fetch(&mut self, now: Duration, tenant: Tenant, keys: &[BlockKey]) -> Ticket {
        let ticket = self.ticket();
        // From the end, so that of a chain of blocks the first are the last to go: without them the others are of no use.
        for key in keys.iter().rev() {
            for shelf in [&mut self.ram, &mut self.disk].into_iter().flatten() {
                if shelf.ready(&tenant, key).is_some() {
                    shelf.touch(key);
                }
            }
        }
        let deadline = now + self.config.deadline;
        for (index, key) in keys.iter().enumerate() {
            let wanted = Wanted { ticket, index, tenant, key: *key, deadline };
            if self.deletions.contains_key(&tenant) {
                self.miss(wanted, Miss::Deleted);
            } else if self.waiting.len() >= self.config.waiting {
                self.miss(wanted, Miss::Busy);
            } else {
                self.waiting.push_back(wanted);
            }
        }
        self.pump_reads(now);
        ticket
    }

    /// Gives up a fetch: what is not read yet comes out as missing. What is being read is kept for others.
    pub fn cancel(&mut self, ticket: Ticket) {
        let (gone, stay) = std::mem::take(&mut self.waiting).into_iter().partition(|wanted| wanted.ticket == ticket);
        self.waiting = stay;
        let gone: Vec<Wanted> = Vec::from(gone);
        gone.into_iter().for_each(|wanted| self.miss(wanted, Miss::Cancelled));
        self.drop_waiters(Miss::Cancelled, |_, waiter| waiter.ticket == ticket);
    }

    /// Begins reads while the account has room.
    pub(super) fn pump_reads(&mut self, now: Duration) {
        while let Some(wanted) = self.waiting.pop_front() {
            let Wanted { ticket, index, tenant, key, deadline } = wanted;
            if let Some(id) = self.reading.get(&key)
                && let Some(Job::Read { waiters, tenant: whose, .. }) = self.jobs.get_mut(id)
                && *whose == tenant
            {
                waiters.push(Waiter { ticket, index, deadline });
                continue;
            }
            let Some((level, bytes)) = self.locate(now, &tenant, &key) else {
                self.count_misses(None, 1);
                self.miss(wanted, Miss::Absent);
                continue;
            };
            if self.read_bytes > 0 && self.read_bytes + bytes > self.config.reads {
                self.waiting.push_front(wanted);
                break;
            }
            self.read_bytes += bytes;
            let mut parcel = None;
            match level {
                Level::Ram => parcel = self.ram.as_ref().and_then(|ram| ram.get(&key)?.parcel.clone()),
                Level::Disk => self.disk.as_mut().into_iter().for_each(|disk| disk.lease(&key, true)),
                Level::Remote => (),
            }
            let waiters = vec![Waiter { ticket, index, deadline }];
            let read = Job::Read { level, tenant, key, bytes, waiters };
            let id = self.start(read, |job| Action::Read { job, level, tenant, key, bytes, parcel });
            self.reading.insert(key, id);
        }
    }

    /// Objects were in none of the tiers above one, or in none at all.
    fn count_misses(&mut self, below: Option<Level>, objects: u64) {
        for level in Level::ALL {
            if self.has(level) && below.is_none_or(|below| level < below) {
                self.count(level).misses += objects;
            }
        }
    }

    pub(super) fn miss(&mut self, wanted: Wanted, why: Miss) {
        let Wanted { ticket, index, tenant, key, .. } = wanted;
        self.completed.push_back((Completed::Fetched { ticket, index, key, result: Err(why) }, tenant, 0));
    }

    /// Tells some of those who wait for reads that they need not.
    pub(super) fn drop_waiters(
        &mut self,
        why: Miss,
        mut gone: impl FnMut(&Tenant, &Waiter) -> bool,
    ) -> Vec<(Level, BlockKey)> {
        let mut touched = Vec::new();
        for job in self.jobs.values_mut() {
            let Job::Read { level, tenant, key, waiters, .. } = job else { continue };
            let before = waiters.len();
            waiters.retain(|waiter| {
                let gone = gone(tenant, waiter);
                if gone {
                    let Waiter { ticket, index, .. } = *waiter;
                    let missed = Completed::Fetched { ticket, index, key: *key, result: Err(why) };
                    self.completed.push_back((missed, *tenant, 0));
                }
                !gone
            });
            if waiters.len() < before {
                touched.push((*level, *key));
            }
        }
        touched
    }

    /// Ends what took too long. A read that is late is still read to its end, and kept where there is room.
    pub(super) fn expire_reads(&mut self, now: Duration) {
        while let Some(wanted) = self.waiting.pop_front() {
            if wanted.deadline > now {
                self.waiting.push_front(wanted);
                break;
            }
            self.miss(wanted, Miss::Slow);
        }
        for (level, key) in self.drop_waiters(Miss::Slow, |_, waiter| waiter.deadline <= now) {
            let what = format!("no answer within {:?}", self.config.deadline);
            self.fault(now, &Fault { kind: FaultKind::Slow, level, place: key.to_string(), what });
        }
    }

    pub(super) fn on_read(&mut self, now: Duration, job: Job, result: Result<Parcel, Fault>) {
        let Job::Read { level, tenant, key, bytes, mut waiters } = job else { return };
        self.reading.remove(&key);
        self.read_bytes -= bytes;
        if let (Level::Disk, Some(disk)) = (level, &mut self.disk) {
            disk.lease(&key, false);
        }
        match result {
            Ok(parcel) => {
                self.well(level);
                self.count(level).hits += waiters.len() as u64;
                self.count_misses(Some(level), waiters.len() as u64);
                let last = waiters.pop();
                let rest = waiters.into_iter().map(|waiter| (waiter, 0));
                // All get the same bytes, which count once, with the last of them.
                for (Waiter { ticket, index, .. }, bytes) in rest.chain(last.map(|last| (last, parcel.size()))) {
                    self.read_bytes += bytes;
                    let result = Ok((Arc::clone(&parcel.object().bytes), level));
                    self.completed.push_back((Completed::Fetched { ticket, index, key, result }, tenant, bytes));
                }
                self.promote(now, level, parcel);
            }
            Err(fault) => {
                self.fault(now, &fault);
                self.discard(now, level, tenant, key, fault.kind);
                // A slower tier may have it.
                for Waiter { ticket, index, deadline } in waiters.into_iter().rev() {
                    self.waiting.push_front(Wanted { ticket, index, tenant, key, deadline });
                }
            }
        }
    }
}
