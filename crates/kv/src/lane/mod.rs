//! The pages of one KV head of one layer of one sequence, in position order.

mod company;
pub(crate) mod keep;
mod moved;
pub(crate) mod share;

use crate::Rope;
use crate::encode::codec::Hints;
use crate::encode::{read_keys, read_values};
use crate::page::{PageFormat, PageKind, SealedPage, SealedView, WritablePage};
use crate::parallel::Parallel;
use crate::plan::LanePlan;
use crate::pool::PageBytes;
use crate::pool::ledger::Reservation;
use cachalot_kernels::attention::{PAGE_TOKENS, PageView};
use cachalot_kernels::prefetch_value;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// One page of a lane, in its state.
enum Slot {
    /// In a box: few pages are written, and all have a slot.
    Writable(Box<WritablePage>),
    Shared(Arc<SealedPage>),
}

/// A page, and its body form while a step reads it both ways.
struct Entry {
    slot: Slot,
    body: Option<Arc<SealedPage>>,
}

impl Entry {
    /// The page in plain elements, where it has that form.
    fn exact(&self) -> Option<PageView<'_>> {
        match &self.slot {
            Slot::Writable(page) => Some(page.view()),
            Slot::Shared(page) => match page.view() {
                SealedView::Exact(view) => Some(view),
                SealedView::Body { .. } => None,
            },
        }
    }
}

/// A lane: page `i` holds the slots from `i * PAGE_TOKENS`; pages before the first held one have fallen out of the sliding
/// window.
///
/// Slots count the tokens that the lane holds; they are positions until a reduction drops some. All methods count in slots,
/// which [`Lane::slots`] and [`Lane::position`] translate.
pub(crate) struct Lane {
    pub(crate) plan: LanePlan,
    exact: Arc<PageKind>,
    body: Option<Arc<PageKind>>,
    first: usize,
    /// Pages below this one have been encoded, but for the sinks.
    encoded: usize,
    /// The first page that has both forms, where any has.
    fresh: Option<usize>,
    pages: VecDeque<Entry>,
    /// Pages from this one on stay exact for now; none where it is [`NOT_HELD`].
    held: usize,
    /// What was dropped by then, if anything.
    kept: Option<Arc<Kept>>,
    /// Contexts that share their positions, if any.
    parallel: Option<Arc<Parallel>>,
}

/// See [`Lane::held`].
const NOT_HELD: usize = usize::MAX;

/// Tokens that a reduction left: they lie in the first slots of the lane.
struct Kept {
    /// Their positions, ascending.
    positions: Vec<u32>,
    /// How many others there were.
    dropped: usize,
    /// See [`Lane::extra`]; only pages that have any.
    extra: BTreeMap<usize, Box<[f32; PAGE_TOKENS]>>,
    _bytes: Reservation,
}

impl Lane {
    pub(crate) fn new(layer: usize, head: usize, dim: usize, plan: &LanePlan) -> Lane {
        let kind = |format| Arc::new(PageKind::new(layer as u16, head as u16, dim, format));
        Lane {
            exact: kind(PageFormat::Exact(plan.exact)),
            body: plan.body.clone().map(|body| kind(PageFormat::Body(body))),
            encoded: plan.sink_pages(),
            plan: plan.clone(),
            first: 0,
            fresh: None,
            pages: VecDeque::new(),
            held: NOT_HELD,
            kept: None,
            parallel: None,
        }
    }

    /// Keeps everything exact until [`Lane::keep`].
    pub(crate) fn hold(&mut self) {
        self.held = 0;
    }

    /// Keeps what is not encoded yet exact until [`Lane::release`].
    pub(crate) fn hold_on(&mut self) {
        self.held = self.held.min(self.encoded);
    }

    /// Ends [`Lane::hold`] and [`Lane::hold_on`].
    pub(crate) fn release(&mut self) {
        self.held = NOT_HELD;
    }

    fn is_held(&self) -> bool {
        self.held != NOT_HELD
    }

