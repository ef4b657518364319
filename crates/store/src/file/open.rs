//! Opening a KV file: what stands before and behind the records, as far as it can be believed.

use super::bytes::{crc, padded};
use super::frame::{FRAME, Footer, MAX_IDENTITY, Preamble};
use super::reader::{BlockInfo, KvFile};
use super::source::Source;
use super::{Damage, FileError, FileIdentity, VERSION, index, scan};
use crate::Domain;
use std::path::Path;

impl KvFile {
    /// Opens a file: reads what stands before and behind the records, or looks for them where that is damaged.
    ///
    /// # Errors
    /// [`FileError::NotKvFile`], [`FileError::Version`], [`FileError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<KvFile, FileError> {
        let source = Source::open(path.as_ref())?;
        let mut file =
            KvFile { source, identity: None, writer: None, domain: None, blocks: Vec::new(), damage: Vec::new() };
        let from = file.read_identity()?;
        let Some((domain, blocks)) = file.read_index(from)? else {
            let found = scan::scan(&file.source, from, file.domain)?;
            (file.domain, file.blocks) = (found.domain, found.blocks);
            file.damage.extend(found.damage);
            return Ok(file);
        };
        (file.domain, file.blocks) = (Some(domain), blocks);
        Ok(file)
    }

    /// Reads the beginning and gives the place where records begin.
    fn read_identity(&mut self) -> Result<u64, FileError> {
        let path = || self.source.path.clone();
        let frame = self.bytes(0, self.source.len.min(FRAME as u64))?;
        let (len, sum) = match Preamble::read(&frame) {
            Preamble::Unknown => {
                let what = format!("it begins with {:02x?}", &frame[..frame.len().min(8)]);
                return Err(FileError::NotKvFile { path: path(), what });
            }
            Preamble::Version { found, writer } => {
                return Err(FileError::Version { path: path(), found, writer, reads: VERSION });
            }
            Preamble::Damaged => {
                self.broken(0, "checksum of the preamble; the identity is not read");
                return Ok(FRAME as u64);
            }
            Preamble::Right { identity_len, identity_crc, writer } => {
                self.writer = Some(writer);
                (identity_len, identity_crc)
            }
        };
        let Some(end) = self.source.end_of(FRAME as u64, len.into()).filter(|_| len <= MAX_IDENTITY) else {
            self.broken(FRAME as u64, "the identity is cut off");
            return Ok(FRAME as u64);
        };
        let bytes = self.bytes(FRAME as u64, len.into())?;
        self.identity = (crc(&bytes) == sum).then(|| FileIdentity::read(&bytes)).flatten();
        self.domain = self.identity.as_ref().map(|identity| identity.domain);
        if self.identity.is_none() {
            let what = if crc(&bytes) == sum { "fields" } else { "checksum" };
            self.broken(FRAME as u64, &format!("{what} of the identity; whose blocks these are, their domain says"));
        }
        Ok(end)
    }

    /// Footer and index, where they can be believed.
    fn read_index(&mut self, from: u64) -> Result<Option<(Domain, Vec<BlockInfo>)>, FileError> {
        let at = self.source.len.saturating_sub(FRAME as u64);
        let frame = self.bytes(at, self.source.len - at)?;
        let Some(footer) = Footer::read(&frame).filter(|footer| footer.file_len == self.source.len) else {
            self.broken(self.source.len, "no footer: the file was cut off, changed or not finished");
            return Ok(None);
        };
        let end = padded(footer.index_len).and_then(|len| footer.index_at.checked_add(len));
        let mut found = None;
        if end == Some(at) && footer.index_at >= from {
            let bytes = self.bytes(footer.index_at, footer.index_len)?;
            let index = (crc(&bytes) == footer.index_crc).then(|| index::read(&bytes, footer.index_at)).flatten();
            found = index.filter(|(domain, blocks)| {
                blocks.len() == footer.blocks as usize && self.domain.is_none_or(|known| known == *domain)
            });
        }
        if found.is_none() {
            self.broken(footer.index_at, "checksum or content of the index; blocks are looked for one by one");
        }
        Ok(found)
    }

    fn bytes(&self, at: u64, len: u64) -> Result<Vec<u8>, FileError> {
        let error = |source| FileError::Io { path: self.source.path.clone(), what: "read", source };
        self.source.read(at, len).map_err(error)
    }

    fn broken(&mut self, at: u64, what: &str) {
        self.damage.push(Damage { at, what: what.to_owned() });
    }
}
