//! Blocks: the pages of all lanes for one span of tokens, as several sequences have them in common.
//!
//! What a sequence's pages hold depends on its tokens alone, however they were cut into steps, so a sequence that begins with
//! the same tokens may begin with the same pages: the next query reads the same bytes as if they had been computed again.
//! Pages that a recipe has encoded are not enough for that: a query reads the window before it exactly. A block therefore has
//! both forms of a page where a continuation was provided for ([`KvCache::share`]'s `at`).

use crate::lane::share::Forms;
use crate::page::{Header, SealedPage};
use crate::pool::PageBytes;
use crate::{CachePlan, KvCache, KvError, SequenceKv};
use cachalot_kernels::attention::PAGE_TOKENS;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The pages of all lanes for the tokens of one page; those that layers with a sliding window do not need may be missing.
#[derive(Clone, Default)]
pub struct SharedBlock {
    /// Layer by layer, head by head.
    lanes: Vec<Forms>,
}

/// A block in two, as it is kept outside the pool.
#[derive(Clone, Default)]
pub struct Parts {
    /// What every continuation reads, however far behind: absent where a page is not written for good yet.
    pub kept: Option<SharedBlock>,
    /// The rest, which only a continuation close behind reads: plain forms of pages that are encoded later, and pages of
    /// layers with a sliding window. Absent where there is none.
    pub near: Option<SharedBlock>,
}

/// One page of a block.
pub struct SharedPage<'a> {
    /// In plain elements beside, or instead of, the form that its lane keeps for good.
    pub exact: bool,
    /// The page.
    pub page: &'a Arc<SealedPage>,
}

impl SharedBlock {
    /// Its pages, layer by layer and head by head.
    pub fn pages(&self) -> impl Iterator<Item = SharedPage<'_>> {
        self.lanes.iter().flat_map(|forms| {
            let kept = forms.kept.iter().map(|page| SharedPage { exact: false, page });
            kept.chain(forms.plain.iter().map(|page| SharedPage { exact: true, page }))
        })
    }

    /// What it has of one lane.
    pub(crate) fn lane(&self, index: usize) -> Option<&Forms> {
        self.lanes.get(index)
    }

    /// Bytes of its pages.
    pub fn bytes(&self) -> u64 {
        self.pages().map(|shared| shared.page.len() as u64).sum()
    }

    /// Bytes that dropping it would free: of pages that nobody else has.
    pub fn reclaimable(&self) -> u64 {
        let alone = self.pages().filter(|shared| Arc::strong_count(shared.page) == 1);
        alone.map(|shared| shared.page.len() as u64).sum()
    }

    /// Whether it has nothing.
    pub fn is_empty(&self) -> bool {
        self.pages().next().is_none()
    }

    /// Whether it has every form of every page that another, which ends earlier, has.
    pub fn covers(&self, other: &SharedBlock) -> bool {
        let forms = |own: &Forms, other: &Forms| {
            own.kept.is_some() >= other.kept.is_some() && own.plain.is_some() >= other.plain.is_some()
        };
        self.lanes.len() == other.lanes.len() && self.lanes.iter().zip(&other.lanes).all(|(a, b)| forms(a, b))
    }

    /// Takes over what it has not itself.
    pub fn absorb(&mut self, other: SharedBlock) {
        if self.lanes.is_empty() {
            self.lanes = other.lanes;
            return;
        }
        for (own, other) in self.lanes.iter_mut().zip(other.lanes) {
            own.kept = own.kept.take().or(other.kept);
            own.plain = own.plain.take().or(other.plain);
        }
    }

    /// Checks all pages against their checksums.
    ///
    /// # Errors
    /// [`KvError::Corrupt`] names the first page that changed.
    pub fn verify(&self) -> Result<(), KvError> {
        self.pages().try_for_each(|shared| shared.page.verify())
    }
}

/// Takes in pages that were written elsewhere or earlier, for sequences with one plan.
pub struct Importer<'a> {
    cache: &'a KvCache,
    lanes: Vec<crate::lane::Lane>,
}

