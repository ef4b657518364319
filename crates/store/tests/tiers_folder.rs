//! Tiers on a real folder and on real `object_store` URLs: what an operator, a disk and other programs do to them.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cachalot_store::BlockKey;
use cachalot_store::tier::backend::BucketConfig;
use cachalot_store::tier::{
    Completed, DiskConfig, FaultKind, Level, Miss, Object, RemoteConfig, ShelfConfig, Tenant, TierConfig, Tiers,
    WritePolicy,
};

const LONG: Duration = Duration::from_secs(60);

fn object(tenant: &str, n: u8, len: usize) -> Object {
    let tenant = Tenant::named(tenant);
    let key = BlockKey(*blake3::Hasher::new().update(&tenant.0).update(&[n]).finalize().as_bytes());
    Object { key, tenant, bytes: (0..len).map(|i| (i as u8).wrapping_mul(n | 1)).collect() }
}

fn on_disk(folder: &Path, capacity: u64) -> TierConfig {
    let disk = DiskConfig {
        folder: folder.to_owned(),
        direct: false,
        shelf: ShelfConfig { queue: 1 << 20, ..ShelfConfig::new(capacity) },
    };
    TierConfig { disk: Some(disk), ..TierConfig::default() }
}

fn open(config: &TierConfig) -> Tiers {
    Tiers::open(config.clone()).unwrap().0
}

fn file(folder: &Path, object: &Object) -> PathBuf {
    let name = object.key.to_string();
    folder.join(object.tenant.to_string()).join(&name[..2]).join(name)
}

fn store(tiers: &mut Tiers, objects: &[Object]) {
    tiers.store(objects.to_vec());
    assert!(tiers.settle(LONG));
}

fn fetch(tiers: &mut Tiers, object: &Object) -> Result<(Arc<[u8]>, Level), Miss> {
    let mine = tiers.fetch(object.tenant, &[object.key]);
    assert!(tiers.settle(LONG));
    let mine = tiers.poll().into_iter().find_map(|completed| match completed {
        Completed::Fetched { ticket, result, .. } if ticket == mine => Some(result),
        _ => None,
    });
    mine.unwrap()
}

fn files(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let size = |path: PathBuf| if path.is_dir() { files(&path) } else { fs::metadata(path).unwrap().len() };
    entries.map(|entry| size(entry.path())).sum()
}

#[test]
fn what_was_stored_is_there_after_a_restart_and_the_account_is_that_of_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let config = on_disk(folder.path(), 1 << 20);
    let objects: Vec<_> = (0..20).map(|n| object("a", n, 1000 + usize::from(n))).collect();
    let mut tiers = open(&config);
    store(&mut tiers, &objects);
    assert_eq!(tiers.stats().of(Level::Disk).bytes, files(folder.path()));
    drop(tiers);
    let mut tiers = open(&config);
    let stats = tiers.stats();
    assert_eq!((stats.of(Level::Disk).objects, stats.of(Level::Disk).bytes), (20, files(folder.path())));
    let keys: Vec<_> = objects.iter().map(|object| object.key).collect();
    assert_eq!(tiers.lookup(objects[0].tenant, &keys).levels, vec![Level::Disk; 20]);
    for object in &objects {
        assert_eq!(fetch(&mut tiers, object), Ok((Arc::clone(&object.bytes), Level::Disk)));
    }
    // To another tenant they are not there, whoever knows the keys.
    assert!(tiers.lookup(Tenant::named("b"), &keys).levels.is_empty());
    let stranger = Object { tenant: Tenant::named("b"), ..objects[0].clone() };
    assert_eq!(fetch(&mut tiers, &stranger), Err(Miss::Absent));
}

