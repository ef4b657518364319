//! Everything the cache holds for one sequence.

use crate::lane::Lane;

/// The lanes of one sequence. Dropping it returns its bytes, except those of pages that others share.
pub struct SequenceKv {
    /// Layer by layer, head by head.
    pub(crate) lanes: Vec<Lane>,
    /// Where each layer's lanes start.
    pub(crate) layer_start: std::sync::Arc<[usize]>,
    pub(crate) len: usize,
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

    /// Bytes of the pages this sequence refers to, shared ones included.
    pub fn bytes(&self) -> u64 {
        self.lanes.iter().map(Lane::bytes).sum()
    }

    pub(crate) fn lane(&self, layer: usize, head: usize) -> &Lane {
        &self.lanes[self.layer_start[layer] + head]
    }
}

impl std::fmt::Debug for SequenceKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SequenceKv").field("len", &self.len).field("bytes", &self.bytes()).finish()
    }
}
