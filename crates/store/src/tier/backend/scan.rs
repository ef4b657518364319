//! What is in a folder at start, and removing all of a tenant from it.

use std::path::Path;

use super::disk::{DirEntry, Kind};
use super::folder::{Folder, at};
use super::layout::{LOCK, Named, file_of, is_shard, tenant_of};
use crate::BlockKey;
use crate::cost::file as cost;
use crate::tier::fault::{Fault, FaultKind};
use crate::tier::machine::{Found, Purged};
use crate::tier::object::Tenant;
use crate::tier::seal::HEADER;

/// What a look at a folder found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Objects, by their names and lengths; their bytes are verified when they are read.
    pub found: Vec<Found>,
    /// Files that writing left behind, removed now.
    pub leftovers: u64,
    /// What is not ours, left alone: the first hundred.
    pub foreign: Vec<String>,
    /// How many those are.
    pub foreign_count: u64,
    /// What could not be looked at or removed.
    pub faults: Vec<Fault>,
}

impl Scan {
    fn foreign(&mut self, folder: &Path, name: &str) {
        self.foreign_count += 1;
        if self.foreign.len() < 100 {
            self.foreign.push(folder.join(name).display().to_string());
        }
    }
}

impl Folder {
    /// Looks at all of it, and removes what writing left behind. Reads no file.
    ///
    /// # Errors
    /// Where the folder itself cannot be listed. What cannot be listed within is reported in the result.
    pub fn scan(&self) -> Result<Scan, Fault> {
        let mut scan = Scan::default();
        for entry in at(&self.root, self.disk.list(&self.root))? {
            match tenant_of(&entry.name).filter(|_| entry.kind == Kind::Folder) {
                Some(tenant) => self.scan_tenant(tenant, &mut scan),
                None if [LOCK, cost::NAME, cost::TEMPORARY].contains(&&*entry.name) => (),
                None => scan.foreign(&self.root, &entry.name),
            }
        }
        Ok(scan)
    }

    fn scan_tenant(&self, tenant: Tenant, scan: &mut Scan) {
        let folder = self.tenant_folder(&tenant);
        let Some(shards) = self.list(&folder, scan) else { return };
        for shard in shards {
            if shard.kind != Kind::Folder || !is_shard(&shard.name) {
                scan.foreign(&folder, &shard.name);
                continue;
            }
            let folder = folder.join(&shard.name);
            for file in self.list(&folder, scan).unwrap_or_default() {
                let named = if file.kind == Kind::File { file_of(&shard.name, &file.name) } else { Named::Foreign };
                match named {
                    Named::Foreign => scan.foreign(&folder, &file.name),
                    // A file without a whole header was never published by us, or its disk lost it.
                    Named::Object(key) if file.bytes >= HEADER as u64 => {
                        scan.found.push(Found { tenant, key, bytes: file.bytes, age: file.age });
                    }
                    Named::Object(_) | Named::Leftover => {
                        let path = folder.join(&file.name);
                        match at(&path, self.disk.remove(&path)) {
                            Ok(()) => scan.leftovers += 1,
                            Err(fault) => scan.faults.push(fault),
                        }
                    }
                }
            }
        }
    }

    fn list(&self, folder: &Path, scan: &mut Scan) -> Option<Vec<DirEntry>> {
        at(folder, self.disk.list(folder)).map_err(|fault| scan.faults.push(fault)).ok()
    }
}

/// Removes every file of a tenant that is ours, syncs the folders, and lists them again.
pub(super) fn purge(folder: &Folder, tenant: Tenant) -> Result<Purged, Fault> {
    let mut purged = Purged::default();
    let mut fault = None;
    for (_, bytes, path) in files(folder, tenant, &mut 0)? {
        match at(&path, folder.disk.remove(&path)) {
            Ok(()) => {
                purged.objects += 1;
                purged.bytes += bytes;
            }
            Err(error) if error.kind == FaultKind::Missing => (),
            Err(error) => fault = fault.or(Some(error)),
        }
    }
    let root = folder.tenant_folder(&tenant);
    folder.forget_folders(&root);
    for shard in shards(folder, tenant)? {
        // Before the folder goes: where it cannot, a crash must not bring its files back.
        let synced = at(&shard, folder.disk.sync_folder(&shard));
        fault = fault.or(synced.err());
        // Not empty where foreign files are in it; that is theirs.
        let _ = folder.disk.remove_folder(&shard);
    }
    match folder.disk.sync_folder(&root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
        synced => fault = fault.or(at(&root, synced).err()),
    }
    if folder.disk.remove_folder(&root).is_ok() {
        fault = fault.or(at(&folder.root, folder.disk.sync_folder(&folder.root)).err());
    }
    let left = files(folder, tenant, &mut purged.foreign)?;
    purged.left = left.into_iter().map(|(key, bytes, _)| (key, bytes)).collect();
    purged.fault = fault;
    Ok(purged)
}

/// Folders of a tenant's objects; none where it has none.
fn shards(folder: &Folder, tenant: Tenant) -> Result<Vec<std::path::PathBuf>, Fault> {
    let root = folder.tenant_folder(&tenant);
    let listed = match at(&root, folder.disk.list(&root)) {
        Err(fault) if fault.kind == FaultKind::Missing => return Ok(Vec::new()),
        listed => listed?,
    };
    let ours = listed.into_iter().filter(|entry| entry.kind == Kind::Folder && is_shard(&entry.name));
    Ok(ours.map(|entry| root.join(entry.name)).collect())
}

/// Files of a tenant that are ours, leftovers of writing too.
fn files(
    folder: &Folder,
    tenant: Tenant,
    foreign: &mut u64,
) -> Result<Vec<(BlockKey, u64, std::path::PathBuf)>, Fault> {
    let mut files = Vec::new();
    for shard in shards(folder, tenant)? {
        let name = shard.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        for file in at(&shard, folder.disk.list(&shard))? {
            let key = match file_of(&name, &file.name) {
                Named::Object(key) if file.kind == Kind::File => key,
                Named::Leftover if file.kind == Kind::File => match file_of(&name, file.name.get(..64).unwrap_or("")) {
                    Named::Object(key) => key,
                    _ => continue,
                },
                _ => {
                    *foreign += 1;
                    continue;
                }
            };
            files.push((key, file.bytes, shard.join(&file.name)));
        }
    }
    Ok(files)
}