#[test]
fn direct_reads_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = on_disk(folder.path(), 1 << 20);
    config.disk.as_mut().unwrap().direct = true;
    let objects: Vec<_> =
        [0, 1, 3967, 3968, 3969, 10_000].iter().zip(0..).map(|(len, n)| object("a", n, *len)).collect();
    let mut tiers = open(&config);
    store(&mut tiers, &objects);
    for object in &objects {
        assert_eq!(fetch(&mut tiers, object), Ok((Arc::clone(&object.bytes), Level::Disk)));
    }
    fs::write(file(folder.path(), &objects[5]), b"short").unwrap();
    assert_eq!(fetch(&mut tiers, &objects[5]), Err(Miss::Absent));
    assert_eq!(tiers.stats().of(Level::Disk).faults.of(FaultKind::Short), 1);
}

#[test]
fn damaged_files_are_missed_counted_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let objects: Vec<_> = (0..4).map(|n| object("a", n, 1000)).collect();
    let paths: Vec<_> = objects.iter().map(|object| file(folder.path(), object)).collect();
    let mut tiers = open(&on_disk(folder.path(), 1 << 20));
    store(&mut tiers, &objects);
    let mut bytes = fs::read(&paths[0]).unwrap();
    bytes[700] ^= 0x10;
    fs::write(&paths[0], &bytes).unwrap();
    fs::write(&paths[1], &bytes[..500]).unwrap();
    fs::write(&paths[2], [&bytes[..], &[0]].concat()).unwrap();
    fs::remove_file(&paths[3]).unwrap();
    for object in &objects {
        assert_eq!(fetch(&mut tiers, object), Err(Miss::Absent));
    }
    let stats = *tiers.stats().of(Level::Disk);
    let faults = [FaultKind::Corrupt, FaultKind::Short, FaultKind::Missing].map(|kind| stats.faults.of(kind));
    assert_eq!((faults, stats.faults.total()), ([2, 1, 1], 4));
    assert_eq!((stats.objects, stats.bytes, files(folder.path())), (0, 0, 0));
    // And then they are computed again.
    store(&mut tiers, &objects);
    assert_eq!(fetch(&mut tiers, &objects[0]), Ok((Arc::clone(&objects[0].bytes), Level::Disk)));
}

#[test]
fn the_file_of_another_key_is_not_taken_for_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let objects = [object("a", 0, 1000), object("a", 1, 1000)];
    let mut tiers = open(&on_disk(folder.path(), 1 << 20));
    store(&mut tiers, &objects);
    fs::copy(file(folder.path(), &objects[0]), file(folder.path(), &objects[1])).unwrap();
    assert_eq!(fetch(&mut tiers, &objects[1]), Err(Miss::Absent));
    assert_eq!(tiers.stats().of(Level::Disk).faults.of(FaultKind::Corrupt), 1);
}

#[test]
fn leftovers_go_at_start_and_what_is_not_ours_stays() {
    let folder = tempfile::tempdir().unwrap();
    let config = on_disk(folder.path(), 1 << 20);
    let kept = object("a", 0, 100);
    store(&mut open(&config), std::slice::from_ref(&kept));
    let path = file(folder.path(), &kept);
    let left = PathBuf::from(format!("{}.tmp", path.display()));
    fs::write(&left, b"half").unwrap();
    fs::write(file(folder.path(), &kept).with_file_name("notes.txt"), b"mine").unwrap();
    fs::write(folder.path().join("README"), b"mine").unwrap();
    fs::create_dir(folder.path().join("photos")).unwrap();
    let (mut tiers, scan) = Tiers::open(config).unwrap();
    assert_eq!((scan.leftovers, scan.foreign_count, scan.faults.len()), (1, 3, 0));
    assert!(!left.exists() && folder.path().join("README").exists());
    assert!(scan.foreign.iter().any(|name| name.ends_with("notes.txt")));
    assert!(fetch(&mut tiers, &kept).is_ok());
    // Deleting the tenant leaves them, too, and says so.
    let proof = tiers.delete_tenant_now(kept.tenant, LONG, drop).unwrap();
    assert!(proof.is_complete());
    assert_eq!(proof.levels[1].as_ref().unwrap().foreign, 1);
    assert!(path.with_file_name("notes.txt").exists() && !path.exists());
}

