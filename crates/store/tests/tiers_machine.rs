//! What the machine of the tiers decides, step by step and without threads.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use cachalot_store::BlockKey;
use cachalot_store::tier::machine::{Action, Event, Found, Outcome, Purged};
use cachalot_store::tier::{
    Completed, Fault, FaultKind, Level, Machine, MachineConfig, Miss, Object, Parcel, PolicyKind, ShelfConfig, Tenant,
};

const ZERO: Duration = Duration::ZERO;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn key(n: u8) -> BlockKey {
    BlockKey([n; 32])
}

/// An object that takes 1000 bytes at rest.
fn object(tenant: &str, n: u8) -> Object {
    Object { key: key(n), tenant: Tenant::named(tenant), bytes: Arc::from(vec![n; 872]) }
}

fn shelf(objects: u64) -> ShelfConfig {
    ShelfConfig { policy: PolicyKind::Lru, queue: 1 << 20, ..ShelfConfig::new(objects * 1000) }
}

fn in_ram(objects: u64) -> MachineConfig {
    MachineConfig { ram: Some(shelf(objects)), ..MachineConfig::default() }
}

/// A disk with objects 1 to `n` of tenant "a" on it.
fn with_disk(config: MachineConfig, n: u8) -> Machine {
    let found = |n| Found { tenant: Tenant::named("a"), key: key(n), bytes: 1000, age: u64::from(n) };
    Machine::new(ZERO, MachineConfig { disk: Some(shelf(10)), ..config }, (1..=n).map(found).collect())
}

fn fault(level: Level, kind: FaultKind) -> Fault {
    Fault { kind, level, place: "test".to_owned(), what: String::new() }
}

fn held(machine: &mut Machine, tenant: &str, keys: std::ops::Range<u8>) -> Vec<u8> {
    let tenant = Tenant::named(tenant);
    keys.filter(|n| machine.lookup(ZERO, tenant, &[key(*n)]).levels.len() == 1).collect()
}

#[test]
fn a_tenant_who_streams_does_not_push_out_another_beyond_a_fair_share() {
    let mut machine = Machine::new(ZERO, in_ram(10), Vec::new());
    machine.store(ZERO, (0..4).map(|n| object("quiet", n)).collect());
    for n in 10..110 {
        machine.store(ZERO, vec![object("loud", n)]);
    }
    assert_eq!(held(&mut machine, "quiet", 0..4), vec![0, 1, 2, 3]);
    assert_eq!(held(&mut machine, "loud", 10..110), (104..110).collect::<Vec<_>>());
}

#[test]
fn a_tenant_over_its_quota_loses_its_own_while_the_tier_has_room() {
    let mut machine = Machine::new(ZERO, in_ram(10), Vec::new());
    let loud = Tenant::named("loud");
    machine.set_quota(ZERO, Level::Ram, loud, Some(2_500));
    machine.store(ZERO, vec![object("quiet", 0)]);
    (1..6).for_each(|n| machine.store(ZERO, vec![object("loud", n)]));
    assert_eq!((held(&mut machine, "loud", 1..6), machine.used_by(&loud)[0]), (vec![4, 5], 2_000));
    machine.set_quota(ZERO, Level::Ram, loud, Some(1_000));
    assert_eq!((held(&mut machine, "loud", 1..6), held(&mut machine, "quiet", 0..1)), (vec![5], vec![0]));
    // More than a quota is not taken at all, and costs nobody anything.
    machine.set_quota(ZERO, Level::Ram, loud, Some(999));
    machine.store(ZERO, vec![object("loud", 9)]);
    assert_eq!((machine.used_by(&loud)[0], machine.stats(ZERO).of(Level::Ram).dropped), (0, 1));
}

#[test]
fn the_front_of_a_chain_outlives_its_end() {
    let mut machine = Machine::new(ZERO, in_ram(4), Vec::new());
    machine.store(ZERO, (1..5).map(|n| object("a", n)).collect());
    machine.store(ZERO, vec![object("a", 9)]);
    assert_eq!(held(&mut machine, "a", 1..10), vec![1, 2, 3, 9]);
    machine.fetch(ZERO, Tenant::named("a"), &[key(1), key(2), key(3)]);
    machine.store(ZERO, vec![object("a", 10), object("a", 11)]);
    assert_eq!(held(&mut machine, "a", 1..12), vec![1, 2, 10, 11]);
}

