//! What comes of what was begun.

use std::time::Duration;

use super::{Completed, Event, Job, Machine, Outcome};
use crate::tier::fault::Fault;
use crate::tier::known::Belief;
use crate::tier::object::Level;
use crate::tier::shelf::State;

impl Machine {
    /// Takes in what came of an action. An event of an action that was never asked for, or had its event, changes nothing.
    pub fn handle(&mut self, now: Duration, event: Event) {
        let Some(job) = self.jobs.remove(&event.job) else { return };
        match (job, event.outcome) {
            (job @ Job::Read { .. }, Outcome::Read(result)) => self.on_read(now, job, result),
            (job @ Job::Write { .. }, Outcome::Written(result)) => self.on_written(now, job, result),
            (job @ Job::Remove { .. }, Outcome::Removed(result)) => self.on_removed(now, job, result),
            (job @ Job::Demote { .. }, Outcome::Demoted(result)) => self.on_demoted(now, job, result),
            (job @ Job::Probe { .. }, Outcome::Probed(result)) => self.on_probed(now, job, result),
            (job @ Job::Purge { .. }, Outcome::Purged(result)) => self.on_purged(now, job, result),
            // An answer of another kind is none.
            (job, _) => drop(self.jobs.insert(event.job, job)),
        }
        self.advance_deletions(now);
        self.pump_flush(now);
        self.pump_disk(now);
        self.pump_reads(now);
    }

    fn on_written(&mut self, now: Duration, job: Job, result: Result<u64, Fault>) {
        let Job::Write { level, tenant, key, bytes } = job else { return };
        self.dequeue(level, bytes);
        match (level, result) {
            (Level::Ram, _) => (),
            (level, Ok(bytes)) => {
                self.well(level);
                self.count(level).written += 1;
                if level == Level::Remote {
                    return self.believe(now, key, tenant, Belief::Present(bytes));
                }
                if let Some(disk) = &mut self.disk {
                    disk.resize(&key, bytes);
                    disk.set(&key, State::Ready);
                }
            }
            (Level::Disk, Err(fault)) => {
                self.fault(now, &fault);
                self.remove(Level::Disk, tenant, key);
            }
            (Level::Remote, Err(fault)) => {
                self.fault(now, &fault);
                self.believe(now, key, tenant, Belief::Absent);
            }
        }
    }

    fn on_demoted(&mut self, now: Duration, job: Job, result: Result<u64, Fault>) {
        let Job::Demote { tenant, key } = job else { return };
        self.moves -= 1;
        self.dequeue(Level::Remote, 0);
        let belief = match result {
            Ok(bytes) => {
                self.well(Level::Remote);
                self.count(Level::Remote).written += 1;
                Belief::Present(bytes)
            }
            Err(fault) => {
                self.fault(now, &fault);
                Belief::Absent
            }
        };
        self.believe(now, key, tenant, belief);
        self.remove(Level::Disk, tenant, key);
    }

    fn on_probed(&mut self, now: Duration, job: Job, result: Vec<Result<Option<u64>, Fault>>) {
        let Job::Probe { tenant, keys, ticket } = job else { return };
        let mut answers = result.into_iter();
        for key in keys {
            let belief = match answers.next() {
                Some(Ok(Some(bytes))) => Belief::Present(bytes),
                Some(Ok(None)) => Belief::Absent,
                None => {
                    self.known.as_mut().into_iter().for_each(|known| known.forget(&key));
                    continue;
                }
                Some(Err(fault)) => {
                    self.fault(now, &fault);
                    Belief::Absent
                }
            };
            self.believe(now, key, tenant, belief);
        }
        self.completed.push_back((Completed::Probed { ticket }, tenant, 0));
    }
}
