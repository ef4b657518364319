//! Blocks that come from below the pool.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::{CachePlan, KvCache, SequenceKv};
use cachalot_store::BlockKey;
use cachalot_store::cost::CostModel;
use cachalot_store::tier::{Level, Tenant};

use super::below::{Below, FetchId, Parts};
use super::beside::Beside;
use super::stretches::{Notes, Stretch};
use super::timely::at_best_level;
use super::weigh::near_blocks;
use super::{Parcel, Reuse, Thread};
use crate::observe;

/// How long a tier may think about what it has before a prompt is computed without it.
pub(super) const PATIENCE: Duration = Duration::from_millis(300);

/// Observations after which they are kept for the next time.
const NOTE: u64 = 512;
/// How much longer than expected computing waits for what it has come to.
const SLACK: Duration = Duration::from_millis(20);

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
    begun: Duration,
    /// The slowest tier that has any of them.
    pub level: Level,
    pub bytes: u64,
    /// How long it should take.
    expected: f64,
    /// Whose it is alone, until they come to it: see [`Thread::claim`].
    claim: Option<Weak<()>>,
    /// Whether somebody had nothing to do but to wait for it: only then its time is the tier's.
    pub waited: bool,
    /// Whether each object is all of its block.
    plain: bool,
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

    /// Looks below for what a new sequence begins with and the pool has not. Whether it is to wait for that.
    pub fn look_below(&mut self, wanted: &Wanted<'_>, thread: &mut Thread, now: Duration) -> bool {
        match self.config.lossy {
            Some(_) => self.look_below_lossy(wanted, thread, now),
            None => self.look(wanted, thread, 0, now),
        }
    }

    /// See [`Reuse::look_below`]; what is below is only of use where it is more than `least` blocks.
    pub(super) fn look(&mut self, wanted: &Wanted<'_>, thread: &mut Thread, least: usize, now: Duration) -> bool {
        let (Some(domain), Some(below)) = (thread.domain, &mut self.lower.below) else { return false };
        let asked = match thread.stage {
            Stage::Done | Stage::Beside(_) => return false,
            Stage::Fetching(id) if self.lower.fetching.contains_key(&id) => return true,
            Stage::Fetching(_) => {
                thread.stage = Stage::Done;
                return false;
            }
            Stage::Asking(since) => since,
            Stage::New => now,
        };
        thread.stage = Stage::Done;
        let Wanted { cache, kv, plan, tokens, .. } = wanted;
        let found = self.tree.find(domain, tokens);
        let first = found.path.iter().filter(|&&id| self.tree.node(id).is_some_and(|n| n.tokens.len() == PAGE_TOKENS));
        let first = first.count().min(found.tokens / PAGE_TOKENS);
        let most = tokens.len().saturating_sub(1).min(kv.unobserved()) / PAGE_TOKENS;
        // Blocks of the pool may lack what only those close behind them read.
        let near = near_blocks(cache, plan);
        let from = first.saturating_sub(near);
        if first >= most {
            return false;
        }
        let keys: Vec<BlockKey> = (from..most).map(|index| thread.key(domain, tokens, index)).collect();
        let levels = if thread.is_lossy() { self.config.levels() } else { 1 };
        let (keys, there) = at_best_level(&mut **below, thread.tenant, keys, levels);
        if there.asking && now.saturating_sub(asked) < PATIENCE {
            thread.stage = Stage::Asking(asked);
            return true;
        }
        if from + there.parts.len() <= least {
            return false;
        }
        let Some(choice) = self.weigh(wanted, thread, &there, first, from) else { return false };
        // Behind the last that is there may be one that is not full.
        let last = if near == 0 && levels == 1 { (from + there.parts.len()).checked_sub(1) } else { None };
        let last = last.filter(|last| *last + 1 == choice.from + choice.parts.len());
        let tails = last.map(|last| thread.key(domain, tokens, last)).map(|key| self.tails(thread.tenant, key));
        let tails = tails.unwrap_or_default();
        let bytes = cache.bytes_with(plan, (choice.parts.len() + tails.len()) * PAGE_TOKENS);
        self.clock += 1;
        self.tree.touch(&found.path, self.clock);
        if !self.make_room_for(cache, bytes) {
            return false;
        }
        let to = choice.from + choice.parts.len();
        let left: usize = choice.parts.iter().map(|parts| usize::from(parts.kept) + usize::from(parts.near)).sum();
        let mut list: Vec<(BlockKey, Parts)> = keys.into_iter().skip(choice.from - from).zip(choice.parts).collect();
        let left = left + tails.len();
        list.extend(tails.into_iter().map(|tail| (tail, Parts { kept: true, near: false })));
        let Some(below) = &mut self.lower.below else { return false };
        let id = below.fetch(thread.tenant, plan, &list);
        let beside = choice.meet > first;
        let claim = beside.then(Arc::<()>::default);
        let fetching = Fetching {
            left,
            parcels: Vec::new(),
            tenant: thread.tenant,
            begun: now,
            level: choice.level,
            bytes,
            expected: choice.seconds,
            claim: claim.as_ref().map(Arc::downgrade),
            waited: !beside,
            plain: near == 0,
            stretches: Vec::new(),
        };
        self.lower.fetching.insert(id, fetching);
        if !beside {
            thread.stage = Stage::Fetching(id);
            observe::fetch("first");
            return true;
        }
        thread.claim = claim;
        thread.stop_at(choice.meet * PAGE_TOKENS);
        let until = now + Duration::from_secs_f64(2.0 * choice.seconds.min(3600.0)) + SLACK;
        thread.stage = Stage::Beside(Beside { id, from: choice.meet, to, until });
        false
    }

    /// Names of blocks that are not full, behind one, as far as they are at hand.
    fn tails(&mut self, tenant: Tenant, before: BlockKey) -> Vec<BlockKey> {
        let Some(below) = &mut self.lower.below else { return Vec::new() };
        let names = (0..BlockKey::TAILS).map(|slot| before.tail(slot));
        names.filter(|name| below.is_near(tenant, *name)).collect()
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
