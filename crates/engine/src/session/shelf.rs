//! The folder of sessions: a file each and those behind it, in a folder of its tenant.
//!
//! Files are called by digests of names, so no path ever comes from outside, and a tenant's folder by a digest of the tenant.
//! Nothing here needs an engine.

use std::fs;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use cachalot_store::codec::Plain;
use cachalot_store::file::{About, KvFileWriter};
use cachalot_store::{Block, Identity, StoreError};

use super::kept::{damaged, open};
use super::segments::Segments;
use super::{Kept, Listed, Session, SessionError, SessionName};

/// Age at which a file that somebody began and did not finish is cleared away.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Sessions on disk.
pub struct Shelf {
    root: PathBuf,
    most: usize,
}

/// What was written to a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Blocks.
    pub blocks: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Bytes of the session's own file.
    pub bytes: u64,
}

impl Shelf {
    /// Sessions that a tenant may have, where nobody says otherwise.
    pub const MOST: usize = 1000;

    /// Opens a folder, which is made if it is not there, and clears away what others began to write in it and never
    /// finished. `most` is the number of sessions a tenant may have, `now` the time in seconds since 1970.
    ///
    /// # Errors
    /// [`SessionError::Io`].
    pub fn open(root: impl Into<PathBuf>, most: usize, now: u64) -> Result<Shelf, SessionError> {
        let shelf = Shelf { root: root.into(), most };
        make_folder(&shelf.root)?;
        let old = UNIX_EPOCH + Duration::from_secs(now).saturating_sub(ABANDONED);
        let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
        for entry in entries(&shelf.root).flat_map(|folder| entries(&folder.path())) {
            let part = entry.file_name().to_string_lossy().ends_with(".part");
            let written = entry.metadata().and_then(|about| about.modified());
            if part && written.is_ok_and(|written| written < old) {
                // Somebody else may have been quicker.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(shelf)
    }

    pub(super) fn folder(&self, tenant: &str) -> PathBuf {
        self.root.join(digest("cachalot session tenant v1", tenant))
    }

    pub(super) fn path(&self, tenant: &str, name: &SessionName) -> PathBuf {
        self.folder(tenant).join(digest("cachalot session name v1", name.as_str())).with_extension("ckv")
    }

    /// Whether there is such a session.
    pub fn has(&self, tenant: &str, name: &SessionName) -> bool {
        self.path(tenant, name).exists()
    }

    /// All sessions of a tenant by name, and what is wrong with those that cannot be read.
    ///
    /// # Errors
    /// [`SessionError::Io`].
    pub fn list(&self, tenant: &str) -> Result<(Vec<Listed>, Vec<SessionError>), SessionError> {
        let folder = self.folder(tenant);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == NotFound => return Ok(Default::default()),
            Err(source) => return Err(SessionError::Io { path: folder, what: "list the folder", source }),
        };
        let (mut sessions, mut damaged) = (Vec::new(), Vec::new());
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "ckv"));
        paths.sort();
        for path in paths {
            match open(&path, &path.display().to_string()) {
                Ok(kept) => sessions.push(kept.listed()),
                // It was removed meanwhile.
                Err(SessionError::Unknown { .. }) => {}
                Err(error) => damaged.push(error),
            }
        }
        sessions.sort_by(|a, b| a.session.name.cmp(&b.session.name));
        Ok((sessions, damaged))
    }

    /// A session.
    ///
    /// # Errors
    /// [`SessionError::Unknown`]; [`SessionError::Damaged`] where the conversation is; [`SessionError::File`].
    pub fn read(&self, tenant: &str, name: &SessionName) -> Result<Kept, SessionError> {
        let kept = open(&self.path(tenant, name), name.as_str())?;
        match kept.session.name == name.as_str() {
            true => Ok(kept),
            false => Err(damaged(name.as_str(), format!("its file is that of `{}`", kept.session.name))),
        }
    }

    /// Writes a session in place of what has its name: its own file, with what is not in those behind it. The first block that
    /// cannot be had ends it. Files that were behind it and are not now go.
    ///
    /// # Errors
    /// [`SessionError::TooMany`]; [`SessionError::File`], and what was there is there still.
    pub(super) fn write(
        &self,
        tenant: &str,
        session: &Session,
        identity: &Identity,
        about: About,
        segments: &Segments,
        blocks: impl Iterator<Item = Result<Block, StoreError>>,
    ) -> Result<Written, SessionError> {
        let name: SessionName = session.name.parse()?;
        let (folder, path) = (self.folder(tenant), self.path(tenant, &name));
        make_folder(&folder)?;
        if !path.exists() && self.count(&folder) >= self.most {
            return Err(SessionError::TooMany { most: self.most });
        }
        let mut about = About { meta: session.to_meta(), ..about };
        segments.to_meta(&mut about.meta);
        let mut writer = KvFileWriter::create(&path, identity, about)?;
        let mut written = Written::default();
        for block in blocks.map_while(Result::ok) {
            writer.add(&block, &Plain)?;
            written.blocks += 1;
            written.tokens += block.tokens.len();
        }
        writer.finish()?;
        segments.sweep(&path);
        set_time(&path, session.used);
        self.set_pin(&path, session.pinned_until)?;
        written.bytes = fs::metadata(&path).map_or(0, |about| about.len());
        Ok(written)
    }

    /// Removes a session's file and whatever belongs to it.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], [`SessionError::Io`].
    pub fn remove(&self, tenant: &str, name: &SessionName) -> Result<(), SessionError> {
        let path = self.path(tenant, name);
        // First what nobody would find without the session's own file.
        Segments::default().sweep(&path);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == NotFound => return Err(SessionError::Unknown { name: name.to_string() }),
            Err(source) => return Err(SessionError::Io { path, what: "remove the file", source }),
        }
        self.set_pin(&path, None)?;
        // Others may be in it.
        let _ = fs::remove_dir(self.folder(tenant));
        Ok(())
    }

    /// Notes that a session was of use.
    pub fn touch(&self, tenant: &str, name: &SessionName, now: u64) {
        set_time(&self.path(tenant, name), now);
    }

    /// Notes until when a session is to stay in memory. It stands beside the file, which would have to be written anew.
    ///
    /// # Errors
    /// [`SessionError::Io`].
    pub fn pin(&self, tenant: &str, name: &SessionName, until: Option<u64>) -> Result<(), SessionError> {
        self.set_pin(&self.path(tenant, name), until)
    }

    fn set_pin(&self, file: &Path, until: Option<u64>) -> Result<(), SessionError> {
        let path = file.with_extension("pin");
        let result = match until {
            Some(until) => fs::write(&path, until.to_string()),
            None => fs::remove_file(&path).or_else(|error| if error.kind() == NotFound { Ok(()) } else { Err(error) }),
        };
        result.map_err(|source| SessionError::Io { path, what: "note the pin", source })
    }

    fn count(&self, folder: &Path) -> usize {
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        files.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "ckv")).count()
    }
}

fn digest(context: &str, text: &str) -> String {
    blake3::Hash::from(blake3::derive_key(context, text.as_bytes())).to_hex()[..40].to_owned()
}

/// A folder that its owner alone can look into.
fn make_folder(path: &Path) -> Result<(), SessionError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|source| SessionError::Io { path: path.to_owned(), what: "make the folder", source })
}

/// The time of a file is when its session was last of use. Not knowing it is no reason to fail.
fn set_time(path: &Path, now: u64) {
    if let Ok(file) = fs::File::options().append(true).open(path) {
        let _ = file.set_modified(UNIX_EPOCH + Duration::from_secs(now));
    }
}
