//! Where page bytes live: slabs cut into pages of one size, taken only after the [`ledger`] agreed.

pub mod ledger;
mod slab;

use crate::KvError;
use ledger::{Ledger, Purpose};
use slab::Slab;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Page bytes start and end at multiples of this.
pub const ALIGNMENT: usize = 64;
/// Bytes of a slab, unless one page is larger: a part of what the pages of its size take, so that what is mapped beyond
/// them is little, within these bounds.
const SLAB_BYTES: std::ops::RangeInclusive<usize> = 256 << 10..=2 << 20;
const SLAB_SHARE: usize = 32;

/// A pool of pages within a budget. Cheap to clone; pages keep it alive.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    ledger: Ledger,
    classes: Mutex<HashMap<usize, Class>>,
}

/// The slabs of one page size.
#[derive(Default)]
struct Class {
    slabs: Vec<Option<Slab>>,
    /// Slabs with at least one free page; the last is used first.
    open: Vec<usize>,
}

/// The bytes of one page: aligned, exclusively owned, given back on drop.
pub struct PageBytes {
    at: std::ptr::NonNull<u8>,
    len: u32,
    slab: u32,
    pool: Arc<Inner>,
}

// SAFETY: the bytes are owned exclusively, like a boxed slice.
unsafe impl Send for PageBytes {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for PageBytes {}

impl Pool {
    /// A pool that never hands out more than `budget` bytes.
    pub fn new(budget: u64) -> Pool {
        Pool { inner: Arc::new(Inner { ledger: Ledger::new(budget), classes: Mutex::default() }) }
    }

    /// The account of this pool.
    pub fn ledger(&self) -> &Ledger {
        &self.inner.ledger
    }

    /// Bytes of memory mapped for slabs: pages handed out, pages free for reuse, and what cutting leaves over.
    pub fn resident(&self) -> u64 {
        let classes = self.inner.lock();
        classes.values().map(|class| class.bytes() as u64).sum()
    }

    /// Gives slabs back that nobody has a page of.
    pub(crate) fn trim(&self) {
        self.inner.lock().values_mut().for_each(Class::trim);
    }

