//! The disk tier: a file for each object. Temporary file, sync, rename, sync of the folder; so a name is there only with all its bytes.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, Sink};
use super::layout::{TEMPORARY, shard_name, tenant_name};
use super::{Backend, scan};
use crate::BlockKey;
use crate::tier::fault::{Fault, FaultKind};
use crate::tier::machine::Purged;
use crate::tier::object::{Level, Parcel, Tenant};
use crate::tier::{Coding, seal};

/// A folder of objects, on any [`Disk`].
pub struct Folder {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) root: PathBuf,
    coding: Option<Arc<dyn Coding>>,
    /// Folders of which it is certain that a crash does not take them.
    made: Mutex<HashSet<PathBuf>>,
}

/// A file that is written and not yet published.
struct Written {
    index: usize,
    shard: PathBuf,
    temporary: PathBuf,
    file: PathBuf,
    sink: Box<dyn Sink>,
    bytes: u64,
}

impl Folder {
    /// The folder at `root`, which is made in one that exists where it is not there.
    ///
    /// # Errors
    /// Where it is not there and cannot be made.
    pub fn open(disk: Arc<dyn Disk>, root: &Path, coding: Option<Arc<dyn Coding>>) -> Result<Folder, Fault> {
        let fault = |e: io::Error| Fault::of_io(root.display().to_string(), &e);
        if disk.make_folder(root).map_err(fault)?
            && let Some(parent) = root.parent()
        {
            disk.sync_folder(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }).map_err(fault)?;
        }
        Ok(Folder { disk, root: root.to_owned(), coding, made: Mutex::default() })
    }

    pub(super) fn tenant_folder(&self, tenant: &Tenant) -> PathBuf {
        self.root.join(tenant_name(tenant))
    }

    fn shard(&self, tenant: &Tenant, key: &BlockKey) -> PathBuf {
        self.tenant_folder(tenant).join(shard_name(key))
    }

    /// Makes the folder of an object, and has it survive a crash. One that is there already may have been made by a process that ended
    /// before it could see to that.
    fn make_shard(&self, tenant: &Tenant, shard: &Path) -> Result<(), Fault> {
        let folder = self.tenant_folder(tenant);
        for (child, parent) in [(folder.as_path(), self.root.as_path()), (shard, folder.as_path())] {
            if !self.made().contains(child) {
                at(child, self.disk.make_folder(child))?;
                at(parent, self.disk.sync_folder(parent))?;
                self.made().insert(child.to_owned());
            }
        }
        Ok(())
    }

    fn made(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets that folders are there, which are being removed or were by somebody else.
    pub(super) fn forget_folders(&self, within: &Path) {
        self.made().retain(|folder| !folder.starts_with(within));
    }

    fn write(&self, index: usize, parcel: &Parcel) -> Result<Written, Fault> {
        let object = parcel.object();
        let shard = self.shard(&object.tenant, &object.key);
        let file = shard.join(object.key.to_string());
        let temporary = shard.join(format!("{}{TEMPORARY}", object.key));
        let sealed = seal::seal(parcel, self.coding.as_deref());
        let sealed = sealed.map_err(|(kind, what)| fault(kind, &file, what))?;
        self.make_shard(&object.tenant, &shard)?;
        let sink = at(&temporary, self.disk.create(&temporary));
        if sink.as_ref().is_err_and(|fault| fault.kind == FaultKind::Missing) {
            self.forget_folders(&self.tenant_folder(&object.tenant));
        }
        let mut sink = sink?;
        at(&temporary, sink.write(&sealed.header))?;
        at(&temporary, sink.write(&sealed.bytes))?;
        let bytes = seal::size(sealed.bytes.len());
        Ok(Written { index, shard, temporary, file, sink, bytes })
    }
}

/// Says where.
pub(super) fn at<T>(place: &Path, result: io::Result<T>) -> Result<T, Fault> {
    result.map_err(|error| Fault::of_io(place.display().to_string(), &error))
}

fn fault(kind: FaultKind, place: &Path, what: String) -> Fault {
    Fault { kind, level: Level::Disk, place: place.display().to_string(), what }
}

impl Backend for Folder {
    /// All are written before the first is synced, and folders are synced once for all: what one sync takes to disk is there for the next.
    fn put(&self, parcels: &[Parcel]) -> Vec<Result<u64, Fault>> {
        let mut results: Vec<Result<u64, Fault>> = Vec::with_capacity(parcels.len());
        let mut written = Vec::new();
        for (index, parcel) in parcels.iter().enumerate() {
            results.push(self.write(index, parcel).map(|file| {
                let bytes = file.bytes;
                written.push(file);
                bytes
            }));
        }
        let mut published = Vec::new();
        for mut file in written {
            let publish = at(&file.temporary, file.sink.sync())
                .and_then(|()| at(&file.file, self.disk.rename(&file.temporary, &file.file)));
            match publish {
                Ok(()) => published.push((file.index, file.shard)),
                Err(fault) => results[file.index] = Err(fault),
            }
        }
        let shards: BTreeSet<PathBuf> = published.iter().map(|(_, shard)| shard.clone()).collect();
        for shard in shards {
            if let Err(fault) = at(&shard, self.disk.sync_folder(&shard)) {
                for (index, _) in published.iter().filter(|(_, its)| *its == shard) {
                    results[*index] = Err(fault.clone());
                }
            }
        }
        results
    }

    fn get(&self, tenant: Tenant, key: BlockKey, bytes: u64) -> Result<Parcel, Fault> {
        let file = self.shard(&tenant, &key).join(key.to_string());
        let bytes = at(&file, self.disk.read(&file, bytes))?;
        seal::open(tenant, key, &bytes, self.coding.as_deref()).map_err(|(kind, what)| fault(kind, &file, what))
    }

    fn remove(&self, tenant: Tenant, key: BlockKey) -> Result<(), Fault> {
        let shard = self.shard(&tenant, &key);
        let mut result = Ok(());
        for file in [shard.join(key.to_string()), shard.join(format!("{key}{TEMPORARY}"))] {
            match self.disk.remove(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => result = at(&file, Err(error)),
                _ => (),
            }
        }
        result
    }

    fn probe(&self, _tenant: Tenant, keys: &[BlockKey]) -> Vec<Result<Option<u64>, Fault>> {
        // The index knows all of it; nobody asks.
        keys.iter().map(|_| Ok(None)).collect()
    }

    fn purge(&self, tenant: Tenant) -> Result<Purged, Fault> {
        scan::purge(self, tenant)
    }
}
