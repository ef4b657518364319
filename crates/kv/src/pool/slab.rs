//! A piece of memory from the operating system, cut into pages of one size.

use memmap2::MmapMut;
use std::ptr::NonNull;

pub(super) struct Slab {
    memory: MmapMut,
    /// Offsets of the pages nobody holds.
    free: Vec<usize>,
    pages: usize,
}

impl Slab {
    pub(super) fn new(bytes: usize, page: usize) -> Result<Slab, String> {
        let memory = MmapMut::map_anon(bytes).map_err(|e| e.to_string())?;
        let pages = bytes / page;
        // From the back, so that pages are handed out in ascending order.
        let free = (0..pages).rev().map(|i| i * page).collect();
        Ok(Slab { memory, free, pages })
    }

    pub(super) fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// Pages nobody holds.
    pub(super) fn unused(&self) -> usize {
        self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.pages
    }

    pub(super) fn take(&mut self) -> Option<NonNull<u8>> {
        let offset = self.free.pop()?;
        // SAFETY: the offset lies within the mapping.
        NonNull::new(unsafe { self.memory.as_mut_ptr().add(offset) })
    }

    pub(super) fn give_back(&mut self, at: NonNull<u8>) {
        self.free.push(at.as_ptr() as usize - self.memory.as_ptr() as usize);
    }
}
