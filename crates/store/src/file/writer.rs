//! A KV file, written: whole under its name, or not at all.

use super::bytes::{crc, pad};
use super::frame::{self, Footer, MAX_IDENTITY};
use super::reader::BlockInfo;
use super::{About, FileError, FileIdentity, index, record};
use crate::{Block, BlockKey, Codec, Domain, Identity};
use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Writes to a temporary name beside the file; dropped before [`KvFileWriter::finish`] it leaves nothing.
pub struct KvFileWriter {
    path: PathBuf,
    out: BufWriter<NamedTempFile>,
    domain: Domain,
    at: u64,
    blocks: Vec<BlockInfo>,
    seen: HashSet<BlockKey>,
    /// Of the last record; kept for its room.
    record: Vec<u8>,
    /// Whether writing has failed: what is in the file then, nobody knows.
    failed: bool,
}

impl KvFileWriter {
    /// Begins a file of blocks of `identity`, readable by its owner alone. What is at `path` stays until
    /// [`KvFileWriter::finish`].
    ///
    /// # Errors
    /// [`FileError::Io`]; [`FileError::Refused`] where `about` is too large.
    pub fn create(path: impl AsRef<Path>, identity: &Identity, about: About) -> Result<KvFileWriter, FileError> {
        let path = path.as_ref().to_owned();
        let folder = folder(&path);
        let temporary = tempfile::Builder::new().prefix(".kv-file-").suffix(".part").tempfile_in(folder);
        let error = |source| FileError::Io { path: folder.to_owned(), what: "create a file in the folder", source };
        let out = BufWriter::new(temporary.map_err(error)?);
        let json = FileIdentity::new(identity, about).write();
        if json.len() > MAX_IDENTITY as usize {
            let what = format!("{} bytes of names and metadata; at most {MAX_IDENTITY} are possible", json.len());
            return Err(FileError::Refused { path, what });
        }
        let mut bytes = frame::preamble(&json);
        bytes.extend_from_slice(&json);
        pad(&mut bytes, 0);
        let mut writer = KvFileWriter {
            path,
            out,
            domain: identity.domain(),
            at: 0,
            blocks: Vec::new(),
            seen: HashSet::new(),
            record: Vec::new(),
            failed: false,
        };
        writer.append(&bytes)?;
        Ok(writer)
    }

    /// Appends a block; those before it in its sequence should come first.
    ///
    /// # Errors
    /// [`FileError::Refused`] for a block of another identity, one that is there already, or after an error of the
    /// disk; [`FileError::Block`] as [`record::write`]; [`FileError::Io`].
    pub fn add(&mut self, block: &Block, codec: &dyn Codec) -> Result<(), FileError> {
        let key = block.key();
        if block.domain != self.domain {
            return Err(self.refused(format!("block {key} is of another identity than the file")));
        }
        if self.seen.contains(&key) {
            return Err(self.refused(format!("block {key} is in the file already")));
        }
        let mut bytes = std::mem::take(&mut self.record);
        bytes.clear();
        record::write(block, codec, &mut bytes)?;
        let (at, len) = (self.at, bytes.len() as u64);
        self.append(&bytes)?;
        self.record = bytes;
        self.seen.insert(key);
        let (parent, start, tokens) = (block.parent, block.start, block.tokens.clone());
        self.blocks.push(BlockInfo { key, parent, start, tokens, at, len });
        Ok(())
    }

    /// Ends the file and gives it its name, on the disk when this returns.
    ///
    /// # Errors
    /// [`FileError::Io`]; what was at the path before is there still, unless the last flush of the folder failed.
    pub fn finish(mut self) -> Result<(), FileError> {
        let mut bytes = index::write(self.domain, &self.blocks);
        let (index_at, index_len, index_crc) = (self.at, bytes.len() as u64, crc(&bytes));
        pad(&mut bytes, 0);
        let file_len = index_at + (bytes.len() + frame::FRAME) as u64;
        let blocks = self.blocks.len() as u32;
        bytes.extend_from_slice(&Footer { index_at, index_len, index_crc, blocks, file_len }.write());
        self.append(&bytes)?;
        let path = &self.path;
        let error = |what| move |source| FileError::Io { path: path.clone(), what, source };
        let file = self.out.into_inner().map_err(|e| error("write")(e.into_error()))?;
        file.as_file().sync_all().map_err(error("flush"))?;
        file.persist(path).map_err(|e| error("rename")(e.error))?;
        sync_folder(folder(path)).map_err(error("flush the folder of"))
    }

    fn refused(&self, what: String) -> FileError {
        FileError::Refused { path: self.path.clone(), what }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        if self.failed {
            return Err(self.refused("writing has failed before; begin anew".to_owned()));
        }
        if let Err(source) = self.out.write_all(bytes) {
            self.failed = true;
            return Err(FileError::Io { path: self.path.clone(), what: "write", source });
        }
        self.at += bytes.len() as u64;
        Ok(())
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new name is on the disk only when its folder is.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> std::io::Result<()> {
    Ok(())
}
