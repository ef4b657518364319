//! A fork-join team of threads for regions of a few microseconds.
//!
//! A decode step opens some hundred and fifty parallel regions; waking sleeping threads for each would cost more than
//! the work. Members spin for a moment between regions and only then sleep. Tasks are handed out in runs of neighbours, long
//! ones first and single ones in the end (guided self-scheduling): what a task asks memory for on behalf of the next one
//! is then found by the same core. Which thread runs which task is not fixed: kernels keep each result inside one task and
//! never depend on it.

use std::cell::UnsafeCell;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Polls of the gate before a member goes to sleep: some 100 to 200 microseconds.
const SPINS: u32 = 4000;
/// Bit of the gate that says a region is open; the members inside are counted below it, the epoch above.
const OPEN: u64 = 1 << 16;
const INSIDE: u64 = OPEN - 1;
const EPOCH: u64 = OPEN << 1;

/// A fixed number of threads that run the tasks of one region after another.
pub struct Team {
    shared: Arc<Shared>,
    /// Held by whoever has a region open.
    caller: Mutex<()>,
    members: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Epoch, open bit and the count of members inside, in one word so that joining is one compare-and-swap.
    gate: AtomicU64,
    job: UnsafeCell<Job>,
    next: AtomicUsize,
    /// Threads, the caller included.
    threads: usize,
    sleepers: AtomicUsize,
    asleep: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

#[derive(Clone, Copy)]
struct Job {
    run: Option<*const (dyn Fn(usize) + Sync)>,
    tasks: usize,
}

// SAFETY: `job` is written only while the gate is closed and empty, and read only by members counted inside.
unsafe impl Sync for Shared {}
// SAFETY: the closure behind the pointer is `Sync` and outlives the region that names it.
unsafe impl Send for Shared {}

impl Team {
    /// A team of `threads`, the caller of each region included.
    pub fn new(threads: NonZeroUsize) -> Team {
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            job: UnsafeCell::new(Job { run: None, tasks: 0 }),
            next: AtomicUsize::new(0),
            threads: threads.get(),
            sleepers: AtomicUsize::new(0),
            asleep: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let members = (1..threads.get())
            .map_while(|i| {
                let shared = shared.clone();
                // A machine that refuses a thread gets a smaller team; the results are the same.
                std::thread::Builder::new().name(format!("cachalot-{i}")).spawn(move || shared.member()).ok()
            })
            .collect();
        Team { shared, caller: Mutex::new(()), members }
    }