#[test]
fn a_full_tier_evicts_and_never_passes_its_cap_nor_does_a_smaller_one_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let objects: Vec<_> = (0..50).map(|n| object("a", n, 872)).collect();
    let mut tiers = open(&on_disk(folder.path(), 10_500));
    for object in &objects {
        store(&mut tiers, std::slice::from_ref(object));
        assert!(files(folder.path()) <= 10_500);
    }
    let stats = *tiers.stats().of(Level::Disk);
    assert_eq!((stats.objects, stats.bytes, stats.evictions, stats.faults.total()), (10, 10_000, 40, 0));
    drop(tiers);
    let mut tiers = open(&on_disk(folder.path(), 3_000));
    assert!(tiers.settle(LONG));
    assert_eq!((tiers.stats().of(Level::Disk).objects, files(folder.path())), (3, 3_000));
    store(&mut tiers, &[object("a", 99, 3_000)]);
    assert_eq!(tiers.stats().of(Level::Disk).dropped, 1);
}

#[cfg(unix)]
#[test]
fn a_folder_that_may_not_be_written_is_a_counted_fault_and_memory_goes_on() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let config = TierConfig { ram: Some(ShelfConfig::new(1 << 20)), ..on_disk(folder.path(), 1 << 20) };
    let mut tiers = open(&config);
    let allow = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
    allow(0o500);
    // Who may do anything is not refused by a mode: then a file stands where the folder would be.
    let probe = folder.path().join("probe");
    let all_mighty = fs::write(&probe, b"").is_ok();
    let kept = object("a", 0, 100);
    if all_mighty {
        fs::rename(&probe, folder.path().join(kept.tenant.to_string())).unwrap();
    }
    store(&mut tiers, std::slice::from_ref(&kept));
    let stats = tiers.stats();
    let kind = if all_mighty { FaultKind::Io } else { FaultKind::Denied };
    assert!(stats.of(Level::Disk).faults.of(kind) >= 1, "{stats:?}");
    assert_eq!(fetch(&mut tiers, &kept), Ok((Arc::clone(&kept.bytes), Level::Ram)));
    allow(0o700);
}

#[test]
fn two_stores_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let config = on_disk(folder.path(), 1 << 20);
    let first = open(&config);
    let error = Tiers::open(config.clone()).err().unwrap().to_string();
    assert!(error.contains("another process"), "{error}");
    drop(first);
    open(&config);
}

fn with_url(url: String) -> TierConfig {
    TierConfig { remote: Some((BucketConfig::new(url), RemoteConfig::default())), ..TierConfig::default() }
}

/// Looks until the remote tier has been asked.
fn look(tiers: &mut Tiers, tenant: Tenant, keys: &[BlockKey]) -> Vec<Level> {
    if tiers.lookup(tenant, keys).probe.is_some() {
        assert!(tiers.settle(LONG));
    }
    tiers.lookup(tenant, keys).levels
}

#[test]
fn an_object_store_is_asked_in_the_background_and_what_it_has_is_promoted() {
    let (remote, local) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = format!("file://{}/prefix", remote.path().display());
    let objects: Vec<_> = (0..5).map(|n| object("a", n, 1000)).collect();
    let keys: Vec<_> = objects.iter().map(|object| object.key).collect();
    store(&mut open(&with_url(url.clone())), &objects);
    assert_eq!(files(remote.path()), 5 * 1128);
    // Another machine, with tiers of its own.
    let ram = Some(ShelfConfig::new(1 << 20));
    let config = TierConfig { ram, remote: with_url(url).remote, ..on_disk(local.path(), 1 << 20) };
    let mut tiers = open(&config);
    let longer: Vec<_> = keys.iter().copied().chain([object("a", 99, 0).key]).collect();
    assert_eq!(look(&mut tiers, objects[0].tenant, &longer), vec![Level::Remote; 5]);
    assert_eq!(fetch(&mut tiers, &objects[0]), Ok((Arc::clone(&objects[0].bytes), Level::Remote)));
    assert_eq!(fetch(&mut tiers, &objects[0]), Ok((Arc::clone(&objects[0].bytes), Level::Ram)));
    assert_eq!(tiers.lookup(objects[0].tenant, &keys).levels[..2], [Level::Ram, Level::Remote]);
    assert_eq!(files(local.path()), 1128);
    // Damage there is a miss here, and is removed there.
    let damaged = file(&remote.path().join("prefix"), &objects[1]);
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[1000] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    assert_eq!(fetch(&mut tiers, &objects[1]), Err(Miss::Absent));
    assert_eq!(tiers.stats().of(Level::Remote).faults.of(FaultKind::Corrupt), 1);
    assert!(!damaged.exists());
}

