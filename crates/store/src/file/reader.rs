//! A KV file, read.

use super::bytes::{crc, padded};
use super::frame::{FRAME, Footer, MAX_IDENTITY, Preamble};
use super::head::{self, Entry, FIXED, Head};
use super::source::Source;
use super::{Damage, FileError, FileIdentity, VERSION, index, record, scan};
use crate::{Block, BlockKey, Codec, Domain, Form, Page, StoreError};
use cachalot_kv::page::Header;
use serde_json::{Map, Value};
use std::path::Path;

/// A block of a file, without its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Its name; right for its tokens and the file's domain.
    pub key: BlockKey,
    /// The block before it, which need not be in this file.
    pub parent: Option<BlockKey>,
    /// Position of its first token.
    pub start: u64,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Where its record is.
    pub at: u64,
    /// Bytes of the record.
    pub len: u64,
}

/// An open file. What is damaged in it is not given; the rest is.
pub struct KvFile {
    source: Source,
    identity: Option<FileIdentity>,
    writer: Option<String>,
    domain: Option<Domain>,
    blocks: Vec<BlockInfo>,
    damage: Vec<Damage>,
}

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

    /// Whose blocks these are; `None` where that part is damaged.
    pub fn identity(&self) -> Option<&FileIdentity> {
        self.identity.as_ref()
    }

    /// What the user keeps with the file; `None` where that part is damaged.
    pub fn meta(&self) -> Option<&Map<String, Value>> {
        self.identity.as_ref().map(|identity| &identity.about.meta)
    }

    /// The program that wrote it; `None` where that part is damaged.
    pub fn writer(&self) -> Option<&str> {
        self.writer.as_deref()
    }

    /// The domain of all blocks: known where the identity, the index or any record is intact.
    pub fn domain(&self) -> Option<Domain> {
        self.domain
    }

    /// What is there, in the order of the file. Pages of a block may turn out damaged when they are read.
    pub fn blocks(&self) -> &[BlockInfo] {
        &self.blocks
    }

    /// What was found broken when the file was opened. [`KvFile::check`] looks at every page.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    pub(super) fn block(&self, i: usize) -> Result<&BlockInfo, StoreError> {
        let what = || format!("no block {i} in a file of {}", self.blocks.len());
        self.blocks.get(i).ok_or_else(|| record::corrupt(&self.source.path.display().to_string(), what()))
    }

    fn place(&self, at: u64) -> String {
        format!("{}, block at byte {at}", self.source.path.display())
    }

    fn part(&self, at: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        self.source.read(at, len).map_err(|source| StoreError::Io { place: self.place(at), source })
    }

    /// The head of block `i`: which pages it has, and where.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where it is not that of the index, [`StoreError::Io`].
    pub fn head(&self, i: usize) -> Result<Head, StoreError> {
        let info = self.block(i)?;
        let corrupt = |what| record::corrupt(&self.place(info.at), what);
        let len = head::bytes_of(&self.part(info.at, info.len.min(FIXED as u64))?).map_err(corrupt)?;
        let head = Head::read(&self.part(info.at, info.len.min(len as u64))?).map_err(corrupt)?;
        match head.key == info.key
            && Some(head.domain) == self.domain
            && head.len == info.len
            && head.start == info.start
        {
            true => Ok(head),
            false => Err(corrupt("another block than the index says".to_owned())),
        }
    }

    /// Block `i` with all of its pages.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where anything of it is damaged, [`StoreError::Codec`] where it was written by a codec that is not
    /// among `codecs`, [`StoreError::Io`].
    pub fn read(&self, i: usize, codecs: &[&dyn Codec]) -> Result<Block, StoreError> {
        let info = self.block(i)?;
        let block = record::read_at(&self.place(info.at), &self.part(info.at, info.len)?, codecs)?;
        match Some(block.domain) == self.domain && block.key() == info.key && block.start == info.start {
            true => Ok(block),
            false => Err(record::corrupt(&self.place(info.at), "another block than the index says".to_owned())),
        }
    }

    /// One page of block `i`, whatever became of its others; `None` where the block has none such.
    ///
    /// # Errors
    /// As [`KvFile::read`].
    pub fn page(
        &self,
        i: usize,
        (layer, head, form): (u16, u16, Form),
        codecs: &[&dyn Codec],
    ) -> Result<Option<Page>, StoreError> {
        let (info, record) = (self.block(i)?, self.head(i)?);
        let Some(entry) = record.page(layer, head, form) else { return Ok(None) };
        let stored = self.part(info.at + entry.at, entry.stored.into())?;
        record::page(&self.place(info.at), &record, entry, &stored, codecs).map(Some)
    }

    /// The bytes of a page where they lie in a map of the file, at a multiple of 64, checked anew with every call. `None` where
    /// there is no such page, it is written by a codec or damaged, or the file cannot be mapped; [`KvFile::page`] says which.
    pub fn page_in_place(&self, i: usize, layer: u16, head: u16, form: Form) -> Option<&[u8]> {
        let (info, record) = (self.block(i).ok()?, self.head(i).ok()?);
        let entry = record.page(layer, head, form).filter(|entry| entry.codec == 0)?;
        let bytes = self.source.in_place(info.at + entry.at, entry.len.into())?;
        let Header { layer: own_layer, head: own_head, .. } = record.check_page(form, bytes).ok()?;
        ((own_layer, own_head) == (layer, head)).then_some(bytes)
    }

    /// Reads everything and gives all damage there is, in the order of the file. Of pages whose codec is not among `codecs` the
    /// bytes as stored are checked.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn check(&self, codecs: &[&dyn Codec]) -> Result<Vec<Damage>, StoreError> {
        let mut damage = self.damage.clone();
        for (i, info) in self.blocks.iter().enumerate() {
            let head = match self.head(i) {
                Ok(head) => head,
                Err(error @ StoreError::Io { .. }) => return Err(error),
                Err(error) => {
                    damage.push(Damage { at: info.at, what: error.to_string() });
                    continue;
                }
            };
            for entry in &head.pages {
                let at = info.at + entry.at;
                let stored = self.part(at, entry.stored.into())?;
                let place = format!("block {i} at position {}", head.start);
                match record::page(&place, &head, entry, &stored, codecs) {
                    Ok(_) | Err(StoreError::Codec { .. }) => {}
                    Err(error) => damage.push(Damage { at, what: error.to_string() }),
                }
            }
        }
        damage.sort_by_key(|damage| damage.at);
        Ok(damage)
    }
}

impl Head {
    /// A page by its lane and form.
    pub fn page(&self, layer: u16, head: u16, form: Form) -> Option<&Entry> {
        let place = self.pages.binary_search_by_key(&(layer, head, form), |page| (page.layer, page.head, page.form));
        self.pages.get(place.ok()?)
    }
}
