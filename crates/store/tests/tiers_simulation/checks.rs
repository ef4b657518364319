//! What must hold: after every step, when everything has come to its end, after a power failure, after a deletion.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cachalot_store::tier::backend::{Backend, Disk, Folder};
use cachalot_store::tier::{Completed, Level, Machine, Miss, Tenant};

use crate::world::{DISK, KEYS, LARGEST, QUEUE, QUOTA, RAM, READS, TENANTS, World, content, key, tenant};

impl World {
    /// What holds after every step.
    pub fn check(&mut self) {
        let stats = self.machine.stats(self.now);
        let (ram, disk) = (stats.of(Level::Ram), stats.of(Level::Disk));
        // What was removed and not synced may come back after a power failure; then it goes again before anything comes.
        let used: Vec<_> = (0..TENANTS).map(|n| self.machine.used_by(&tenant(n))).collect();
        self.recovering &= disk.bytes > DISK || used.iter().any(|used| used[1] > QUOTA);
        assert!(ram.bytes <= RAM && (disk.bytes <= DISK || self.recovering), "cap: {stats:?}");
        assert!(used.iter().all(|used| used[0] <= QUOTA && (used[1] <= QUOTA || self.recovering)), "quota: {used:?}");
        let files: u64 = self.disk.files().iter().map(|(_, bytes)| bytes).sum();
        assert!(files <= disk.bytes, "{files} bytes of files, {} in the account", disk.bytes);
        assert!(stats.read_bytes <= READS + LARGEST && stats.levels.iter().all(|level| level.queue_bytes <= QUEUE));
        if self.weather.faults == 0.0 && !self.weather.damage && !disk.resting {
            let now = self.now;
            self.pinned.retain(|_, until| *until > now);
            let mut pinned: Vec<_> = self.pinned.keys().copied().collect();
            pinned.retain(|(tenant, _)| !self.deleting.values().any(|gone| gone == tenant));
            for (tenant, key) in pinned {
                assert_eq!(self.machine.lookup(self.now, tenant, &[key]).levels.len(), 1, "pinned and gone");
            }
            self.begun.extend(self.machine.actions());
        }
    }

    /// Lets everything come to its end, in good weather.
    pub fn settle(&mut self) {
        self.disk.set_faults(0.0);
        self.remote.set_faults(0.0);
        for _ in 0..200 {
            while !self.begun.is_empty() || !self.done.is_empty() {
                self.execute();
                self.deliver();
                self.begun.extend(self.machine.actions());
            }
            self.poll();
            self.begun.extend(self.machine.actions());
            // Until what could not be removed was tried again.
            self.now += Duration::from_secs(1);
        }
        let stats = self.machine.stats(self.now);
        assert!(self.machine.is_idle() && self.open.is_empty() && self.deleting.is_empty(), "leak: {stats:?}");
        assert_eq!((stats.jobs, stats.reads, stats.read_bytes), (0, 0, 0));
        assert!(stats.levels.iter().all(|level| level.queue == 0 && level.queue_bytes == 0 && level.pinned == 0));
        assert_eq!(stats.of(Level::Disk).stuck, 0);
        let files: u64 = self.disk.files().iter().map(|(_, bytes)| bytes).sum();
        if !self.spoilt {
            assert_eq!(files, stats.of(Level::Disk).bytes, "files and account");
        }
    }

    pub fn crash(&mut self) {
        self.crashes += 1;
        // In the middle of something: the calls of the next action after the first few fail.
        self.disk.set_faults(0.0);
        self.disk.set_fuse(self.rng.below(6));
        self.execute();
        self.disk.crash(&self.root);
        self.begun.clear();
        self.done.clear();
        self.open.clear();
        self.deleting.clear();
        self.pinned.clear();
        self.restart();
    }

    fn restart(&mut self) {
        self.folder = Folder::open(Arc::new(self.disk.clone()), Path::new("/sim"), None).unwrap();
        let scan = self.folder.scan().unwrap();
        assert!(scan.faults.is_empty() && scan.foreign_count == self.foreign);
        assert!(self.disk.files().iter().all(|(path, _)| path.extension().is_none()), "leftovers");
        for (tenant, key) in &self.durable {
            let found = scan.found.iter().find(|found| found.tenant == *tenant && found.key == *key);
            let bytes = found.expect("was said to be durable").bytes;
            let parcel = self.folder.get(*tenant, *key, bytes).expect("was said to be durable");
            assert!(parcel.object().bytes == content(*key));
        }
        // What came back though it was removed is whole, or found out when it is read.
        self.durable = scan.found.iter().map(|found| (found.tenant, found.key)).collect();
        self.durable.retain(|(tenant, key)| {
            let bytes = scan.found.iter().find(|f| f.key == *key).unwrap().bytes;
            self.folder.get(*tenant, *key, bytes).is_ok()
        });
        self.spoilt = false;
        self.recovering = true;
        self.machine = Machine::new(self.now, self.config.clone(), scan.found);
        self.begun.extend(self.machine.actions());
    }

    /// Deletes a tenant in good weather; nothing of it is anywhere, before a crash and after one.
    pub fn delete_and_look(&mut self, gone: Tenant) {
        let ticket = self.machine.delete_tenant(self.now, gone);
        self.deleting.insert(ticket, gone);
        let before = self.proofs;
        // Somebody's notes keep the folders of the tenant from being removed.
        let folder = self.root.join(gone.to_string());
        let mut shards: Vec<_> =
            self.disk.files().iter().filter_map(|(path, _)| path.parent().map(Path::to_owned)).collect();
        shards.retain(|shard| shard.starts_with(&folder));
        shards.dedup();
        for shard in &shards {
            self.disk.create(&shard.join("notes")).unwrap().sync().unwrap();
            self.disk.sync_folder(shard).unwrap();
        }
        self.foreign += shards.len() as u64;
        self.begun.extend(self.machine.actions());
        self.settle();
        assert_eq!(self.proofs, before + 1, "a proof in good weather");
        let left = |world: &World| {
            world.disk.files().iter().filter(|(path, _)| path.starts_with(&folder) && !path.ends_with("notes")).count()
        };
        assert_eq!((left(self), self.remote.of(gone), self.machine.used_by(&gone)), (0, 0, [0, 0]));
        self.crash();
        assert_eq!(left(self), 0, "a crash brought it back");
        for n in 0..KEYS {
            let ticket = self.machine.fetch(self.now, gone, &[key(gone, n)]);
            let absent = |c: &Completed| matches!(c, Completed::Fetched { ticket: t, result: Err(Miss::Absent), .. } if *t == ticket);
            assert!(self.machine.poll(self.now).iter().any(absent));
        }
    }
}
