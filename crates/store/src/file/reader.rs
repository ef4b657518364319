//! A KV file, read.

use super::head::{self, Entry, FIXED, Head};
use super::source::Source;
use super::{Damage, FileIdentity, record};
use crate::{Block, BlockKey, Codec, Domain, Form, Page, StoreError};
use cachalot_kv::page::Header;
use serde_json::{Map, Value};

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
    pub(super) source: Source,
    pub(super) identity: Option<FileIdentity>,
    pub(super) writer: Option<String>,
    pub(super) domain: Option<Domain>,
    pub(super) blocks: Vec<BlockInfo>,
    pub(super) damage: Vec<Damage>,
}

impl KvFile {
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
        let same = (head.key, head.start, head.len) == (info.key, info.start, info.len);
        match same && Some(head.domain) == self.domain {
            true => Ok(head),
            false => Err(corrupt("another block than the index says".to_owned())),
        }
    }

    /// Block `i` with all of its pages.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where anything of it is damaged, [`StoreError::Codec`] where it was written by a codec
    /// that is not among `codecs`, [`StoreError::Io`].
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

    /// The bytes of a page where they lie in a map of the file, at a multiple of 64, checked anew with every call.
    /// `None` where there is no such page, it is written by a codec or damaged, or the file cannot be mapped;
    /// [`KvFile::page`] says which.
    pub fn page_in_place(&self, i: usize, layer: u16, head: u16, form: Form) -> Option<&[u8]> {
        let (info, record) = (self.block(i).ok()?, self.head(i).ok()?);
        let entry = record.page(layer, head, form).filter(|entry| entry.codec == 0)?;
        let bytes = self.source.in_place(info.at + entry.at, entry.len.into())?;
        let Header { layer: own_layer, head: own_head, .. } = record.check_page(form, bytes).ok()?;
        ((own_layer, own_head) == (layer, head)).then_some(bytes)
    }

    /// Reads everything and gives all damage there is, in the order of the file. Of pages whose codec is not among
    /// `codecs` the bytes as stored are checked.
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
