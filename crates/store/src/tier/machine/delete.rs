//! Deleting a tenant: nothing new is begun, what is under way comes to its end, every tier is purged and looked at again.

use std::time::Duration;

use super::{Action, Completed, Job, Machine, Miss, Purged, Ticket};
use crate::tier::fault::Fault;
use crate::tier::object::{Level, Tenant};
use crate::tier::shelf::State;
use crate::tier::stats::{Proof, Removed};

/// A tenant that is being deleted.
pub struct Deletion {
    tickets: Vec<Ticket>,
    /// Tiers are being purged; before, its own jobs come to their end.
    purging: bool,
    levels: [Option<Removed>; 3],
}

impl Machine {
    /// Begins to remove every object of a tenant everywhere. Until [`Completed::Deleted`] nothing of it is found, stored or delivered,
    /// results that nobody has taken yet included.
    pub fn delete_tenant(&mut self, now: Duration, tenant: Tenant) -> Ticket {
        let ticket = self.ticket();
        if let Some(deletion) = self.deletions.get_mut(&tenant) {
            deletion.tickets.push(ticket);
            return ticket;
        }
        let mut deletion = Deletion { tickets: vec![ticket], purging: false, levels: [None, None, None] };
        if let Some(ram) = &mut self.ram {
            let mut removed = Removed::default();
            for entry in ram.keys(Some(&tenant)).iter().filter_map(|key| ram.take(key)) {
                removed.objects += 1;
                removed.bytes += entry.bytes;
            }
            deletion.levels[Level::Ram as usize] = Some(removed);
        }
        if let Some(disk) = &mut self.disk {
            disk.freeze(&tenant, true);
        }
        self.deletions.insert(tenant, deletion);
        let (gone, stay) = std::mem::take(&mut self.pending).into_iter().partition(|p| p.object().tenant == tenant);
        self.pending = stay;
        let gone: Vec<_> = Vec::from(gone);
        gone.iter().for_each(|parcel| self.dequeue(Level::Disk, parcel.size()));
        let (gone, stay) = std::mem::take(&mut self.waiting).into_iter().partition(|wanted| wanted.tenant == tenant);
        self.waiting = stay;
        let gone: Vec<_> = Vec::from(gone);
        gone.into_iter().for_each(|wanted| self.miss(wanted, Miss::Deleted));
        self.drop_waiters(Miss::Deleted, |whose, _| *whose == tenant);
        for (completed, _, bytes) in self.completed.iter_mut().filter(|(_, whose, _)| *whose == tenant) {
            if let Completed::Fetched { result: result @ Ok(_), .. } = completed {
                *result = Err(Miss::Deleted);
                self.read_bytes -= std::mem::take(bytes);
            }
        }
        self.advance_deletions(now);
        ticket
    }

    /// Purges where nothing is under way any more; ends what is purged.
    pub(super) fn advance_deletions(&mut self, _now: Duration) {
        let tenants: Vec<_> = self.deletions.keys().copied().collect();
        for tenant in tenants {
            if self.jobs.values().any(|job| *job.tenant() == tenant) {
                continue;
            }
            let Some(deletion) = self.deletions.get_mut(&tenant) else { continue };
            if !std::mem::replace(&mut deletion.purging, true) {
                if let Some(known) = &mut self.known {
                    known.forget_tenant(&tenant);
                }
                let slow = [Level::Disk, Level::Remote].into_iter().filter(|level| self.has(*level));
                let slow: Vec<_> = slow.collect();
                for level in &slow {
                    let level = *level;
                    self.start(Job::Purge { level, tenant }, |job| Action::Purge { job, level, tenant });
                }
                if !slow.is_empty() {
                    continue;
                }
            }
            self.end_deletion(tenant);
        }
    }

    fn end_deletion(&mut self, tenant: Tenant) {
        let Some(mut deletion) = self.deletions.remove(&tenant) else { return };
        if let (Some(ram), Some(removed)) = (&self.ram, &mut deletion.levels[Level::Ram as usize]) {
            removed.left_bytes = ram.used_by(&tenant);
            removed.left_objects = ram.keys(Some(&tenant)).len() as u64;
        }
        if let Some(disk) = &mut self.disk {
            disk.freeze(&tenant, false);
        }
        let proof = Proof { tenant, levels: deletion.levels };
        for ticket in deletion.tickets {
            self.completed.push_back((Completed::Deleted { ticket, proof: proof.clone() }, tenant, 0));
        }
    }

    pub(super) fn on_purged(&mut self, now: Duration, job: Job, result: Result<Purged, Fault>) {
        let Job::Purge { level, tenant } = job else { return };
        let (purged, failed) = match result {
            Ok(purged) => (purged, false),
            Err(fault) => (Purged { fault: Some(fault), ..Purged::default() }, true),
        };
        if let Some(fault) = &purged.fault {
            self.fault(now, fault);
        }
        if let (Level::Disk, Some(disk)) = (level, &mut self.disk) {
            for key in disk.keys(Some(&tenant)) {
                // Where nobody could look, all of it may still be there.
                match failed {
                    true => disk.set(&key, State::Stuck),
                    false => drop(disk.take(&key)),
                }
            }
            for (key, bytes) in &purged.left {
                disk.add(*key, tenant, *bytes, State::Stuck, None);
            }
        }
        let removed = Removed {
            objects: purged.objects,
            bytes: purged.bytes,
            left_objects: purged.left.len() as u64,
            left_bytes: purged.left.iter().map(|(_, bytes)| bytes).sum(),
            foreign: purged.foreign,
            fault: purged.fault.map(|fault| fault.to_string()),
        };
        if let Some(deletion) = self.deletions.get_mut(&tenant) {
            deletion.levels[level as usize] = Some(removed);
        }
    }
}
