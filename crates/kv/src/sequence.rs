//! Everything the cache holds for one sequence.

use crate::lane::Lane;
use crate::mend::{Mend, Stale};
use crate::observe::Chunks;
use crate::plan::CachePlan;
use crate::pool::PageBytes;
use crate::reduce::Pending;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The lanes of one sequence. Dropping it returns its bytes, except those of pages that others share.
pub struct SequenceKv {
    pub(crate) plan: Arc<CachePlan>,
    /// Layer by layer, head by head.
    pub(crate) lanes: Vec<Lane>,
    /// Where each layer's lanes start.
    pub(crate) layer_start: Arc<[usize]>,
    pub(crate) len: usize,
    /// Pages reserved for the next step, by size.
    pub(crate) spare: BTreeMap<usize, Vec<PageBytes>>,
    /// Where the next [`crate::KvCache::scrub`] goes on: counts sealed pages.
    pub(crate) scrubbed: usize,
    /// Tokens that have been reduced, and what stayed of them.
    pub(crate) context: usize,
    /// See [`SequenceKv::moved`].
    pub(crate) moved: usize,
    /// The rows that are computed over what is there, while any are.
    pub(crate) mend: Option<Mend>,
    /// See [`SequenceKv::recomputed`].
    pub(crate) recomputed: usize,
    /// Moved rows that are as they were, where they are looked at.
    pub(crate) stale: Option<Box<Stale>>,
    /// What stretches of it attend to, where that is looked at.
    pub(crate) chunks: Option<Chunks>,
    /// Stretches of its context that the request marked.
    pub(crate) spans: Vec<std::ops::Range<usize>>,
    /// How the model is asked to repeat its context.
    /// The cache's own.
    pub(crate) words: Arc<crate::reduce::Words>,
    /// The reduction to come.
    pub(crate) pending: Option<Pending>,
}

impl SequenceKv {
    /// Tokens stored, which is also the position of the next one.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is stored yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How its lanes are written.
    pub fn plan(&self) -> &Arc<CachePlan> {
        &self.plan
    }

    /// Bytes of the pages this sequence refers to, shared ones and those reserved for the next step included.
    pub fn bytes(&self) -> u64 {
        let spare: usize = self.spare.iter().map(|(bytes, pages)| bytes * pages.len()).sum();
        self.lanes.iter().map(Lane::bytes).sum::<u64>() + spare as u64
    }

    /// Sealed page number `n` of all lanes, for tests that damage one.
    #[doc(hidden)]
    pub fn sealed_page(&self, n: usize) -> Option<&crate::page::SealedPage> {
        self.lanes.iter().flat_map(Lane::sealed).nth(n).map(|page| &**page)
    }

    pub(crate) fn lane(&self, layer: usize, head: usize) -> &Lane {
        &self.lanes[self.layer_start[layer] + head]
    }

    pub(crate) fn lane_mut(&mut self, layer: usize, head: usize) -> &mut Lane {
        &mut self.lanes[self.layer_start[layer] + head]
    }

    /// One reserved page of this size.
    pub(crate) fn take_spare(&mut self, bytes: usize) -> Option<PageBytes> {
        self.spare.get_mut(&bytes)?.pop()
    }
}

impl std::fmt::Debug for SequenceKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SequenceKv").field("len", &self.len).field("bytes", &self.bytes()).finish()
    }
}