impl Importer<'_> {
    /// A block of pages as [`SealedPage::bytes`] gave them, each with whether it is [`SharedPage::exact`]. Every page must be
    /// whole, and written as this plan writes the page of its layer and head; nothing else about it is believed.
    ///
    /// # Errors
    /// [`KvError::Foreign`] names the page that is not this cache's; [`KvError::OutOfBudget`] or [`KvError::OutOfMemory`].
    pub fn block<'p>(&self, pages: impl Iterator<Item = (bool, &'p [u8])>) -> Result<SharedBlock, KvError> {
        let mut block = SharedBlock { lanes: vec![Forms::default(); self.lanes.len()] };
        let foreign = |what: &str| KvError::Foreign { what: what.to_owned() };
        for (exact, bytes) in pages {
            let header = Header::verified(bytes).ok_or_else(|| foreign("its checksum or version is wrong"))?;
            let (layer, head) = (usize::from(header.layer), usize::from(header.head));
            let heads = self.cache.config().layers.get(layer).map_or(0, |g| g.kv_heads);
            if head >= heads {
                return Err(foreign(&format!("layer {layer}, head {head} is not the model's")));
            }
            let at = self.cache.layer_start()[layer] + head;
            let kind = self.lanes[at].kind_of(header.body).filter(|kind| kind.bytes() == bytes.len());
            let kind = kind.ok_or_else(|| foreign(&format!("layer {layer}, head {head}: another size or form")))?;
            let taken = self.cache.pool().take(bytes.len(), 1)?.pop();
            let taken = taken.ok_or_else(|| KvError::Misuse("no page".into()))?;
            let page = SealedPage::adopt(kind.clone(), &header, bytes, taken);
            let page = page.ok_or_else(|| foreign(&format!("layer {layer}, head {head}: another format")))?;
            let forms = &mut block.lanes[at];
            *if exact { &mut forms.plain } else { &mut forms.kept } = Some(Arc::new(page));
        }
        Ok(block)
    }
}

