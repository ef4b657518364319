//! Blocks that come from below the pool.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cachalot_kv::{CachePlan, KvCache, SequenceKv};
use cachalot_store::BlockKey;
use cachalot_store::cost::CostModel;
use cachalot_store::tier::{Level, Tenant};

use super::below::{Below, FetchId};
use super::beside::Beside;
use super::stretches::{Notes, Stretch};
use super::{Parcel, Reuse};

/// How long a tier may think about what it has before a prompt is computed without it.
pub(super) const PATIENCE: Duration = Duration::from_millis(300);

/// Observations after which they are kept for the next time.
const NOTE: u64 = 512;

/// How far a sequence has come with what is below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    New,
    /// A tier was asked what it has.
    Asking(Duration),
    /// It waits for what is read.
    Fetching(FetchId),
    /// It computes while blocks further on are read.
    Beside(Beside),
    Done,
}

/// Parts of blocks on their way.
pub(super) struct Fetching {
    pub left: usize,
    pub parcels: Vec<Parcel>,
    pub tenant: Tenant,
    pub begun: Duration,
    /// The slowest tier that has any of them.
    pub level: Level,
    pub bytes: u64,
    /// How long it should take.
    pub expected: f64,
    /// Whose it is alone, until they come to it: see [`super::Thread::claim`].
    pub claim: Option<Weak<()>>,
    /// Whether somebody had nothing to do but to wait for it: only then its time is the tier's.
    pub waited: bool,
    /// Whether each object is all of its block.
    pub plain: bool,
    /// Chunks that its blocks hold, where it is these that are wanted, and not the beginning of a prompt.
    pub stretches: Vec<Stretch>,
}

impl Fetching {
    /// Blocks of a prompt that are waited for.
    pub fn of_prompt(tenant: Tenant, begun: (Duration, Level, u64, f64), left: usize) -> Fetching {
        Fetching::of_chunks(tenant, Vec::new(), begun, left)
    }

    /// Blocks of chunks: begun when, from which tier at worst, how many bytes, and how long it should take.
    pub fn of_chunks(
        tenant: Tenant,
        stretches: Vec<Stretch>,
        (begun, level, bytes, expected): (Duration, Level, u64, f64),
        left: usize,
    ) -> Fetching {
        let (parcels, claim, waited, plain) = (Vec::new(), None, true, true);
        Fetching { left, parcels, tenant, begun, level, bytes, expected, claim, waited, plain, stretches }
    }
}

/// What is below, if anything, and what is on its way from there.
#[derive(Default)]
pub(super) struct Lower {
    pub below: Option<Box<dyn Below>>,
    pub fetching: HashMap<FetchId, Fetching>,
    /// Notes of chunks on their way.
    pub notes: HashMap<FetchId, Notes>,
    pub cost: CostModel,
    /// Fetches in a row that were not begun because computing is faster.
    pub refused: u64,
    /// Observations that are kept for the next time.
    noted: u64,
}

/// What a sequence looks for.
pub(crate) struct Wanted<'a> {
    pub cache: &'a KvCache,
    pub kv: &'a SequenceKv,
    pub plan: &'a Arc<CachePlan>,
    pub tokens: &'a [u32],
    /// Rows that others have computed before it.
    pub queued: usize,
    /// When its request came.
    pub submitted: Duration,
}

impl Reuse {
    /// From now on blocks are kept there and come from there.
    pub fn attach(&mut self, mut below: Box<dyn Below>) {
        if let Some(cost) = below.recall() {
            self.lower.noted = cost.observations().iter().sum();
            self.lower.cost = cost;
        }
        self.lower.below = Some(below);
    }

    /// Whether something is under way below that wants [`Reuse::take_arrivals`].
    pub fn is_busy(&self) -> bool {
        self.lower.below.as_ref().is_some_and(|below| below.is_busy())
    }

    /// Takes in what has come from below.
    pub fn take_arrivals(&mut self, now: Duration) {
        let Some(below) = &mut self.lower.below else { return };
        for arrived in below.arrived() {
            let Some(fetch) = self.lower.fetching.get_mut(&arrived.id) else { continue };
            fetch.left = fetch.left.saturating_sub(1);
            fetch.parcels.extend(arrived.parcel);
            if fetch.left > 0 {
                continue;
            }
            fetch.parcels.sort_by_key(|parcel| parcel.start);
            let seconds = now.saturating_sub(fetch.begun).as_secs_f64();
            if !fetch.parcels.is_empty() && (fetch.waited || seconds < fetch.expected) {
                self.lower.cost.observe_tier(fetch.level.name(), fetch.bytes, seconds);
            }
        }
        let seen = self.lower.cost.observations().iter().sum();
        if seen > self.lower.noted + NOTE {
            self.lower.noted = seen;
            below.note(&self.lower.cost);
        }
        self.take_notes();
        // What is nobody's alone is everybody's.
        let is_claimed = |fetch: &Fetching| fetch.claim.as_ref().is_some_and(|claim| claim.strong_count() > 0);
        let complete = self.lower.fetching.iter().filter(|(_, fetch)| fetch.left == 0 && !is_claimed(fetch));
        let mut complete: Vec<FetchId> = complete.map(|(id, _)| *id).collect();
        complete.sort_unstable_by_key(|id| id.0);
        for fetch in complete {
            if let Some(fetch) = self.lower.fetching.remove(&fetch) {
                self.take_up(fetch);
            }
        }
    }

    /// Puts what was read to its place.
    pub(super) fn take_up(&mut self, fetch: Fetching) {
        if !fetch.stretches.is_empty() {
            return self.hold_read(fetch);
        }
        let keys: Vec<BlockKey> = fetch.parcels.iter().map(Parcel::key).collect();
        let taken = self.import(fetch.tenant, fetch.parcels);
        if fetch.plain {
            // What came from there is there.
            self.tree.mark_stored(&keys[..taken]);
        }
    }

    /// Lets go of blocks until so many bytes are free; false where that is not to be had.
    pub(super) fn make_room_for(&mut self, cache: &KvCache, bytes: u64) -> bool {
        while cache.ledger().free() < bytes {
            if self.tree.evict().is_none() {
                return false;
            }
            self.evicted += 1;
        }
        true
    }

    /// Ends what is below in order.
    pub fn close(&mut self, patience: Duration) {
        // What came of a fetch that now never ends would hold its pages for ever.
        self.lower.fetching.clear();
        if let Some(mut below) = self.lower.below.take() {
            below.note(&self.lower.cost);
            below.close(patience);
        }
    }

    /// What things cost here.
    #[cfg(test)]
    pub fn cost(&self) -> &CostModel {
        &self.lower.cost
    }

    /// Begins with these.
    #[cfg(test)]
    pub fn set_cost(&mut self, cost: CostModel) {
        self.lower.cost = cost;
    }

    /// A step computed so many prompt tokens from a position on, alone.
    pub fn observe_prefill(&mut self, tokens: usize, start: usize, took: Duration) {
        self.lower.cost.observe_prefill(tokens, start, took.as_secs_f64());
    }
}
