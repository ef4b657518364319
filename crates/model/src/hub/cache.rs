//! The local cache, laid out as all Hugging Face clients lay it out, so that they share their downloads:
//! `models--org--name/{blobs/ETAG, snapshots/COMMIT/FILE -> blob, refs/REVISION}`.

use std::fs::File;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::spec::HubSpec;
use crate::ModelError;

/// One repository's place in the cache.
pub(super) struct Place {
    repo: CacheRepo,
    root: PathBuf,
    revision: String,
}

impl Place {
    pub fn new(cache: &Path, spec: &HubSpec) -> Self {
        let repo = Repo::with_revision(spec.repo.clone(), RepoType::Model, spec.revision.clone());
        let root = cache.join(repo.folder_name());
        Place { repo: Cache::new(cache.to_owned()).repo(repo), root, revision: spec.revision.clone() }
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    /// The folder that the revision pointed to when it was last looked up; a full commit is its own.
    pub fn known_snapshot(&self) -> Option<PathBuf> {
        let commit = std::fs::read_to_string(self.root.join("refs").join(&self.revision)).ok();
        let commit = commit.map_or_else(|| self.revision.clone(), |c| c.trim().to_owned());
        let folder = self.snapshot(&commit);
        (super::spec::is_name(&commit) && folder.is_dir()).then_some(folder)
    }

    /// Where a file's contents lie, and the place of an unfinished download beside it.
    pub fn blob(&self, etag: &str) -> (PathBuf, PathBuf) {
        let blobs = self.root.join("blobs");
        (blobs.join(etag), blobs.join(format!("{etag}.part")))
    }

    /// Waits until no other process downloads these contents.
    pub fn lock(&self, etag: &str) -> Result<File, ModelError> {
        let path = self.root.join("blobs").join(format!("{etag}.lock"));
        let make = || -> std::io::Result<File> {
            std::fs::create_dir_all(self.root.join("blobs"))?;
            let file = File::create(&path)?;
            file.lock()?;
            Ok(file)
        };
        make().map_err(|source| ModelError::Io { path: path.clone(), source })
    }

    /// Makes `file` of a commit point to its contents.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), ModelError> {
        let pointer = self.snapshot(commit).join(file);
        let (blob, _) = self.blob(etag);
        // From snapshots/COMMIT/, one more for each folder in the file's name.
        let up = "../".repeat(2 + file.matches('/').count());
        let target = format!("{up}blobs/{etag}");
        let make = || -> std::io::Result<()> {
            if let Some(folder) = pointer.parent() {
                std::fs::create_dir_all(folder)?;
            }
            match std::fs::remove_file(&pointer) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            place(&target, &blob, &pointer)
        };
        make().map_err(|source| ModelError::Io { path: pointer.clone(), source })
    }

    /// Remembers which commit the revision is.
    pub fn remember(&self, commit: &str) -> Result<(), ModelError> {
        let path = self.root.join("refs").join(&self.revision);
        self.repo.create_ref(commit).map_err(|source| ModelError::Io { path, source })
    }
}

#[cfg(unix)]
fn place(target: &str, _blob: &Path, pointer: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

#[cfg(not(unix))]
fn place(_target: &str, blob: &Path, pointer: &Path) -> std::io::Result<()> {
    // Links need a privilege on Windows; a copy works always.
    std::fs::copy(blob, pointer).map(drop)
}