#[test]
fn pins_hold_until_their_time_within_their_share() {
    let mut machine = Machine::new(ZERO, in_ram(4), Vec::new());
    let a = Tenant::named("a");
    machine.store(ZERO, (1..5).map(|n| object("a", n)).collect());
    // Half of the tier and no more; not of what is not there, nor of somebody else.
    assert_eq!(machine.pin(ZERO, a, &[key(4), key(3), key(2), key(77)], seconds(10)), 2);
    assert_eq!(machine.pin(ZERO, Tenant::named("b"), &[key(4)], seconds(10)), 0);
    assert_eq!(machine.stats(ZERO).of(Level::Ram).pinned, 2_000);
    machine.store(seconds(9), (5..9).map(|n| object("a", n)).collect());
    assert_eq!(held(&mut machine, "a", 1..9), vec![3, 4, 5, 6]);
    machine.store(seconds(10), vec![object("a", 20), object("a", 21)]);
    assert_eq!((held(&mut machine, "a", 1..22), machine.stats(ZERO).of(Level::Ram).pinned), (vec![5, 6, 20, 21], 0));
}

#[test]
fn reads_stay_within_their_bytes_until_results_are_taken_and_are_shared() {
    let mut machine = with_disk(MachineConfig { reads: 2_000, ..MachineConfig::default() }, 5);
    let a = Tenant::named("a");
    machine.fetch(ZERO, a, &[key(1), key(2), key(3)]);
    machine.fetch(ZERO, a, &[key(1)]);
    let begun = machine.actions();
    assert_eq!((begun.len(), machine.stats(ZERO).read_bytes), (2, 2_000));
    for (action, n) in begun.iter().zip(1..) {
        let outcome = Outcome::Read(Ok(Parcel::new(object("a", n))));
        machine.handle(ZERO, Event { job: action.job(), outcome });
    }
    // Read and not taken: nothing new is begun.
    assert_eq!((machine.actions().len(), machine.stats(ZERO).read_bytes), (0, 2_000));
    assert_eq!(machine.poll(ZERO).len(), 2);
    assert_eq!((machine.actions().len(), machine.stats(ZERO).read_bytes), (2, 2_000));
}

#[test]
fn a_read_without_answer_is_missed_at_its_deadline_and_kept_when_it_comes() {
    let config = MachineConfig { deadline: seconds(5), ..in_ram(4) };
    let mut machine = with_disk(config, 1);
    machine.fetch(ZERO, Tenant::named("a"), &[key(1)]);
    let read = machine.actions().pop().unwrap();
    assert!(machine.poll(Duration::from_millis(4_999)).is_empty());
    let missed = machine.poll(seconds(5));
    assert!(matches!(missed[..], [Completed::Fetched { result: Err(Miss::Slow), .. }]));
    assert_eq!(machine.stats(ZERO).of(Level::Disk).faults.of(FaultKind::Slow), 1);
    machine.handle(seconds(6), Event { job: read.job(), outcome: Outcome::Read(Ok(Parcel::new(object("a", 1)))) });
    assert!(machine.poll(seconds(6)).is_empty());
    assert_eq!(machine.lookup(seconds(6), Tenant::named("a"), &[key(1)]).levels, [Level::Ram]);
    assert_eq!(machine.stats(seconds(6)).read_bytes, 0);
}

#[test]
fn a_tier_that_fails_in_a_row_is_left_alone_for_a_while() {
    let config = MachineConfig { failures: 2, rest: seconds(10), ..MachineConfig::default() };
    let mut machine = with_disk(config, 3);
    let a = Tenant::named("a");
    for n in 1..3 {
        machine.fetch(ZERO, a, &[key(n)]);
        let read = machine.actions().into_iter().find(|action| matches!(action, Action::Read { .. })).unwrap();
        machine.handle(ZERO, Event { job: read.job(), outcome: Outcome::Read(Err(fault(Level::Disk, FaultKind::Io))) });
    }
    assert!(machine.lookup(seconds(9), a, &[key(3)]).levels.is_empty());
    machine.store(seconds(9), vec![object("a", 8)]);
    assert_eq!(machine.stats(seconds(9)).of(Level::Disk).dropped, 1);
    assert_eq!(machine.lookup(seconds(10), a, &[key(3)]).levels, [Level::Disk]);
}

#[test]
fn what_the_queue_cannot_take_is_dropped_and_counted() {
    let disk = ShelfConfig { queue: 2_500, ..shelf(10) };
    let config = MachineConfig { disk: Some(disk), ..MachineConfig::default() };
    let mut machine = Machine::new(ZERO, config, Vec::new());
    machine.store(ZERO, (1..6).map(|n| object("a", n)).collect());
    let stats = *machine.stats(ZERO).of(Level::Disk);
    assert_eq!((stats.queue, stats.queue_bytes, stats.dropped), (2, 2_000, 3));
    // Of a chain the front is written: the rest would be of no use without it.
    let written: Vec<_> = machine
        .actions()
        .iter()
        .filter_map(|action| match action {
            Action::Write { parcel, .. } => Some(parcel.object().key.0[0]),
            _ => None,
        })
        .collect();
    assert_eq!(written, [2, 1]);
}

