//! Reads little-endian values and counts: every read is checked against the file's length before memory is taken.

use std::io::Read;
use std::path::Path;

use crate::ModelError;

/// No section of any file has so many bytes: a count that asks for more is damage, not the mark of a missing end.
const PLAUSIBLE: u64 = 1 << 42;

/// A place in a file of known length.
pub(super) struct Reader<'a, R> {
    inner: R,
    path: &'a Path,
    offset: u64,
    len: u64,
    section: String,
}

impl<'a, R: Read> Reader<'a, R> {
    pub(super) fn new(inner: R, len: u64, path: &'a Path) -> Self {
        Reader { inner, path, offset: 0, len, section: "magic".into() }
    }

    /// Names what is being read from here on, for messages.
    pub(super) fn enter(&mut self, section: impl Into<String>) {
        self.section = section.into();
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// A value at `offset` contradicts the format.
    pub(super) fn malformed(&self, offset: u64, reason: impl Into<String>) -> ModelError {
        ModelError::Malformed { path: self.path.into(), section: self.section.clone(), offset, reason: reason.into() }
    }

    fn truncated(&self, bytes: u64) -> ModelError {
        ModelError::Truncated {
            path: self.path.into(),
            section: self.section.clone(),
            offset: self.offset.saturating_add(bytes),
            len: self.len,
        }
    }

    /// Errs unless `bytes` more are in the file.
    pub(super) fn need(&self, bytes: u64) -> Result<(), ModelError> {
        if bytes > self.len - self.offset { Err(self.truncated(bytes)) } else { Ok(()) }
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), ModelError> {
        self.need(out.len() as u64)?;
        self.inner.read_exact(out).map_err(|e| match e.kind() {
            // The length was right when the file was opened.
            std::io::ErrorKind::UnexpectedEof => ModelError::Changed { path: self.path.into() },
            _ => ModelError::io(self.path, e),
        })?;
        self.offset += out.len() as u64;
        Ok(())
    }

    /// `N` raw bytes.
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// A count of things of at least `each` bytes that come later, refused when no file could hold them. Not compared
    /// with this file: where the file ends too early, the section that is cut is named.
    pub(super) fn count(&mut self, each: u64, of: &str) -> Result<usize, ModelError> {
        let at = self.offset;
        let n = self.u64()?;
        match n.checked_mul(each) {
            Some(bytes) if bytes <= PLAUSIBLE => Ok(n as usize),
            _ => Err(self.malformed(at, format!("{n} {of} of at least {each} bytes each are declared"))),
        }
    }

    /// A count of things of at least `each` bytes that come next, refused when they are not in the rest of the file.
    pub(super) fn count_here(&mut self, each: u64, of: &str) -> Result<usize, ModelError> {
        let n = self.count(each, of)?;
        self.need(n as u64 * each).map(|()| n)
    }

    /// A string with its length before it.
    pub(super) fn string(&mut self) -> Result<String, ModelError> {
        let n = self.u64()?;
        let at = self.offset;
        // Checked before anything is allocated; what passes is no larger than the file.
        self.need(n)?;
        let mut bytes = vec![0; n as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.malformed(at, "a string is not UTF-8"))
    }
}
