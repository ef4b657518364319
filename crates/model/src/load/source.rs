//! Files that must not change while they are read.
//!
//! Positional reads, not a memory map: weights are repacked anyway, and a file that is cut short under a map would kill
//! the process, where a read says so.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::ModelError;

/// Bytes hashed at a time.
const CHUNK: usize = 1 << 20;

/// An open file, with what it looked like when it was opened.
pub(crate) struct Source {
    file: File,
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Source, ModelError> {
        let file = File::open(path).map_err(|e| ModelError::io(path, e))?;
        let meta = file.metadata().map_err(|e| ModelError::io(path, e))?;
        if !meta.is_file() {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file");
            return Err(ModelError::io(path, source));
        }
        Ok(Source { file, path: path.into(), len: meta.len(), modified: meta.modified().ok() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// A reader from the start, with its own position.
    pub(crate) fn reader(&self) -> Result<File, ModelError> {
        File::open(&self.path).map_err(|e| ModelError::io(&self.path, e))
    }

    /// `len` bytes from `offset`. The caller has checked them against the length at opening.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, ModelError> {
        let within = offset.checked_add(len as u64).is_some_and(|end| end <= self.len);
        if !within {
            return Err(ModelError::Truncated {
                path: self.path.clone(),
                section: "tensor data".into(),
                offset: offset.saturating_add(len as u64),
                len: self.len,
            });
        }
        let mut out = vec![0; len];
        self.fill(offset, &mut out)?;
        Ok(out)
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<(), ModelError> {
        read_at(&self.file, offset, out).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => ModelError::Changed { path: self.path.clone() },
            _ => ModelError::io(&self.path, e),
        })
    }

    /// Errs if the file at the path is no longer what was opened.
    pub(crate) fn unchanged(&self) -> Result<(), ModelError> {
        let same = |meta: Metadata| meta.len() == self.len && meta.modified().ok() == self.modified;
        let handle = self.file.metadata().map_err(|e| ModelError::io(&self.path, e))?;
        // The path too: downloads replace files by renaming.
        let at_path = std::fs::metadata(&self.path).map(same).unwrap_or(false);
        if same(handle) && at_path { Ok(()) } else { Err(ModelError::Changed { path: self.path.clone() }) }
    }

    /// Adds the file's length and all of its bytes.
    pub(crate) fn hash_into(&self, hasher: &mut blake3::Hasher) -> Result<(), ModelError> {
        hasher.update(&self.len.to_le_bytes());
        let mut buffer = vec![0; CHUNK.min(usize::try_from(self.len).unwrap_or(CHUNK))];
        let mut offset = 0;
        while offset < self.len {
            let n = (self.len - offset).min(CHUNK as u64) as usize;
            let Some(part) = buffer.get_mut(..n) else { break };
            self.fill(offset, part)?;
            hasher.update(part);
            offset += n as u64;
        }
        Ok(())
    }
}

#[cfg(unix)]
fn read_at(file: &File, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> std::io::Result<()> {
    while !out.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, out, offset)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        out = &mut out[n..];
        offset += n as u64;
    }
    Ok(())
}
