//! What lies below the pool: blocks that are kept in memory of their own, on disk, or in an object store.
//!
//! The scheduler only knows the trait: it never waits for I/O, and whatever does not come, or comes damaged, is computed.

mod seam;
mod tiers;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use cachalot_kv::CachePlan;
use cachalot_store::BlockKey;
use cachalot_store::cost::CostModel;
use cachalot_store::tier::{Level, Proof, Tenant};

#[cfg(test)]
pub(crate) use seam::{Tiered, Workers};
pub use tiers::{TierOptions, TierStore};
#[cfg(test)]
pub(crate) use worker::{Done, Work, objects, read, work_on};

use super::Parcel;

/// Which objects there are of a block: its pages as lanes keep them for good, and those that only a continuation close behind
/// it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// See [`cachalot_kv::share::Parts::kept`].
    pub kept: bool,
    /// See [`cachalot_kv::share::Parts::near`].
    pub near: bool,
}

impl Parts {
    /// Whether there is any.
    pub fn any(self) -> bool {
        self.kept || self.near
    }
}

/// A fetch, as long as it is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FetchId(pub u64);

/// What is below of a chain of blocks.
#[derive(Debug, Default)]
pub struct There {
    /// Of each block from the first on, until one that has nothing.
    pub parts: Vec<Parts>,
    /// The tier each of them is read from: the slower one where their parts are in two. As many.
    pub levels: Vec<Level>,
    /// Whether to look again later: a tier that does not know by itself is being asked.
    pub asking: bool,
}

/// One object of a fetch: a part of a block, its pages in the pool; `None` where it did not come.
pub struct Arrived {
    /// Of which fetch.
    pub id: FetchId,
    /// The part, with its place.
    pub parcel: Option<Parcel>,
}

/// A note that was asked for: see [`Below::read_notes`].
pub struct NoteRead {
    /// Of which fetch.
    pub id: FetchId,
    /// Its name.
    pub key: BlockKey,
    /// What it says; `None` where it did not come.
    pub bytes: Option<Arc<[u8]>>,
}

/// Where blocks lie that are not in the pool.
pub trait Below: Send {
    /// What is there of a chain of blocks. Looks at an index only; where that does not know, `asking` says to look again later.
    fn there(&mut self, tenant: Tenant, keys: &[BlockKey]) -> There;

    /// Whether an object is at hand, without asking a tier that would have to be asked.
    fn is_near(&mut self, tenant: Tenant, key: BlockKey) -> bool;

    /// Begins to read parts of blocks. For each of them comes one [`Arrived`].
    fn fetch(&mut self, tenant: Tenant, plan: &Arc<CachePlan>, wanted: &[(BlockKey, Parts)]) -> FetchId;

    /// Gives up a fetch: what is not read yet comes as missing.
    fn cancel(&mut self, id: FetchId);

    /// What has come since the last call.
    fn arrived(&mut self) -> Vec<Arrived>;

    /// Takes blocks that were computed, in the order of their chain. May drop them where it cannot keep up.
    fn keep(&mut self, tenant: Tenant, blocks: Vec<(Parcel, Parts)>);

    /// Keeps some bytes under names beside the blocks. What is there under a name already stays. May drop them.
    fn keep_notes(&mut self, tenant: Tenant, notes: Vec<(BlockKey, Arc<[u8]>)>);

    /// Begins to read what was kept under names. For each of them comes one [`NoteRead`].
    fn read_notes(&mut self, tenant: Tenant, keys: &[BlockKey]) -> FetchId;

    /// Notes that have come since the last call; what [`Below::arrived`] does not look at may be missing.
    fn notes(&mut self) -> Vec<NoteRead>;

    /// Removes all of a tenant; `tell` hears, later, what was removed and that nothing is left.
    fn delete(&mut self, tenant: Tenant, tell: Box<dyn FnOnce(Proof) + Send>);

    /// What is known of the cost of things here from before, if anything.
    fn recall(&mut self) -> Option<CostModel> {
        None
    }

    /// Keeps what is known of it now for the next time.
    fn note(&mut self, _: &CostModel) {}

    /// Whether something is under way that wants [`Below::arrived`] to be called.
    fn is_busy(&self) -> bool;

    /// Ends in order: what is to be written is, within so long.
    fn close(&mut self, patience: Duration);
}