#[test]
fn a_deleted_tenant_is_nowhere_and_others_are_untouched() {
    let (remote, local) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = format!("file://{}", remote.path().display());
    let ram = Some(ShelfConfig::new(1 << 20));
    let config = TierConfig { ram, remote: with_url(url).remote, ..on_disk(local.path(), 1 << 20) };
    let mut tiers = open(&config);
    let (gone, stays): (Vec<_>, Vec<_>) = (0..8).map(|n| (object("a", n, 500), object("b", n, 500))).unzip();
    store(&mut tiers, &gone);
    store(&mut tiers, &stays);
    let proof = tiers.delete_tenant_now(gone[0].tenant, LONG, drop).unwrap();
    assert!(proof.is_complete());
    let removed: Vec<_> =
        proof.levels.iter().flatten().map(|level| (level.objects, level.bytes, level.left_objects)).collect();
    assert_eq!(removed, [(8, 8 * 628, 0); 3]);
    assert_eq!((files(local.path()), files(remote.path())), (8 * 628, 8 * 628));
    assert_eq!(fetch(&mut tiers, &gone[0]), Err(Miss::Absent));
    assert!(fetch(&mut tiers, &stays[0]).is_ok());
    drop(tiers);
    let keys: Vec<_> = gone.iter().map(|object| object.key).collect();
    assert!(look(&mut open(&config), gone[0].tenant, &keys).is_empty());
}

#[test]
fn with_write_back_objects_go_down_when_they_are_evicted_and_at_the_end() {
    let (remote, local) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = format!("file://{}", remote.path().display());
    let mut config = TierConfig { remote: with_url(url).remote, ..on_disk(local.path(), 3_500) };
    config.ram = Some(ShelfConfig::new(2_500));
    config.rules.write = WritePolicy::Back;
    let objects: Vec<_> = (0..8).map(|n| object("a", n, 872)).collect();
    let mut tiers = open(&config);
    for (n, object) in (1..).zip(&objects) {
        store(&mut tiers, std::slice::from_ref(object));
        let in_ram = n.min(2);
        let on_disk = (n - in_ram).min(3);
        assert_eq!((files(local.path()), files(remote.path())), (on_disk * 1000, (n - in_ram - on_disk) * 1000));
    }
    let (settled, stats) = tiers.close(LONG);
    assert!(settled);
    assert_eq!(stats.levels.map(|level| level.faults.total()), [0; 3]);
    assert_eq!((files(local.path()), files(remote.path())), (3_000, 5_000));
    let mut tiers = open(&config);
    for object in &objects {
        let levels = look(&mut tiers, object.tenant, &[object.key]);
        assert_eq!(levels.len(), 1);
        assert!(fetch(&mut tiers, object).is_ok());
    }
}

#[test]
fn an_object_store_in_memory_works_and_one_that_is_none_is_refused() {
    let mut tiers = open(&with_url("memory:///".to_owned()));
    let kept = object("a", 0, 100);
    store(&mut tiers, std::slice::from_ref(&kept));
    assert_eq!(fetch(&mut tiers, &kept), Ok((Arc::clone(&kept.bytes), Level::Remote)));
    for url in ["nonsense", "gopher://somewhere", if cfg!(feature = "cloud") { "" } else { "s3://bucket" }] {
        let error = Tiers::open(with_url(url.to_owned())).err().unwrap().to_string();
        assert!(error.contains(url), "{error}");
    }
}