    /// A team with one thread per core this process may use.
    pub fn of_all_cores() -> Team {
        Team::new(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.members.len() + 1
    }

    /// Runs `f(0)..f(tasks)`, each once, in any order and on any thread; returns when all are done.
    ///
    /// A region opened inside another runs on the thread that opened it. A panic in a task is raised here.
    pub fn for_each(&self, tasks: usize, f: impl Fn(usize) + Sync) {
        let alone = tasks < 2 || self.members.is_empty();
        let region = if alone { None } else { self.caller.try_lock().ok() };
        let Some(_region) = region else {
            return (0..tasks).for_each(f);
        };
        let shared = &*self.shared;
        let run: &(dyn Fn(usize) + Sync) = &f;
        // SAFETY: only the lifetime is erased. `f` lives until this function returns, and it returns after the gate
        // is closed and empty, when no member can reach the pointer any more.
        let run: *const (dyn Fn(usize) + Sync + 'static) = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync + 'static)>(run)
        };
        // SAFETY: the gate is closed and empty, and `caller` is locked: nobody else touches `job`.
        unsafe { *shared.job.get() = Job { run: Some(run), tasks } };
        shared.next.store(0, Relaxed);
        let epoch = (shared.gate.load(Relaxed) & !(OPEN | INSIDE)).wrapping_add(EPOCH);
        shared.gate.store(epoch | OPEN, SeqCst);
        if shared.sleepers.load(SeqCst) > 0 {
            let _guard = shared.asleep.lock().unwrap_or_else(PoisonError::into_inner);
            shared.wake.notify_all();
        }
        shared.work(run, tasks);
        shared.gate.fetch_and(!OPEN, AcqRel);
        let mut spins = 0u32;
        while shared.gate.load(Acquire) & INSIDE != 0 {
            spins += 1;
            // A member may have lost its core to another process: give ours up rather than burn it.
            if spins > SPINS { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    fn work(&self, run: *const (dyn Fn(usize) + Sync), tasks: usize) {
        while let Some(some) = self.claim(tasks) {
            // SAFETY: the caller keeps the closure alive until every member has left the region.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| unsafe { some.for_each(|task| (*run)(task)) })) {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                self.next.store(tasks, Relaxed);
            }
        }
    }

    /// The next tasks that nobody has: half of what each thread would get of those left.
    fn claim(&self, tasks: usize) -> Option<Range<usize>> {
        let share = |next: usize| (tasks.saturating_sub(next) / (2 * self.threads)).max(1);
        let claimed = self.next.fetch_update(Relaxed, Relaxed, |next| (next < tasks).then(|| next + share(next)));
        claimed.ok().map(|next| next..next + share(next))
    }

    fn member(&self) {
        let mut seen = 0;
        while let Some(gate) = self.next_region(seen) {
            seen = gate & !(OPEN | INSIDE);
            // Join only while the region is open: one that closed meanwhile has taken its closure away.
            let joined = self.gate.fetch_update(AcqRel, Acquire, |gate| {
                (gate & OPEN != 0 && gate & !(OPEN | INSIDE) == seen).then(|| gate + 1)
            });
            if joined.is_ok() {
                // SAFETY: counted inside, so the caller does not write `job`.
                let job = unsafe { *self.job.get() };
                if let Some(run) = job.run {
                    self.work(run, job.tasks);
                }
                self.gate.fetch_sub(1, AcqRel);
            }
        }
    }

    /// Waits for an open region of another epoch than `seen`; `None` when the team is dissolved.
    fn next_region(&self, seen: u64) -> Option<u64> {
        let news = |gate: u64| gate & OPEN != 0 && gate & !(OPEN | INSIDE) != seen;
        for _ in 0..SPINS {
            let gate = self.gate.load(Acquire);
            if news(gate) {
                return Some(gate);
            }
            std::hint::spin_loop();
        }
        let mut guard = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, SeqCst);
        let found = loop {
            // Read after `sleepers` was raised: the caller either sees a sleeper or we see its region.
            let gate = self.gate.load(SeqCst);
            if self.stop.load(SeqCst) {
                break None;
            }
            if news(gate) {
                break Some(gate);
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, SeqCst);
        found
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        {
            let _guard = self.shared.asleep.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_all();
        }
        for member in self.members.drain(..) {
            let _ = member.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn team(n: usize) -> Team {
        Team::new(NonZeroUsize::new(n).unwrap())
    }

    #[test]
    fn every_task_runs_once_over_many_regions() {
        for threads in [1, 2, 5] {
            let team = team(threads);
            for round in 0..2000 {
                let tasks = round % 17;
                let ran: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                team.for_each(tasks, |i| {
                    ran[i].fetch_add(1, Relaxed);
                });
                assert!(ran.iter().all(|n| n.load(Relaxed) == 1), "{threads} threads, round {round}");
            }
        }
    }

    #[test]
    fn a_sleeping_team_wakes() {
        let team = team(3);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let sum = AtomicUsize::new(0);
            team.for_each(100, |i| {
                sum.fetch_add(i, Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn nested_and_concurrent_regions_finish() {
        let team = team(2);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let sum = AtomicUsize::new(0);
                        team.for_each(8, |_| {
                            team.for_each(8, |_| {
                                sum.fetch_add(1, Relaxed);
                            })
                        });
                        assert_eq!(sum.into_inner(), 64);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_survives() {
        let team = team(2);
        let result = catch_unwind(AssertUnwindSafe(|| team.for_each(50, |i| assert!(i != 20))));
        assert!(result.is_err());
        let sum = AtomicUsize::new(0);
        team.for_each(10, |_| {
            sum.fetch_add(1, Relaxed);
        });
        assert_eq!(sum.into_inner(), 10);
    }
}
