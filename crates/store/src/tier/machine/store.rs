//! Writing: what comes in goes into memory at once, into a bounded queue for each slower tier, or nowhere, and that is counted.

use std::time::Duration;

use super::{Action, Job, Machine};
use crate::BlockKey;
use crate::tier::config::WritePolicy;
use crate::tier::known::Belief;
use crate::tier::object::{Level, Object, Parcel};
use crate::tier::seal;
use crate::tier::shelf::{Room, State};

impl Machine {
    /// Takes objects, in the order of their chain. Never waits: what a tier has no room for now is dropped there and counted.
    pub fn store(&mut self, now: Duration, run: Vec<Object>) {
        let run: Vec<_> = run.into_iter().filter(|object| !self.deletions.contains_key(&object.tenant)).collect();
        let parcels: Vec<_> = run.into_iter().map(Parcel::new).collect();
        match self.config.write {
            WritePolicy::Through => {
                // The first of a chain come last, and so are the last to go.
                for parcel in parcels.iter().rev() {
                    self.put_ram(now, parcel);
                }
                let room = self.room_in_queue(&parcels);
                let (first, over) = parcels.split_at(room);
                first.iter().rev().for_each(|parcel| self.offer_disk(now, parcel));
                // Among those that find no room are such as the disk has already; they are no loss.
                over.iter().for_each(|parcel| self.offer_disk(now, parcel));
                parcels.iter().for_each(|parcel| self.offer_remote(now, parcel));
            }
            WritePolicy::Back => {
                for parcel in parcels.iter().rev() {
                    if !self.put_ram(now, parcel) {
                        self.offer_down(now, parcel);
                    }
                }
            }
        }
        self.pump_disk(now);
    }

    /// How many of these from the front the queue of the disk can take.
    fn room_in_queue(&self, parcels: &[Parcel]) -> usize {
        let most = self.config.disk.as_ref().map_or(0, |disk| disk.queue);
        let mut bytes = self.counts[Level::Disk as usize].queue_bytes;
        parcels
            .iter()
            .take_while(|parcel| {
                bytes += parcel.size();
                bytes <= most
            })
            .count()
    }

    /// What was read from a slower tier goes to the faster ones.
    pub(super) fn promote(&mut self, now: Duration, from: Level, parcel: Parcel) {
        if self.deletions.contains_key(&parcel.object().tenant) {
            return;
        }
        if from == Level::Remote {
            self.offer_disk(now, &parcel);
        }
        if from > Level::Ram {
            self.put_ram(now, &parcel);
        }
        self.pump_disk(now);
    }

    /// Into memory; others may have to go. False where it is not there afterwards.
    fn put_ram(&mut self, now: Duration, parcel: &Parcel) -> bool {
        let (tenant, key) = (parcel.object().tenant, parcel.object().key);
        loop {
            let Some(ram) = &mut self.ram else { return false };
            if let Some(entry) = ram.get(&key) {
                return entry.tenant == tenant;
            }
            match ram.room(now, &tenant, parcel.size(), true) {
                Room::Fits => {
                    ram.add(key, tenant, parcel.size(), State::Ready, Some(parcel.clone()));
                    self.seal(parcel);
                    return true;
                }
                Room::Evict(victim) => self.leave_ram(now, &victim),
                Room::Later | Room::Never => {
                    self.count(Level::Ram).dropped += 1;
                    return false;
                }
            }
        }
    }

    /// Sees off a victim: with write-back, to the tier below.
    pub(super) fn leave_ram(&mut self, now: Duration, key: &BlockKey) {
        let gone = self.ram.as_mut().and_then(|ram| ram.take(key)?.parcel);
        self.count(Level::Ram).evictions += 1;
        if let (Some(gone), WritePolicy::Back) = (gone, self.config.write) {
            self.offer_down(now, &gone);
        }
    }

    /// Has an object in memory sealed soon, where the queue has room; otherwise whoever needs the digest first computes it.
    fn seal(&mut self, parcel: &Parcel) {
        let most = self.config.ram.as_ref().map_or(0, |ram| ram.queue);
        if self.counts[Level::Ram as usize].queue_bytes + parcel.size() <= most {
            self.write(Level::Ram, parcel.clone());
        }
    }

    /// To the next tier below memory.
    pub(super) fn offer_down(&mut self, now: Duration, parcel: &Parcel) {
        match self.disk.is_some() {
            true => self.offer_disk(now, parcel),
            false => self.offer_remote(now, parcel),
        }
    }