    /// Slots that the first `tokens` of the sequence take here.
    pub(crate) fn slots(&self, tokens: usize) -> usize {
        tokens - self.dropped().min(tokens)
    }

    /// Tokens that are gone.
    pub(crate) fn dropped(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.dropped)
    }

    /// Slots that the last reduction left.
    pub(crate) fn kept(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.positions.len())
    }

    /// Position of the token in a slot.
    pub(crate) fn position(&self, slot: usize) -> usize {
        if let Some(parallel) = &self.parallel {
            return parallel.position(slot);
        }
        let kept = self.kept.as_ref().and_then(|kept| kept.positions.get(slot));
        kept.map_or(slot + self.dropped(), |&position| position as usize)
    }

    /// Whether positions in a page are other than its slots'.
    pub(crate) fn is_moved(&self, page: usize) -> bool {
        if let Some(parallel) = &self.parallel {
            return (page + 1) * PAGE_TOKENS > parallel.prefix();
        }
        self.position(page * PAGE_TOKENS) != page * PAGE_TOKENS
            || self.position((page + 1) * PAGE_TOKENS - 1) >= (page + 1) * PAGE_TOKENS
    }

    /// Contexts that share their positions, if any.
    pub(crate) fn parallel(&self) -> Option<&Parallel> {
        self.parallel.as_deref()
    }

    /// From now on slots have the positions that these say. What is there stands where they say already.
    pub(crate) fn set_parallel(&mut self, parallel: Arc<Parallel>) {
        self.parallel = Some(parallel);
    }

    /// One past the largest position in a page.
    fn positions_end(&self, page: usize) -> usize {
        let slots = page * PAGE_TOKENS..(page + 1) * PAGE_TOKENS;
        match self.parallel {
            // They do not ascend.
            Some(_) => slots.map(|slot| self.position(slot)).max().map_or(0, |last| last + 1),
            None => self.position(slots.end - 1) + 1,
        }
    }

    /// Pages before this one are read in their body format by a query in this slot.
    pub(crate) fn body_end(&self, slot: usize) -> usize {
        self.plan.body_end(slot).min(self.held)
    }

    /// Slots of tokens before this position.
    pub(crate) fn slots_before(&self, position: usize) -> usize {
        match &self.kept {
            Some(kept) if position < kept.positions.len() + kept.dropped => {
                kept.positions.partition_point(|&p| (p as usize) < position)
            }
            _ => self.slots(position),
        }
    }

    /// What is added to the scores of a page, if anything: logarithms of the tokens that its slots stand for.
    pub(crate) fn extra(&self, page: usize) -> Option<&[f32; PAGE_TOKENS]> {
        self.kept.as_ref().and_then(|kept| kept.extra.get(&page)).map(|extra| &**extra)
    }

    /// What is added to the scores of one slot.
    pub(crate) fn extra_of(&self, slot: usize) -> f32 {
        self.extra(slot / PAGE_TOKENS).map_or(0.0, |extra| extra[slot % PAGE_TOKENS])
    }

    /// Keys of the first `slots` as attention reads them, `[slots][dim]`.
    pub(crate) fn keys(&self, slots: usize, rope: Option<&Rope>) -> Vec<f32> {
        self.read(slots, |page, k| self.read_keys(page, rope, k))
    }

    /// Values of the first `slots`, `[slots][dim]`.
    pub(crate) fn values(&self, slots: usize) -> Vec<f32> {
        self.read(slots, |page, v| self.read_values(page, v))
    }

    fn read(&self, slots: usize, page: impl Fn(usize, &mut [f32])) -> Vec<f32> {
        let dim = self.exact.dim;
        let mut rows = vec![0.0; slots.next_multiple_of(PAGE_TOKENS) * dim];
        for (index, rows) in rows.chunks_exact_mut(PAGE_TOKENS * dim).enumerate() {
            page(index, rows);
        }
        rows.truncate(slots * dim);
        rows
    }

    pub(crate) fn read_keys(&self, page: usize, rope: Option<&Rope>, to: &mut [f32]) {
        let dim = self.exact.dim;
        if let Some(view) = self.exact(page) {
            return read_keys(view.k_element, view.k, self.exact.width(), dim, to);
        }
        let (Some(body), Some((k, _))) = (&self.plan.body, self.body(page)) else { return };
        body.k.decode(k, to);
        if let (true, Some(rope)) = (body.k.before_rope(), rope) {
            let table = rope.table(self.positions_end(page));
            for (i, row) in to.chunks_exact_mut(dim).enumerate() {
                rope.rotate(&table, self.position(page * PAGE_TOKENS + i), row);
            }
        }
    }

    pub(crate) fn read_values(&self, page: usize, to: &mut [f32]) {
        if let Some(view) = self.exact(page) {
            return read_values(view.v_element, view.v, self.exact.width(), self.exact.dim, to);
        }
        if let (Some(body), Some((_, v))) = (&self.plan.body, self.body(page)) {
            body.v.decode(v, to);
        }
    }

    /// Page `page` in the body format, of keys and values `[PAGE_TOKENS][dim]` as attention reads them. The second number is
    /// how many of them were not finite.
    pub(crate) fn encode(
        &self,
        page: usize,
        k: &mut [f32],
        v: &[f32],
        rope: Option<&Rope>,
        importance: &[f32],
        bytes: PageBytes,
    ) -> Option<(SealedPage, usize)> {
        let (kind, body, first) = (self.body.clone()?, self.plan.body.as_ref()?, page * PAGE_TOKENS);
        if let (true, Some(rope)) = (body.k.before_rope(), rope) {
            let table = rope.table(self.positions_end(page));
            for (i, row) in k.chunks_exact_mut(self.exact.dim).enumerate() {
                rope.unrotate(&table, self.position(first + i), row);
            }
        }
        Some(SealedPage::encode(kind, bytes, k, v, Hints { importance, start: self.position(first) }))
    }

    /// Index of the first page held.
    pub(crate) fn first(&self) -> usize {
        self.first
    }

    /// One past the index of the last page held.
    pub(crate) fn end(&self) -> usize {
        self.first + self.pages.len()
    }

    /// Channels of its head.
    pub(crate) fn dim(&self) -> usize {
        self.exact.dim
    }

    /// Bytes of a page in plain elements.
    pub(crate) fn exact_bytes(&self) -> usize {
        self.exact.bytes()
    }

    /// Bytes of the pages of so many slots, between steps.
    pub(crate) fn bytes_of(&self, slots: usize) -> usize {
        let pages = slots.div_ceil(PAGE_TOKENS);
        let body = self.plan.body_end(slots.saturating_sub(1)).saturating_sub(self.plan.sink_pages()).min(pages);
        body * self.body_bytes() + (pages - body) * self.exact_bytes()
    }

    /// Bytes of a page of the body.
    pub(crate) fn body_bytes(&self) -> usize {
        self.body.as_ref().map_or(0, |kind| kind.bytes())
    }

    pub(crate) fn bytes(&self) -> u64 {
        let bytes = |entry: &Entry| match &entry.slot {
            Slot::Writable(_) => self.exact.bytes(),
            Slot::Shared(page) => page.len(),
        };
        self.pages.iter().map(|entry| bytes(entry) as u64).sum()
    }

    fn entry(&self, index: usize) -> Option<&Entry> {
        self.pages.get(index.checked_sub(self.first)?)
    }

    /// Page `index` in plain elements, where it has that form.
    pub(crate) fn exact(&self, index: usize) -> Option<PageView<'_>> {
        self.entry(index)?.exact()
    }

    /// Asks for what says where the bytes of page `index` lie.
    pub(crate) fn expect(&self, index: usize) {
        if let Some(Entry { body: Some(page), .. } | Entry { slot: Slot::Shared(page), .. }) = self.entry(index) {
            prefetch_value(&**page);
        }
    }

    /// Keys and values of page `index` in the body format, where it has that form.
    pub(crate) fn body(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let entry = self.entry(index)?;
        let page = entry.body.as_ref().or(match &entry.slot {
            Slot::Shared(page) => Some(page),
            Slot::Writable(_) => None,
        })?;
        match page.view() {
            SealedView::Body { k, v } => Some((k, v)),
            SealedView::Exact(_) => None,
        }
    }

    /// Page `index`, if it can be written.
    pub(crate) fn writable(&self, index: usize) -> Option<&WritablePage> {
        match &self.entry(index)?.slot {
            Slot::Writable(page) => Some(page),
            Slot::Shared(_) => None,
        }
    }

    /// Adds an empty page behind the last.
    pub(crate) fn push(&mut self, bytes: PageBytes) {
        let page = WritablePage::new(self.exact.clone(), self.plan.exact, bytes);
        self.pages.push_back(Entry { slot: Slot::Writable(Box::new(page)), body: None });
    }

    /// Pages to encode before a query at `position` attends.
    pub(crate) fn due(&self, position: usize) -> Range<usize> {
        let end = self.body_end(position).min(self.end());
        let start = self.encoded.max(self.first).min(end);
        if self.body.is_some() { start..end } else { 0..0 }
    }

    /// Pages that a step will encode whose last query is at `position` and after which the lane ends with page `end`.
    pub(crate) fn due_after(&self, position: usize, end: usize) -> usize {
        let end = self.body_end(position).min(end.max(self.end()));
        if self.body.is_some() { end.saturating_sub(self.encoded.max(self.first)) } else { 0 }
    }

    /// The kind of a body page.
    pub(crate) fn body_kind(&self) -> Option<&PageKind> {
        self.body.as_deref()
    }

    /// Gives page `index` its body form, beside the plain one.
    pub(crate) fn set_body(&mut self, index: usize, page: SealedPage) {
        self.encoded = self.encoded.max(index + 1);
        self.fresh = Some(self.fresh.map_or(index, |fresh| fresh.min(index)));
        if let Some(entry) = index.checked_sub(self.first).and_then(|i| self.pages.get_mut(i)) {
            entry.body = Some(Arc::new(page));
        }
    }

    /// Lets go of the plain form of the pages that have a body form; their bytes go to `spare`.
    pub(crate) fn drop_plain(&mut self, spare: &mut Vec<PageBytes>) {
        let Some(fresh) = self.fresh.take() else { return };
        for index in fresh..self.encoded {
            let Some(entry) = index.checked_sub(self.first).and_then(|i| self.pages.get_mut(i)) else { continue };
            let Some(body) = entry.body.take() else { continue };
            match std::mem::replace(&mut entry.slot, Slot::Shared(body)) {
                Slot::Writable(page) => spare.push(page.into_bytes()),
                // Others may still read it exactly.
                Slot::Shared(page) => spare.extend(Arc::try_unwrap(page).ok().map(SealedPage::into_bytes)),
            }
        }
    }

    /// Seals every page that lies below `tokens` wholly and will stay as it is.
    pub(crate) fn seal(&mut self, tokens: usize) {
        let full = self.sealable(tokens).saturating_sub(self.first).min(self.pages.len());
        // Writable pages are always the last ones, so going backwards ends early.
        for i in (0..full).rev() {
            if matches!(self.pages[i].slot, Slot::Shared(_)) {
                break;
            }
            if let Some(Entry { slot: Slot::Writable(page), .. }) = self.pages.remove(i) {
                let start = self.position((self.first + i) * PAGE_TOKENS);
                let slot = Slot::Shared(Arc::new(page.seal(start as u64, PAGE_TOKENS)));
                self.pages.insert(i, Entry { slot, body: None });
            }
        }
    }

    /// Pages below this one do not change any more: where there is a body, the others wait to be encoded.
    fn sealable(&self, tokens: usize) -> usize {
        let full = tokens / PAGE_TOKENS;
        if self.body.is_some() { full.min(self.plan.sink_pages()) } else { full }
    }

    /// Whether [`Lane::seal`] would do anything.
    pub(crate) fn needs_seal(&self, tokens: usize) -> bool {
        let held = self.sealable(tokens).saturating_sub(self.first);
        self.pages.iter().take(held).any(|entry| matches!(entry.slot, Slot::Writable(_)))
    }

    /// Lets go of pages that lie below position `from` wholly.
    pub(crate) fn forget_before(&mut self, from: usize) {
        while (self.first + 1) * PAGE_TOKENS <= from && self.pages.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Whether pages are encoded that a query at position `tokens` would read exactly: going back there is impossible.
    pub(crate) fn encoded_beyond(&self, tokens: usize) -> bool {
        self.body.is_some() && self.held > 0 && self.encoded > self.body_end(tokens)
    }

    /// Position before which all is encoded.
    pub(crate) fn encoded_tokens(&self) -> usize {
        self.encoded * PAGE_TOKENS
    }

    /// Whether going back to `tokens` needs a page to copy the last shared one into.
    pub(crate) fn truncation_copies(&self, tokens: usize) -> bool {
        match self.cut(tokens) {
            Some(cut) => matches!(&self.pages[cut].slot, Slot::Shared(page) if Arc::strong_count(page) > 1),
            None => false,
        }
    }

    /// Goes back to `tokens`; `spare` takes the copy that [`Lane::truncation_copies`] announced.
    pub(crate) fn truncate(&mut self, tokens: usize, spare: &mut Vec<PageBytes>) {
        self.pages.truncate(tokens.div_ceil(PAGE_TOKENS).saturating_sub(self.first));
        let Some(cut) = self.cut(tokens) else { return };
        if let Some(Entry { slot, .. }) = self.pages.remove(cut) {
            let slot = match slot {
                Slot::Writable(page) => Slot::Writable(page),
                Slot::Shared(page) => match Arc::try_unwrap(page) {
                    Ok(page) => match page.reopen() {
                        Ok(page) => Slot::Writable(Box::new(page)),
                        Err(page) => Slot::Shared(Arc::new(page)),
                    },
                    // A copy not announced: kept shared, so that the next append refuses rather than write into it.
                    Err(page) => match spare.pop().and_then(|bytes| page.copy_to(bytes)) {
                        Some(copy) => Slot::Writable(Box::new(copy)),
                        None => Slot::Shared(page),
                    },
                },
            };
            self.pages.insert(cut, Entry { slot, body: None });
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
        self.pages.iter().take(held).filter(|entry| matches!(entry.slot, Slot::Writable(_))).count()
    }

    /// A lane with the same tokens: sealed pages shared, those still written copied to `spare`.
    pub(crate) fn fork(&self, tokens: usize, spare: &mut Vec<PageBytes>) -> Lane {
        let held = tokens.div_ceil(PAGE_TOKENS).saturating_sub(self.first);
        let slots = self.pages.iter().take(held).map_while(|entry| match &entry.slot {
            Slot::Shared(page) => Some(Slot::Shared(page.clone())),
            Slot::Writable(page) => spare.pop().map(|bytes| Slot::Writable(Box::new(page.copy_to(bytes)))),
        });
        Lane {
            pages: slots.map(|slot| Entry { slot, body: None }).collect(),
            plan: self.plan.clone(),
            exact: self.exact.clone(),
            body: self.body.clone(),
            kept: self.kept.clone(),
            parallel: self.parallel.clone(),
            ..*self
        }
    }

    /// Sealed pages, first to last.
    pub(crate) fn sealed(&self) -> impl Iterator<Item = &Arc<SealedPage>> {
        self.pages.iter().filter_map(|entry| match &entry.slot {
            Slot::Shared(page) => Some(page),
            Slot::Writable(_) => None,
        })
    }

    /// Checks every sealed page against its checksum.
    pub(crate) fn verify(&self) -> Result<(), crate::KvError> {
        self.sealed().try_for_each(|page| page.verify())
    }
}
