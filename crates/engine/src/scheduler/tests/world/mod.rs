//! Everything at once: requests that share, fork, go on and are edited, a pool that evicts, tiers that spill and restore, calls
//! that fail, bytes that change, restarts, power failures, deletions. Whatever happens, every answer has the bits of a lone cold
//! run, and every byte comes back.
//!
//! `WORLD_SEEDS=500 cargo test -p cachalot-engine --lib world` tries more seeds. One that fails is printed, and becomes a test
//! with a name at the end of this file.

#[path = "../../../../../store/tests/tiers_simulation/disk.rs"]
mod disk;
mod ground;
mod life;
mod lone;
#[path = "../../../../../store/tests/tiers_simulation/remote.rs"]
mod remote;
#[path = "../../../../../store/tests/tiers_simulation/rng.rs"]
mod rng;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::Relaxed;

use cachalot_store::tier::WritePolicy;

use life::{Counts, World};

/// Operations of a life, and lives that CI lives.
const OPERATIONS: usize = 1000;
const SEEDS: u64 = 20;

fn live(seed: u64, operations: usize) -> World {
    let write = if seed.is_multiple_of(2) { WritePolicy::Through } else { WritePolicy::Back };
    let mut world = World::new(seed, write);
    (0..operations).for_each(|_| world.step());
    world.end();
    world
}

#[test]
fn no_wrong_byte_and_no_leak_whatever_happens() {
    let seeds = std::env::var("WORLD_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    let (mut all, mut delivered) = (Counts::default(), [0; 3]);
    for seed in 0..seeds {
        let world = catch_unwind(AssertUnwindSafe(|| live(seed, OPERATIONS))).unwrap_or_else(|panic| {
            eprintln!("failed: seed {seed}, {OPERATIONS} operations");
            resume_unwind(panic)
        });
        all.add(&world.counts);
        (0..3).for_each(|level| delivered[level] += world.ground.delivered[level].load(Relaxed));
    }
    // A simulation in which nothing happens proves nothing.
    assert!(all.answers > 100 * seeds && all.reused > 3_000 * seeds && all.evicted > 80 * seeds, "{all:?}");
    assert!(all.moved > 60 * seeds && all.apart > 20 * seeds && all.beside > 20 * seeds, "{all:?}");
    assert!(all.forks > 80 * seeds && all.cancelled > 10 * seeds && all.imported > 4 * seeds, "{all:?}");
    assert!(all.crashes > 4 * seeds && all.restarts > 4 * seeds && all.deletions > 2 * seeds, "{all:?}");
    assert!(delivered.iter().all(|&n| n > 2 * seeds), "{delivered:?}");
}

#[test]
fn a_seed_is_a_whole_life() {
    let trace = || live(7, 200).trace.finalize();
    assert_eq!(trace(), trace());
}

// Seeds that failed once, and why. Most operations in a life have changed since; the stories are tested by name where they are told.

/// A process ended while a fetch was under way for somebody who had gone away; pages of it that had come stayed in the account.
#[test]
fn seed_71_a_fetch_that_never_ended_kept_its_pages() {
    live(71, OPERATIONS);
}

/// A prompt that was alone failed for want of memory, while blocks that nobody used waited to be written.
#[test]
fn seed_39_a_prompt_waits_for_what_is_being_written() {
    live(39, OPERATIONS);
}