    fn offer_disk(&mut self, now: Duration, parcel: &Parcel) {
        let (Some(disk), Some(config)) = (&mut self.disk, &self.config.disk) else { return };
        let key = parcel.object().key;
        if let Some(entry) = disk.get(&key)
            && matches!(entry.state, State::Ready | State::Writing)
        {
            return;
        }
        if self.pending.iter().any(|waiting| waiting.object().key == key) {
            return;
        }
        let full = self.counts[Level::Disk as usize].queue_bytes + parcel.size() > config.queue;
        // What is just leaving cannot come again before it is gone.
        if full || disk.get(&key).is_some() || self.rests(now, Level::Disk) {
            self.count(Level::Disk).dropped += 1;
            return;
        }
        self.enqueue(Level::Disk, parcel.size());
        self.pending.push_back(parcel.clone());
    }

    fn offer_remote(&mut self, now: Duration, parcel: &Parcel) {
        let (Some(known), Some(config)) = (&self.known, &self.config.remote) else { return };
        let (tenant, key) = (parcel.object().tenant, parcel.object().key);
        match known.get(now, &tenant, &key) {
            Some(Belief::Present(_)) => return,
            // Asked for at this moment, or written already; if it was asked for, it is stored when it is made next.
            Some(Belief::Busy) => return,
            Some(Belief::Absent) | None => (),
        }
        let full = self.counts[Level::Remote as usize].queue_bytes + parcel.size() > config.queue;
        if full || self.rests(now, Level::Remote) {
            self.count(Level::Remote).dropped += 1;
            return;
        }
        self.believe(now, key, tenant, Belief::Busy);
        self.write(Level::Remote, parcel.clone());
    }

    pub(super) fn enqueue(&mut self, level: Level, bytes: u64) {
        let counts = self.count(level);
        counts.queue += 1;
        counts.queue_bytes += bytes;
    }

    pub(super) fn dequeue(&mut self, level: Level, bytes: u64) {
        let counts = self.count(level);
        counts.queue -= 1;
        counts.queue_bytes -= bytes;
    }

    /// Begins a write. What is written to disk is in its queue already.
    fn write(&mut self, level: Level, parcel: Parcel) {
        let (tenant, key, bytes) = (parcel.object().tenant, parcel.object().key, parcel.size());
        if level != Level::Disk {
            self.enqueue(level, bytes);
        }
        self.start(Job::Write { level, tenant, key, bytes }, |job| Action::Write { job, level, parcel });
    }

    /// Makes room on disk and begins writes while there is some. The file of a victim is gone before its room is used again.
    pub(super) fn pump_disk(&mut self, now: Duration) {
        while self.may_evict(now)
            && let Some(key) = self.disk.as_mut().and_then(|disk| disk.excess(now))
        {
            self.leave_disk(now, key);
        }
        while let Some(parcel) = self.pending.front().cloned() {
            let coding = self.config.disk.as_ref().and_then(|disk| disk.coding.as_ref());
            let len = parcel.object().bytes.len();
            let most = seal::size(coding.map_or(len, |coding| coding.most(len)));
            let (tenant, key) = (parcel.object().tenant, parcel.object().key);
            let may_evict = self.may_evict(now);
            let Some(disk) = &mut self.disk else { return };
            match disk.room(now, &tenant, most, may_evict) {
                Room::Fits => {
                    self.pending.pop_front();
                    disk.add(key, tenant, most, State::Writing, None);
                    self.write(Level::Disk, parcel);
                }
                Room::Evict(victim) => self.leave_disk(now, victim),
                Room::Later => break,
                Room::Never => {
                    self.pending.pop_front();
                    self.dequeue(Level::Disk, parcel.size());
                    self.count(Level::Disk).dropped += 1;
                }
            }
        }
    }

    /// Whether victims go to the remote tier.
    fn demotes(&self, now: Duration) -> bool {
        self.config.write == WritePolicy::Back && self.known.is_some() && !self.rests(now, Level::Remote)
    }

    /// With write-back, victims go to the remote tier first, not too many at a time.
    fn may_evict(&self, now: Duration) -> bool {
        !self.demotes(now) || self.config.remote.as_ref().is_none_or(|remote| self.moves < remote.moves)
    }

    /// Sees off a victim: to the tier below where it has to go there, then away.
    fn leave_disk(&mut self, now: Duration, key: BlockKey) {
        let Some(entry) = self.disk.as_ref().and_then(|disk| disk.get(&key)) else { return };
        let (tenant, bytes) = (entry.tenant, entry.bytes);
        self.count(Level::Disk).evictions += 1;
        let belief = self.known.as_ref().and_then(|known| known.get(now, &tenant, &key));
        if self.demotes(now) && !matches!(belief, Some(Belief::Present(_) | Belief::Busy)) {
            self.moves += 1;
            self.enqueue(Level::Remote, 0);
            self.believe(now, key, tenant, Belief::Busy);
            self.start(Job::Demote { tenant, key }, |job| Action::Demote { job, tenant, key, bytes });
        } else {
            self.remove(Level::Disk, tenant, key);
        }
    }
}