#[test]
fn room_of_a_victim_is_used_when_its_file_is_gone_and_not_before() {
    let mut machine = with_disk(MachineConfig::default(), 10);
    machine.store(ZERO, vec![object("a", 20)]);
    let begun = machine.actions();
    assert!(matches!(begun[..], [Action::Remove { key: victim, .. }] if victim == key(1)));
    machine.handle(
        ZERO,
        Event { job: begun[0].job(), outcome: Outcome::Removed(Err(fault(Level::Disk, FaultKind::Denied))) },
    );
    // It could not be removed: it stays in the account, and another has to go.
    let begun = machine.actions();
    assert!(matches!(begun[..], [Action::Remove { key: victim, .. }] if victim == key(2)));
    assert_eq!((machine.stats(ZERO).of(Level::Disk).stuck, machine.stats(ZERO).of(Level::Disk).bytes), (1_000, 10_000));
    machine.handle(ZERO, Event { job: begun[0].job(), outcome: Outcome::Removed(Ok(())) });
    assert!(matches!(machine.actions()[..], [Action::Write { .. }]));
}

#[test]
fn a_deletion_waits_for_what_is_under_way_and_says_what_is_left() {
    let mut machine = with_disk(in_ram(4), 2);
    let a = Tenant::named("a");
    machine.store(ZERO, vec![object("a", 3)]);
    machine.fetch(ZERO, a, &[key(1)]);
    machine.delete_tenant(ZERO, a);
    let begun = machine.actions();
    assert!(!begun.iter().any(|action| matches!(action, Action::Purge { .. })));
    // Nothing is found, pinned, stored or delivered meanwhile.
    assert!(machine.lookup(ZERO, a, &[key(1)]).levels.is_empty());
    assert_eq!(machine.pin(ZERO, a, &[key(1)], seconds(1)), 0);
    machine.store(ZERO, vec![object("a", 4)]);
    for action in begun {
        let outcome = match &action {
            Action::Read { .. } => Outcome::Read(Ok(Parcel::new(object("a", 1)))),
            Action::Write { .. } => Outcome::Written(Ok(1_000)),
            other => panic!("{other:?}"),
        };
        machine.handle(ZERO, Event { job: action.job(), outcome });
    }
    let purge = machine.actions();
    assert!(matches!(purge[..], [Action::Purge { level: Level::Disk, .. }]));
    let purged = Purged { objects: 2, bytes: 2_000, left: vec![(key(2), 1_000)], ..Purged::default() };
    machine.handle(ZERO, Event { job: purge[0].job(), outcome: Outcome::Purged(Ok(purged)) });
    let completed = machine.poll(ZERO);
    let proof = completed
        .iter()
        .find_map(|c| if let Completed::Deleted { proof, .. } = c { Some(proof) } else { None })
        .unwrap();
    assert!(!proof.is_complete());
    let (ram, disk) = (proof.levels[0].as_ref().unwrap(), proof.levels[1].as_ref().unwrap());
    assert_eq!((ram.objects, ram.bytes, disk.objects, disk.left_bytes), (1, 1_000, 2, 1_000));
    assert!(completed.iter().any(|c| matches!(c, Completed::Fetched { result: Err(Miss::Deleted), .. })));
    // What is left is in the account and in nobody's sight.
    assert_eq!(machine.stats(ZERO).of(Level::Disk).stuck, 1_000);
    assert!(machine.lookup(ZERO, a, &[key(2)]).levels.is_empty());
}

#[test]
fn a_purge_and_an_eviction_never_remove_the_same_file() {
    // A removal that outlived the purge would take what the tenant stores afterwards under the same key.
    let mut machine = with_disk(MachineConfig::default(), 10);
    machine.delete_tenant(ZERO, Tenant::named("a"));
    machine.store(ZERO, vec![object("b", 20)]);
    let begun = machine.actions();
    assert!(matches!(begun[..], [Action::Purge { .. }]), "{begun:?}");
    assert_eq!(machine.stats(ZERO).of(Level::Disk).dropped, 1);
    machine.handle(ZERO, Event { job: begun[0].job(), outcome: Outcome::Purged(Ok(Purged::default())) });
    machine.store(ZERO, vec![object("b", 20)]);
    assert!(matches!(machine.actions()[..], [Action::Write { .. }]));
}
