//! The pages of one KV head of one layer of one sequence, in position order.

use crate::page::{PageKind, SealedPage, WritablePage};
use crate::pool::PageBytes;
use cachalot_kernels::attention::{PAGE_TOKENS, PageView};
use std::collections::VecDeque;
use std::sync::Arc;

/// One page of a lane, in its state.
pub(crate) enum Slot {
    Writable(WritablePage),
    Shared(Arc<SealedPage>),
}

impl Slot {
    fn view(&self) -> PageView<'_> {
        match self {
            Slot::Writable(page) => page.view(),
            Slot::Shared(page) => page.view(),
        }
    }
}

/// A lane: page `i` of the sequence holds the tokens from `i * PAGE_TOKENS`; pages before the first held one have fallen
/// out of the sliding window.
pub(crate) struct Lane {
    pub(crate) kind: PageKind,
    first: usize,
    pages: VecDeque<Slot>,
}

impl Lane {
    pub(crate) fn new(kind: PageKind) -> Lane {
        Lane { kind, first: 0, pages: VecDeque::new() }
    }

    /// Index of the first page held.
    pub(crate) fn first(&self) -> usize {
        self.first
    }

    /// One past the index of the last page held.
    pub(crate) fn end(&self) -> usize {
        self.first + self.pages.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.pages.len() * self.kind.bytes()) as u64
    }

    /// Page `index` as attention reads it.
    pub(crate) fn view(&self, index: usize) -> Option<PageView<'_>> {
        self.pages.get(index.checked_sub(self.first)?).map(Slot::view)
    }

    /// Page `index`, if it can be written.
    pub(crate) fn writable(&self, index: usize) -> Option<&WritablePage> {
        match self.pages.get(index.checked_sub(self.first)?)? {
            Slot::Writable(page) => Some(page),
            Slot::Shared(_) => None,
        }
    }

    /// Adds an empty page behind the last.
    pub(crate) fn push(&mut self, bytes: PageBytes) {
        self.pages.push_back(Slot::Writable(WritablePage::new(self.kind, bytes)));
    }

    /// Seals every page that lies below `tokens` wholly.
    pub(crate) fn seal(&mut self, tokens: usize) {
        let full = (tokens / PAGE_TOKENS).saturating_sub(self.first).min(self.pages.len());
        // Writable pages are always the last ones, so going backwards ends early.
        for i in (0..full).rev() {
            if matches!(self.pages[i], Slot::Shared(_)) {
                break;
            }
            if let Some(Slot::Writable(page)) = self.pages.remove(i) {
                let start = (self.first + i) * PAGE_TOKENS;
                self.pages.insert(i, Slot::Shared(Arc::new(page.seal(start as u64))));
            }
        }
    }

    /// Lets go of pages that lie below position `from` wholly.
    pub(crate) fn forget_before(&mut self, from: usize) {
        while (self.first + 1) * PAGE_TOKENS <= from && self.pages.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Whether going back to `tokens` needs a page to copy the last shared one into.
    pub(crate) fn truncation_copies(&self, tokens: usize) -> bool {
        match self.cut(tokens) {
            Some(cut) => matches!(&self.pages[cut], Slot::Shared(page) if Arc::strong_count(page) > 1),
            None => false,
        }
    }

    /// Goes back to `tokens`; `spare` takes the copy that [`Lane::truncation_copies`] announced.
    pub(crate) fn truncate(&mut self, tokens: usize, spare: &mut Vec<PageBytes>) {
        self.pages.truncate(tokens.div_ceil(PAGE_TOKENS).saturating_sub(self.first));
        let Some(cut) = self.cut(tokens) else { return };
        if let Some(slot) = self.pages.remove(cut) {
            let page = match slot {
                Slot::Writable(page) => page,
                Slot::Shared(page) => match Arc::try_unwrap(page) {
                    Ok(page) => page.reopen(),
                    Err(page) => match spare.pop() {
                        Some(bytes) => page.copy_to(bytes),
                        // Not announced: keep it shared, the next append refuses rather than write into it.
                        None => return self.pages.insert(cut, Slot::Shared(page)),
                    },
                },
            };
            self.pages.insert(cut, Slot::Writable(page));
        }
    }

    /// Place of the page that `tokens` cuts in two.
    fn cut(&self, tokens: usize) -> Option<usize> {
        let cut = (tokens / PAGE_TOKENS).checked_sub(self.first)?;
        (!tokens.is_multiple_of(PAGE_TOKENS) && cut < self.pages.len()).then_some(cut)
    }

    /// Pages that a fork at `tokens` must copy because they are still written.
    pub(crate) fn fork_copies(&self, tokens: usize) -> usize {
        let held = tokens.div_ceil(PAGE_TOKENS).saturating_sub(self.first);
        self.pages.iter().take(held).filter(|slot| matches!(slot, Slot::Writable(_))).count()
    }

    /// A lane with the same tokens: sealed pages shared, those still written copied to `spare`.
    pub(crate) fn fork(&self, tokens: usize, spare: &mut Vec<PageBytes>) -> Lane {
        let held = tokens.div_ceil(PAGE_TOKENS).saturating_sub(self.first);
        let pages = self.pages.iter().take(held).map_while(|slot| match slot {
            Slot::Shared(page) => Some(Slot::Shared(page.clone())),
            Slot::Writable(page) => spare.pop().map(|bytes| Slot::Writable(page.copy_to(bytes))),
        });
        Lane { kind: self.kind, first: self.first, pages: pages.collect() }
    }

    /// Checks every sealed page against its checksum.
    pub(crate) fn verify(&self) -> Result<(), crate::KvError> {
        self.pages.iter().try_for_each(|slot| match slot {
            Slot::Shared(page) => page.verify(),
            Slot::Writable(_) => Ok(()),
        })
    }
}
