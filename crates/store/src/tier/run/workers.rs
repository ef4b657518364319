//! Threads that carry out actions, and which goes where: a slow tier never holds up a faster one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc::Sender};
use std::thread::{Builder, JoinHandle};

use super::queue::Queue;
use crate::tier::backend::{Backend, Backends};
use crate::tier::fault::{Fault, FaultKind};
use crate::tier::machine::{Action, Event, Outcome};
use crate::tier::object::{Level, Parcel};

/// Writes to disk that are synced together.
const TOGETHER: usize = 16;

/// What threads share.
pub struct Shared {
    pub disk: Option<Arc<dyn Backend>>,
    pub remote: Option<Arc<dyn Backend>>,
    pub wake: Option<Arc<dyn Fn() + Send + Sync>>,
    memory: Queue,
    reads: Queue,
    writes: Queue,
    requests: Queue,
}

/// The threads.
pub struct Workers {
    shared: Arc<Shared>,
    /// Those that are waited for at the end; the others may be in a request that takes its time.
    local: Vec<JoinHandle<()>>,
}

/// What a thread takes and does.
struct Kind {
    name: &'static str,
    queue: fn(&Shared) -> &Queue,
    calm: bool,
    together: usize,
    /// It is waited for at the end.
    local: bool,
}

impl Shared {
    /// Backends without queues.
    pub fn new(
        disk: Option<Arc<dyn Backend>>,
        remote: Option<Arc<dyn Backend>>,
        wake: Option<Arc<dyn Fn() + Send + Sync>>,
    ) -> Shared {
        let queue = Queue::default;
        Shared { disk, remote, wake, memory: queue(), reads: queue(), writes: queue(), requests: queue() }
    }
}

impl Workers {
    /// Starts them: one for memory, `readers` and a writer for the disk, `requests` for the remote tier.
    ///
    /// # Errors
    /// Where the system has no more threads.
    pub fn start(shared: Shared, events: &Sender<Event>, readers: usize, requests: usize) -> std::io::Result<Workers> {
        let shared = Arc::new(shared);
        let mut workers = Workers { shared: Arc::clone(&shared), local: Vec::new() };
        let kind = |name, queue, calm, together, local| Kind { name, queue, calm, together, local };
        let mut kinds = vec![kind("kv-ram", |s| &s.memory, true, 1, true)];
        if shared.disk.is_some() {
            kinds.extend((0..readers.max(1)).map(|_| kind("kv-disk-read", |s| &s.reads, true, 1, true)));
            kinds.push(kind("kv-disk-write", |s| &s.writes, true, TOGETHER, true));
        }
        if shared.remote.is_some() {
            // Half of them are for what somebody waits for, so that writes cannot hold up all reads.
            let requests = requests.max(2);
            kinds.extend((0..requests).map(|n| kind("kv-remote", |s| &s.requests, n >= requests / 2, 1, false)));
        }
        for Kind { name, queue, calm, together, local } in kinds {
            let (shared, events) = (Arc::clone(&shared), events.clone());
            let work = move || {
                while let Some(actions) = queue(&shared).take(calm, together) {
                    for event in shared.execute(actions) {
                        // Nobody listens any more: the store is gone.
                        if events.send(event).is_err() {
                            return;
                        }
                    }
                    if let Some(wake) = &shared.wake {
                        wake();
                    }
                }
            };
            let thread = Builder::new().name(name.to_owned()).spawn(work)?;
            if local {
                workers.local.push(thread);
            }
        }
        Ok(workers)
    }

    /// Hands an action to the threads for it.
    pub fn send(&self, action: Action) {
        let shared = &self.shared;
        let (queue, urgent) = match &action {
            Action::Read { level: Level::Ram, .. } => (&shared.memory, true),
            Action::Write { level: Level::Ram, .. } => (&shared.memory, false),
            Action::Read { level: Level::Disk, .. } => (&shared.reads, true),
            Action::Read { .. } | Action::Probe { .. } => (&shared.requests, true),
            Action::Write { level: Level::Remote, .. } | Action::Demote { .. } => (&shared.requests, false),
            Action::Remove { level: Level::Remote, .. } | Action::Purge { level: Level::Remote, .. } => {
                (&shared.requests, false)
            }
            // What is removed makes room for what waits to be written.
            Action::Remove { .. } | Action::Purge { .. } => (&shared.writes, true),
            Action::Write { .. } => (&shared.writes, false),
        };
        queue.push(action, urgent);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let shared = &self.shared;
        [&shared.memory, &shared.reads, &shared.writes, &shared.requests].into_iter().for_each(Queue::close);
        for thread in self.local.drain(..) {
            // It catches its panics; there is nothing to learn from it.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn execute(&self, actions: Vec<Action>) -> Vec<Event> {
        let backends = Backends { disk: self.disk.as_deref(), remote: self.remote.as_deref() };
        if actions.len() > 1
            && let Some(disk) = backends.disk
        {
            return write_together(disk, actions);
        }
        let execute = |action: Action| {
            let failed = failure(&action);
            // A codec that panics is a fault of its tier, not the end of it.
            catch_unwind(AssertUnwindSafe(|| backends.execute(action))).unwrap_or(failed)
        };
        actions.into_iter().map(execute).collect()
    }
}

fn write_together(disk: &dyn Backend, actions: Vec<Action>) -> Vec<Event> {
    let failed: Vec<Event> = actions.iter().map(failure).collect();
    let parcel = |action: Action| match action {
        Action::Write { parcel, .. } => Some(parcel),
        _ => None,
    };
    let parcels: Vec<Parcel> = actions.into_iter().filter_map(parcel).collect();
    let mut results = catch_unwind(AssertUnwindSafe(|| disk.put(&parcels))).unwrap_or_default().into_iter();
    let event = |failed: Event| match results.next() {
        Some(result) => Event { job: failed.job, outcome: Outcome::Written(result) },
        None => failed,
    };
    failed.into_iter().map(event).collect()
}

/// What is said of an action whose thread panicked.
fn failure(action: &Action) -> Event {
    let fault = |level: &Level| Fault {
        kind: FaultKind::Io,
        level: *level,
        place: "tier".to_owned(),
        what: "a codec or a driver panicked".to_owned(),
    };
    let outcome = match action {
        Action::Read { level, .. } => Outcome::Read(Err(fault(level))),
        Action::Write { level, .. } => Outcome::Written(Err(fault(level))),
        Action::Remove { level, .. } => Outcome::Removed(Err(fault(level))),
        Action::Demote { .. } => Outcome::Demoted(Err(fault(&Level::Remote))),
        Action::Probe { .. } => Outcome::Probed(vec![Err(fault(&Level::Remote))]),
        Action::Purge { level, .. } => Outcome::Purged(Err(fault(level))),
    };
    Event { job: action.job(), outcome }
}
