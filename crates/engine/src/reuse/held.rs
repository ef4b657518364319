//! The pages of many blocks, of which some have pages in common: what comes after an edit has those of what was there before in
//! another domain.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use cachalot_kv::SharedBlock;

/// See the module.
#[derive(Default)]
pub(crate) struct Held {
    /// Blocks that have a page, by its address.
    blocks: HashMap<usize, usize>,
    /// Bytes of all pages.
    bytes: u64,
}

impl Held {
    /// Bytes of all pages, each counted once.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes in a block.
    pub fn add(&mut self, block: &SharedBlock) {
        for page in block.pages() {
            let count = self.blocks.entry(Arc::as_ptr(page.page).addr()).or_default();
            self.bytes += if *count == 0 { page.page.len() as u64 } else { 0 };
            *count += 1;
        }
    }

    /// Lets go of one.
    pub fn remove(&mut self, block: &SharedBlock) {
        for page in block.pages() {
            if let Entry::Occupied(mut count) = self.blocks.entry(Arc::as_ptr(page.page).addr()) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                    self.bytes -= page.page.len() as u64;
                }
            }
        }
    }

    /// Bytes of a block's pages that no one but blocks holds; each divided among those that do.
    pub fn reclaimable(&self, block: &SharedBlock) -> u64 {
        let bytes = block.pages().map(|page| match self.blocks.get(&Arc::as_ptr(page.page).addr()) {
            Some(&count) if Arc::strong_count(page.page) == count => page.page.len().div_ceil(count) as u64,
            _ => 0,
        });
        bytes.sum()
    }
}