    /// Takes `count` pages of `len` bytes each, all or none. Their content is whatever it was.
    ///
    /// # Errors
    /// [`KvError::OutOfBudget`] or [`KvError::OutOfMemory`]; nothing is taken then.
    pub fn take(&self, len: usize, count: usize) -> Result<Vec<PageBytes>, KvError> {
        let len = len.next_multiple_of(ALIGNMENT);
        if u32::try_from(len).is_err() {
            let reason = format!("a page of {len} bytes");
            return Err(KvError::OutOfMemory { bytes: len as u64, reason });
        }
        let mut all = self.inner.ledger.reserve(Purpose::Pages, (len * count) as u64)?;
        let mut classes = self.inner.lock();
        let class = classes.entry(len).or_default();
        let mut pages: Vec<PageBytes> = Vec::with_capacity(count);
        for _ in 0..count {
            match class.take(len) {
                Ok((at, slab)) => {
                    all.hand_over(len as u64);
                    pages.push(PageBytes { at, len: len as u32, slab: slab as u32, pool: self.inner.clone() });
                }
                Err(reason) => {
                    // Dropping a page locks the classes.
                    drop(classes);
                    return Err(KvError::OutOfMemory { bytes: (len * count) as u64, reason });
                }
            }
        }
        Ok(pages)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Class>> {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Class {
    /// Bytes mapped.
    fn bytes(&self) -> usize {
        self.slabs.iter().flatten().map(Slab::bytes).sum()
    }

    fn trim(&mut self) {
        self.slabs.iter_mut().for_each(|slab| *slab = slab.take().filter(|slab| !slab.is_empty()));
        self.open.retain(|&i| self.slabs[i].is_some());
    }

    fn take(&mut self, len: usize) -> Result<(std::ptr::NonNull<u8>, usize), String> {
        let index = match self.open.last() {
            Some(&index) => index,
            None => {
                let bytes = (self.bytes() / SLAB_SHARE).clamp(*SLAB_BYTES.start(), *SLAB_BYTES.end());
                let slab = Slab::new((bytes / len).max(1) * len, len)?;
                let index = self.slabs.iter().position(Option::is_none).unwrap_or(self.slabs.len());
                if index == self.slabs.len() {
                    self.slabs.push(None);
                }
                self.slabs[index] = Some(slab);
                self.open.push(index);
                index
            }
        };
        let slab = self.slabs[index].as_mut().ok_or("slab list out of step")?;
        let at = slab.take().ok_or("slab list out of step")?;
        if slab.is_full() {
            self.open.pop();
        }
        Ok((at, index))
    }

    /// The fullest slab with a free page that is fuller than this one.
    fn fuller(&self, index: usize) -> Option<usize> {
        let unused = |i: usize| self.slabs[i].as_ref().map_or(usize::MAX, Slab::unused);
        let fullest = self.open.iter().copied().filter(|&i| i != index).min_by_key(|&i| (unused(i), i))?;
        ((unused(fullest), fullest) < (unused(index), index)).then_some(fullest)
    }

    /// A page of this slab.
    fn take_from(&mut self, index: usize) -> Option<std::ptr::NonNull<u8>> {
        let slab = self.slabs[index].as_mut()?;
        let at = slab.take()?;
        if slab.is_full() {
            self.open.retain(|&i| i != index);
        }
        Some(at)
    }

    fn give_back(&mut self, at: std::ptr::NonNull<u8>, index: usize) {
        let Some(slab) = self.slabs.get_mut(index).and_then(Option::as_mut) else { return };
        if slab.is_full() {
            self.open.push(index);
        }
        slab.give_back(at);
        // One empty slab is kept, so that a sequence at the edge of a slab does not map and unmap it every page.
        let spare = self.open.iter().any(|&i| i != index && self.slabs[i].as_ref().is_some_and(Slab::is_empty));
        if spare && self.slabs[index].as_ref().is_some_and(Slab::is_empty) {
            self.open.retain(|&i| i != index);
            self.slabs[index] = None;
        }
    }
}

impl PageBytes {
    /// Bytes of the page.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the slab handed these bytes out to this value alone; mapped memory is initialised.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len()) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len()) }
    }

    /// Moves to a fuller slab, if there is one with room: sparse ones become empty and go back to the operating system.
    pub(crate) fn consolidate(&mut self) {
        let pool = self.pool.clone();
        let mut classes = pool.lock();
        let Some(class) = classes.get_mut(&self.len()) else { return };
        let Some(slab) = class.fuller(self.slab as usize) else { return };
        let Some(at) = class.take_from(slab) else { return };
        // SAFETY: both are pages of this length, handed out to this value alone, in different slabs.
        unsafe { std::ptr::copy_nonoverlapping(self.at.as_ptr(), at.as_ptr(), self.len()) };
        class.give_back(self.at, self.slab as usize);
        (self.at, self.slab) = (at, slab as u32);
    }

    /// Where the bytes start, for writers that divide a page among themselves.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.at.as_ptr()
    }
}

impl Drop for PageBytes {
    fn drop(&mut self) {
        let mut classes = self.pool.lock();
        if let Some(class) = classes.get_mut(&self.len()) {
            class.give_back(self.at, self.slab as usize);
        }
        self.pool.ledger.take_back(Purpose::Pages, u64::from(self.len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pages_never_overlap_and_the_ledger_is_exact(ops in prop::collection::vec((any::<bool>(), 0usize..5, any::<u8>()), 1..200)) {
            let sizes = [64, 100, 4096, 700_000, 3_000_000];
            let pool = Pool::new(40_000_000);
            let mut held: Vec<(PageBytes, u8)> = Vec::new();
            for (take, which, mark) in ops {
                if take || held.is_empty() {
                    if let Ok(pages) = pool.take(sizes[which], 1) {
                        for mut page in pages {
                            prop_assert_eq!(page.as_ptr() as usize % ALIGNMENT, 0);
                            page.bytes_mut().fill(mark);
                            held.push((page, mark));
                        }
                    }
                } else {
                    held.swap_remove(usize::from(mark) % held.len());
                }
                let bytes: u64 = held.iter().map(|(p, _)| p.len() as u64).sum();
                prop_assert_eq!(pool.ledger().used(), bytes);
                prop_assert!(pool.resident() >= bytes);
            }
            for (page, mark) in &held {
                prop_assert!(page.bytes().iter().all(|b| b == mark));
            }
            drop(held);
            prop_assert_eq!(pool.ledger().used(), 0);
            // At most one empty slab of each size is kept.
            prop_assert!(pool.resident() <= 4 * *SLAB_BYTES.end() as u64 + 3_000_064);
            pool.trim();
            prop_assert_eq!(pool.resident(), 0);
        }
    }

    /// Pages left over all slabs gather in few, and keep their content.
    #[test]
    fn sparse_slabs_are_emptied() {
        let pool = Pool::new(64 << 20);
        let mut pages = pool.take(16 << 10, 1280).unwrap();
        let mut index = 0;
        pages.retain(|_| {
            index += 1;
            index % 8 == 0
        });
        pages.iter_mut().enumerate().for_each(|(i, page)| page.bytes_mut().fill(i as u8));
        assert!(pool.resident() >= 20 << 20);
        pages.iter_mut().for_each(PageBytes::consolidate);
        // 160 pages fill one slab and a quarter; one empty slab is kept.
        assert!(pool.resident() <= 6 << 20, "{}", pool.resident());
        assert!(pages.iter().enumerate().all(|(i, page)| page.bytes().iter().all(|&b| b == i as u8)));
        assert_eq!(pool.ledger().used(), 160 * (16 << 10));
    }

    #[test]
    fn over_budget_takes_nothing() {
        let pool = Pool::new(1000);
        let page = pool.take(512, 1).unwrap();
        let error = pool.take(256, 2).err().unwrap();
        assert_eq!(error, KvError::OutOfBudget { needed: 512, free: 488, budget: 1000 });
        assert_eq!(pool.ledger().used(), 512);
        drop(page);
        assert_eq!(pool.ledger().used(), 0);
        assert_eq!(pool.ledger().peak(), 512);
    }
}
