//! Pages that a lane has in common with others.

use super::{Entry, Lane, Slot};
use crate::page::{PageFormat, PageKind, SealedPage, SealedView};
use crate::pool::PageBytes;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::sync::Arc;

/// The forms in which a page of a lane is there for others.
#[derive(Clone, Default)]
pub(crate) struct Forms {
    /// As the lane keeps it for good.
    pub kept: Option<Arc<SealedPage>>,
    /// In plain elements, where it is encoded later.
    pub plain: Option<Arc<SealedPage>>,
}

/// Pages with which a lane can begin.
pub(crate) struct Beginning<'a> {
    /// Index of the first; those before it are not seen any more.
    first: usize,
    /// Pages below this one are encoded, but for the sinks.
    encoded: usize,
    pages: Vec<&'a Arc<SealedPage>>,
}

impl Lane {
    /// Page `index` for others: as it is kept where it is full or `tail`, and, where a continuation at position `at` would
    /// read it exactly though it is encoded later, so. `window` is the layer's.
    pub(crate) fn share(
        &mut self,
        index: usize,
        tokens: usize,
        window: Option<usize>,
        at: Option<usize>,
        tail: bool,
    ) -> Forms {
        let none = Forms::default();
        let full = (index + 1) * PAGE_TOKENS <= tokens;
        let seen = |window: usize| at.is_some_and(|at| (index + 1) * PAGE_TOKENS > (at + 1).saturating_sub(window));
        if !(full || tail) || !window.is_none_or(seen) || self.dropped() > 0 {
            return none;
        }
        let waits = self.body.is_some() && !self.is_held() && index >= self.plan.sink_pages();
        let Some(entry) = index.checked_sub(self.first).and_then(|i| self.pages.get(i)) else { return none };
        if let Slot::Shared(page) = &entry.slot {
            let plain = matches!(page.view(), SealedView::Exact(_)) && waits;
            return if plain {
                Forms { plain: Some(page.clone()), ..none }
            } else {
                Forms { kept: Some(page.clone()), ..none }
            };
        }
        if waits && at.is_none_or(|at| index * PAGE_TOKENS >= at) {
            return none;
        }
        let count = PAGE_TOKENS.min(tokens - index * PAGE_TOKENS);
        match self.seal_page(index, count) {
            Some(page) if waits => Forms { plain: Some(page), ..none },
            page => Forms { kept: page, ..none },
        }
    }

    /// Seals one page that is written, the first `tokens` slots of it.
    pub(super) fn seal_page(&mut self, index: usize, tokens: usize) -> Option<Arc<SealedPage>> {
        let start = self.position(index * PAGE_TOKENS) as u64;
        let i = index.checked_sub(self.first)?;
        let entry = self.pages.remove(i)?;
        let (slot, page) = match entry.slot {
            Slot::Writable(page) => {
                let page = Arc::new(page.seal(start, tokens));
                (Slot::Shared(page.clone()), Some(page))
            }
            slot => (slot, None),
        };
        self.pages.insert(i, Entry { slot, body: entry.body });
        page
    }

    /// With which of `pages` (of the tokens from position zero on) this lane, which is empty, can begin so that the next
    /// query is at position `at`. `None` where something is missing that this query would read.
    pub(crate) fn beginning<'a>(
        &self,
        pages: impl Fn(usize) -> Option<&'a Forms>,
        window: Option<usize>,
        at: usize,
    ) -> Option<Beginning<'a>> {
        let end = at.div_ceil(PAGE_TOKENS);
        let first = window.map_or(0, |window| (at + 1).saturating_sub(window) / PAGE_TOKENS).min(end);
        let sinks = self.plan.sink_pages();
        let waits = self.body.is_some() && !self.is_held();
        let body_end = if waits { self.plan.body_end(at) } else { 0 };
        let mut encoded = sinks.max(first);
        let mut found = Vec::with_capacity(end - first);
        for index in first..end {
            let forms = pages(index)?;
            let mut page = None;
            if waits && index >= sinks {
                // Pages are encoded in order.
                if index < body_end && index == encoded && forms.kept.is_some() {
                    page = forms.kept.as_ref();
                    encoded = index + 1;
                }
                page = page.or(forms.plain.as_ref());
            } else {
                page = forms.kept.as_ref();
            }
            let tokens = PAGE_TOKENS.min(at - index * PAGE_TOKENS);
            found.push(page.filter(|page| self.takes(page) && page.tokens() >= tokens)?);
        }
        let whole = at.is_multiple_of(PAGE_TOKENS) || found.last().is_none_or(|page| page.is_plain());
        whole.then_some(Beginning { first, encoded: if waits { encoded } else { sinks }, pages: found })
    }

    /// How pages of this lane are written: those of the body, or plain ones.
    pub(crate) fn kind_of(&self, body: bool) -> Option<&Arc<PageKind>> {
        if body { self.body.as_ref() } else { Some(&self.exact) }
    }

    /// Whether a page is written as this lane reads pages.
    pub(super) fn takes(&self, page: &SealedPage) -> bool {
        let body = self.body.as_ref().filter(|_| !page.is_plain());
        page.is_of(body.unwrap_or(&self.exact))
    }

    /// Bytes of pages that [`Lane::begin`] copies: of the one that the next token would be written to.
    pub(crate) fn copies(&self, at: usize) -> usize {
        usize::from(!at.is_multiple_of(PAGE_TOKENS))
    }

    /// Begins with shared pages; `spare` takes the copy of the last, where more is written to it.
    pub(crate) fn begin(&mut self, beginning: Beginning<'_>, at: usize, spare: &mut Vec<PageBytes>) {
        self.first = beginning.first;
        self.encoded = beginning.encoded;
        self.pages =
            beginning.pages.into_iter().map(|page| Entry { slot: Slot::Shared(page.clone()), body: None }).collect();
        if !at.is_multiple_of(PAGE_TOKENS)
            && let Some(Entry { slot: Slot::Shared(page), .. }) = self.pages.pop_back()
        {
            // Without a copy the next append refuses rather than write into what others read.
            let slot = match spare.pop().and_then(|bytes| page.copy_to(bytes)) {
                Some(copy) => Slot::Writable(Box::new(copy)),
                None => Slot::Shared(page),
            };
            self.pages.push_back(Entry { slot, body: None });
        }
    }

    /// Of the pages that [`Lane::due_after`] counts, those whose plain form others hold: encoding them frees nothing.
    pub(crate) fn due_shared(&self, slot: usize, end: usize) -> usize {
        let due = self.due_after(slot, end);
        let start = self.encoded.max(self.first);
        let shared = |index: &usize| match self.entry(*index).map(|entry| &entry.slot) {
            Some(Slot::Shared(page)) => Arc::strong_count(page) > 1,
            _ => false,
        };
        (start..start + due).filter(shared).count()
    }
}

impl SealedPage {
    /// Whether it is in plain elements.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.kind().format, PageFormat::Exact(_))
    }
}
