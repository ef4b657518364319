//! All sessions of a tenant go at once.

use std::fs::{self, DirEntry, File};
use std::io::{self, ErrorKind::NotFound};
use std::path::Path;

use cachalot_store::tier::Removed;

use super::{Sessions, Shelf};
use crate::{Deletion, EngineError};

impl Shelf {
    /// Removes every file of a tenant, those that somebody began to write too, syncs the folders, and looks again. Counts sessions
    /// as objects, and the bytes of all files. Nobody may write sessions of the tenant meanwhile.
    pub fn remove_tenant(&self, tenant: &str) -> Removed {
        let folder = self.folder(tenant);
        let mut removed = Removed::default();
        let fault = |removed: &mut Removed, what: &str, error: io::Error| {
            removed.fault.get_or_insert_with(|| format!("{}: cannot {what}: {error}", folder.display()));
        };
        let result = each(&folder, |entry, bytes| {
            if !is_ours(&entry) {
                removed.foreign += 1;
                return;
            }
            match fs::remove_file(entry.path()) {
                Ok(()) => {
                    removed.objects += u64::from(is_session(&entry));
                    removed.bytes += bytes;
                }
                Err(error) if error.kind() == NotFound => {}
                Err(error) => fault(&mut removed, "remove a file", error),
            }
        });
        if let Err(error) = result.and_then(|()| sync(&folder)) {
            fault(&mut removed, "look into it or sync it", error);
        }
        // Not where somebody else has a file in it.
        if fs::remove_dir(&folder).is_ok()
            && let Err(error) = folder.parent().map_or(Ok(()), sync)
        {
            fault(&mut removed, "sync the folder it was in", error);
        }
        let look = each(&folder, |entry, bytes| {
            if is_ours(&entry) {
                removed.left_objects += 1;
                removed.left_bytes += bytes;
            }
        });
        if let Err(error) = look {
            fault(&mut removed, "look into it", error);
        }
        removed
    }
}

/// What there is in a folder, with its bytes; nothing where the folder is not there.
fn each(folder: &Path, mut see: impl FnMut(DirEntry, u64)) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let bytes = entry.metadata().map_or(0, |about| about.len());
        see(entry, bytes);
    }
    Ok(())
}

/// Flushes a folder to the disk, if it is there.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    match File::open(folder) {
        Err(error) if error.kind() == NotFound => Ok(()),
        file => file?.sync_all(),
    }
}

fn has_extension(entry: &DirEntry, extensions: &[&str]) -> bool {
    let path = entry.path();
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| extensions.contains(&extension))
}

fn is_session(entry: &DirEntry) -> bool {
    has_extension(entry, &["ckv"])
}

/// Sessions, what they had before, their pins, and what was begun to be written.
fn is_ours(entry: &DirEntry) -> bool {
    has_extension(entry, &["ckv", "seg", "pin", "part"])
}

impl Sessions {
    /// Removes all of a tenant: its requests end, its sessions, its blocks in the pool and those of every tier go. Until that is
    /// over, its requests are refused, and who wants one of its sessions waits. May block on the disk.
    ///
    /// # Errors
    /// That the engine is going down. What could not be removed is no error; the result says what is left.
    pub async fn delete_tenant(&self, tenant: &str) -> Result<Deletion, EngineError> {
        let (_closed, ended) = self.handle.close_tenant(tenant).await?;
        // Answers that are being saved are, and then go with the rest.
        let _alone = self.locks.tenant(tenant).await;
        self.pins().release_tenant(tenant);
        let sessions = self.shelf.remove_tenant(tenant);
        let mut deletion = self.handle.delete_tenant(tenant).await?;
        deletion.requests += ended;
        deletion.sessions = Some(sessions);
        Ok(deletion)
    }
}
