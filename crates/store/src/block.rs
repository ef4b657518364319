//! The pages of all lanes for one span of tokens: the unit of sharing, tiering, transfer and the KV file.

use crate::{BlockKey, Domain};
use cachalot_kv::page::Header;

/// How a page stands in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// As the lane keeps it for good: encoded where the recipe has a body, plain elsewhere.
    Kept = 0,
    /// In plain elements, where it is encoded later: what the next tokens read of the window before them.
    Exact = 1,
}

/// One page, whole as the pool holds it: its header says layer, head, format, position and checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// How it stands in its lane.
    pub form: Form,
    /// Header, keys, values.
    pub bytes: Vec<u8>,
}

impl Page {
    /// What the page says of itself, where its bytes are those that were sealed.
    pub fn header(&self) -> Option<Header> {
        Header::verified(&self.bytes)
    }
}

/// A block. Pages are in the order of layers, heads and forms; lanes of layers with a sliding window may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Whose it is.
    pub domain: Domain,
    /// The block before it.
    pub parent: Option<BlockKey>,
    /// Position of its first token; a multiple of 64.
    pub start: u64,
    /// Its tokens: 64, or fewer at the end of a sequence.
    pub tokens: Vec<u32>,
    /// See [`Page`].
    pub pages: Vec<Page>,
}

impl Block {
    /// Its name.
    pub fn key(&self) -> BlockKey {
        self.domain.key(self.parent, &self.tokens)
    }

    /// Bytes of its pages.
    pub fn bytes(&self) -> u64 {
        self.pages.iter().map(|page| page.bytes.len() as u64).sum()
    }
}
