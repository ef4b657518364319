//! Bytes of a file by their place. Reads go through the operating system, so that a disk that fails is an error; only
//! pages that are used in place are mapped.

use super::FileError;
use super::bytes::padded;
use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) len: u64,
    file: File,
    map: OnceLock<Option<Mmap>>,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Source, FileError> {
        let error = |source| FileError::Io { path: path.to_owned(), what: "open", source };
        let file = File::open(path).map_err(error)?;
        let len = file.metadata().map_err(error)?.len();
        Ok(Source { path: path.to_owned(), len, file, map: OnceLock::new() })
    }

    /// `len` bytes from `at`. Nothing is allocated for what lies beyond the end.
    pub(super) fn read(&self, at: u64, len: u64) -> io::Result<Vec<u8>> {
        let within = at.checked_add(len).is_some_and(|end| end <= self.len);
        let (true, Ok(len)) = (within, usize::try_from(len)) else {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("bytes {at} and {len} more of {}", self.len),
            ));
        };
        let mut bytes = vec![0; len];
        read_at(&self.file, at, &mut bytes)?;
        Ok(bytes)
    }

    /// What lies from `at` up to the next multiple of 64 behind `len` bytes, where the file goes so far.
    pub(super) fn end_of(&self, at: u64, len: u64) -> Option<u64> {
        at.checked_add(padded(len)?).filter(|&end| end <= self.len)
    }

    /// The same bytes where they lie; `None` where the file cannot be mapped.
    pub(super) fn in_place(&self, at: u64, len: u64) -> Option<&[u8]> {
        // SAFETY: files are renamed into place when they are whole and never written again (see the writer), so nothing
        // changes below the map. Whoever writes into one with other programs changes pages after they were checked, as
        // with any map.
        let map = self.map.get_or_init(|| unsafe { Mmap::map(&self.file) }.ok());
        let at = usize::try_from(at).ok()?;
        map.as_ref()?.get(at..at.checked_add(usize::try_from(len).ok()?)?)
    }
}

#[cfg(unix)]
fn read_at(file: &File, at: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut at: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, out, at)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out = &mut out[n..];
        at += n as u64;
    }
    Ok(())
}