impl KvCache {
    /// See [`Importer`].
    ///
    /// # Errors
    /// [`KvError::Config`] where the plan was made for another model.
    pub fn importer(&self, plan: &CachePlan) -> Result<Importer<'_>, KvError> {
        plan.check(&self.config().layers)?;
        Ok(Importer { cache: self, lanes: self.lanes(plan).collect() })
    }

    /// The pages of a sequence for others: block by block, those of `blocks` that it holds. `at` is a position, at most the
    /// sequence's length, that another sequence may want to continue from: what its first query reads beyond that is added.
    /// Nothing is copied: pages that are still written are sealed, where they are full.
    pub fn share(&self, seq: &mut SequenceKv, blocks: Range<usize>, at: Option<usize>) -> Vec<SharedBlock> {
        self.share_pages(seq, blocks, at, false)
    }

    /// As [`KvCache::share`], of a sequence that has ended: with its last block, however many tokens that has.
    pub fn retire(&self, mut seq: SequenceKv, first: usize) -> Vec<SharedBlock> {
        let len = seq.len();
        self.share_pages(&mut seq, first..len.div_ceil(PAGE_TOKENS), Some(len), true)
    }

    fn share_pages(
        &self,
        seq: &mut SequenceKv,
        blocks: Range<usize>,
        at: Option<usize>,
        tail: bool,
    ) -> Vec<SharedBlock> {
        let (len, layers) = (seq.len, &self.config().layers);
        let end = blocks.end.min(len.div_ceil(PAGE_TOKENS));
        let mut shared: Vec<SharedBlock> =
            blocks.clone().take_while(|&block| block < end).map(|_| SharedBlock::default()).collect();
        let starts = self.layer_start();
        for (layer, g) in layers.iter().enumerate() {
            for head in 0..g.kv_heads {
                let lane = &mut seq.lanes[starts[layer] + head];
                for (block, shared) in blocks.clone().zip(&mut shared) {
                    shared.lanes.push(lane.share(block, len, g.window, at, tail));
                }
            }
        }
        shared
    }

    /// A block in its two parts.
    pub fn parts(&self, block: &SharedBlock) -> Parts {
        let windows = self.config().layers.iter().flat_map(|g| std::iter::repeat_n(g.window.is_some(), g.kv_heads));
        let (mut kept, mut near) = (block.clone(), block.clone());
        let whole = windows.clone().zip(&block.lanes).all(|(window, forms)| window || forms.kept.is_some());
        for ((window, kept), near) in windows.zip(&mut kept.lanes).zip(&mut near.lanes) {
            kept.plain = None;
            if window {
                kept.kept = None;
            } else if whole {
                near.kept = None;
            }
        }
        Parts {
            kept: Some(kept).filter(|_| whole && !block.is_empty()),
            near: Some(near).filter(|near| !near.is_empty()),
        }
    }

    /// Whether a sequence that is empty can begin with these blocks, of the tokens before position `at`.
    pub fn can_begin(&self, seq: &SequenceKv, blocks: &[&SharedBlock], at: usize) -> bool {
        self.lanes_with_window(seq).all(|(i, lane, window)| {
            lane.beginning(|page| blocks.get(page).and_then(|block| block.lanes.get(i)), window, at).is_some()
        })
    }

    /// The first of some blocks with a page whose bytes are not those that were sealed; all threads look.
    pub fn first_damaged(&self, blocks: &[&SharedBlock]) -> Option<usize> {
        let first = AtomicUsize::new(usize::MAX);
        self.team().for_each(blocks.len(), |i| {
            if blocks[i].verify().is_err() {
                first.fetch_min(i, Relaxed);
            }
        });
        Some(first.into_inner()).filter(|&first| first < blocks.len())
    }

    /// Lets an empty sequence begin with the first `at` tokens of these blocks. Only a last block that it will write to is
    /// copied.
    ///
    /// # Errors
    /// [`KvError::Misuse`] where [`KvCache::can_begin`] says no, [`KvError::Corrupt`] where a page is not what was sealed,
    /// [`KvError::OutOfBudget`] or [`KvError::OutOfMemory`] where there is no room for a copy. The sequence is empty then.
    pub fn begin(&self, seq: &mut SequenceKv, blocks: &[&SharedBlock], at: usize) -> Result<(), KvError> {
        if !seq.is_empty() {
            return Err(KvError::Misuse(format!("a sequence of {} tokens cannot begin again", seq.len())));
        }
        let missing = || KvError::Misuse(format!("the blocks do not hold all that a query at {at} reads"));
        let mut beginnings = Vec::with_capacity(seq.lanes.len());
        let mut spares: Vec<Vec<PageBytes>> = Vec::with_capacity(seq.lanes.len());
        for (i, lane, window) in self.lanes_with_window(seq) {
            let page = |page: usize| blocks.get(page).and_then(|block| block.lanes.get(i));
            beginnings.push(lane.beginning(page, window, at).ok_or_else(missing)?);
            spares.push(self.pool().take(lane.exact_bytes(), lane.copies(at))?);
        }
        for ((lane, beginning), mut spare) in seq.lanes.iter_mut().zip(beginnings).zip(spares) {
            lane.begin(beginning, at, &mut spare);
        }
        seq.len = at;
        Ok(())
    }

    fn lanes_with_window<'a>(
        &'a self,
        seq: &'a SequenceKv,
    ) -> impl Iterator<Item = (usize, &'a crate::lane::Lane, Option<usize>)> + 'a {
        let windows = self.config().layers.iter().flat_map(|g| std::iter::repeat_n(g.window, g.kv_heads));
        seq.lanes.iter().zip(windows).enumerate().map(|(i, (lane, window))| (i, lane, window))
    }
}

impl SequenceKv {
    /// Tokens at its start that it may begin with ([`KvCache::begin`]) without having computed them: all, unless its recipe
    /// looks at the queries of its context.
    pub fn unobserved(&self) -> usize {
        self.pending.as_ref().map_or(usize::MAX, |pending| pending.unobserved())
    }

    /// Whether what it holds of its tokens is what any sequence with these tokens would hold: nothing was reduced or moved
    /// here, and nothing is being read again.
    pub fn is_shareable(&self) -> bool {
        self.is_whole() && self.moved == 0
    }

    /// Whether nothing was reduced, nothing is being read again or mended, and no contexts share their positions.
    pub fn is_whole(&self) -> bool {
        let parallel = self.lanes.first().is_some_and(|lane| lane.parallel().is_some());
        self.context == 0 && self.pass_rows() == 0 && self.staged().is_none() && self.mend.is_none() && !parallel
    }
}
