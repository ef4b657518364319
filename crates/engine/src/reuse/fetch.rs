//! Blocks that come from below the pool, and those that go there.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::{CachePlan, KvCache, SequenceKv};
use cachalot_store::cost::{CostModel, Demand, Source, decide};
use cachalot_store::tier::{Level, Removed, Tenant};
use cachalot_store::{BlockKey, Domain};

use super::below::{Below, FetchId, Parts, There};
use super::beside::Beside;
use super::held::Held;
use super::{Parcel, Reuse, Thread};
use crate::{Deletion, observe};

/// How long a tier may think about what it has before a prompt is computed without it.
const PATIENCE: Duration = Duration::from_millis(300);

/// Of so many fetches in a row that were not begun, one is, beside computing: a tier that was slow once may be fast again.
const TRY: u64 = 16;
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
    level: Level,
    bytes: u64,
    /// How long it should take.
    expected: f64,
    /// Whose it is alone, until they come to it: see [`Thread::claim`].
    claim: Option<Weak<()>>,
    /// Whether somebody had nothing to do but to wait for it: only then its time is the tier's.
    pub waited: bool,
    /// Whether each object is all of its block.
    plain: bool,
}

/// What is below, if anything, and what is on its way from there.
#[derive(Default)]
pub(super) struct Lower {
    pub below: Option<Box<dyn Below>>,
    pub fetching: HashMap<FetchId, Fetching>,
    pub cost: CostModel,
    /// Fetches in a row that were not begun because computing is faster.
    refused: u64,
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
        let there = below.there(thread.tenant, &keys);
        if there.asking && now.saturating_sub(asked) < PATIENCE {
            thread.stage = Stage::Asking(asked);
            return true;
        }
        if from + there.parts.len() <= least {
            return false;
        }
        let Some(choice) = self.weigh(wanted, thread, &there, first, from) else { return false };
        let bytes = cache.bytes_with(plan, choice.parts.len() * PAGE_TOKENS);
        self.clock += 1;
        self.tree.touch(&found.path, self.clock);
        while cache.ledger().free() < bytes {
            if self.tree.evict().is_none() {
                return false;
            }
            self.evicted += 1;
        }
        let to = choice.from + choice.parts.len();
        let left = choice.parts.iter().map(|parts| usize::from(parts.kept) + usize::from(parts.near)).sum();
        let list: Vec<(BlockKey, Parts)> = keys.into_iter().skip(choice.from - from).zip(choice.parts).collect();
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

    /// What to read of what is there for a prompt of which the pool has `first` blocks, and what to compute meanwhile. `None`
    /// where computing all of it is fastest.
    fn weigh(
        &mut self,
        wanted: &Wanted<'_>,
        thread: &Thread,
        there: &There,
        first: usize,
        from: usize,
    ) -> Option<Choice> {
        let Wanted { cache, plan, tokens, .. } = wanted;
        let near = near_blocks(cache, plan);
        let end = from + choose(&there.parts, near).len();
        if end <= first {
            return None;
        }
        let cost = &self.lower.cost;
        let level = |block: usize| there.levels.get(block - from).copied().unwrap_or(Level::Remote);
        let bytes = cache.bytes_with(plan, PAGE_TOKENS);
        let tier = |block| Source::Tier {
            name: level(block).name().to_owned(),
            bytes,
            codec: "none".to_owned(),
            pages: bytes,
        };
        let blocks = (0..end).map(|block| vec![if block < first { Source::Pool } else { tier(block) }]).collect();
        let queues = self.lower.fetching.values().filter(|fetch| fetch.left > 0);
        let demand = Demand {
            tokens: tokens.len(),
            block: PAGE_TOKENS,
            blocks,
            compute_queue: cost.prefill(wanted.queued, 0),
            tier_queues: queues.map(|fetch| (fetch.level.name().to_owned(), fetch.bytes)).collect(),
            pipelined: true,
            layers: 0,
        };
        let decided = decide(cost, &demand);
        let (mut meet, mut to) = (decided.front.end, decided.tail.start / PAGE_TOKENS);
        let reading = |blocks: Range<usize>| -> f64 {
            let slowest = blocks.clone().map(level).max().map_or(0.0, |level| cost.latency(level.name()));
            slowest + blocks.map(|block| cost.transfer(level(block).name(), bytes)).sum::<f64>()
        };
        if !thread.may_begin_twice(plan) {
            // All that is there, or nothing.
            (meet, to) = (first, end);
            if reading(first..end) > cost.prefill((end - first) * PAGE_TOKENS, first * PAGE_TOKENS) {
                to = first;
            }
        }
        if to <= meet {
            self.lower.refused += 1;
            observe::fetch("refused");
            if self.lower.refused < TRY || end < first + 2 || !thread.may_begin_twice(plan) {
                return None;
            }
            (meet, to) = (end - 1, end);
        }
        self.lower.refused = 0;
        // A query that goes on from there reads what is close before it in another form.
        let parts = choose(&there.parts[..to - from], near);
        // Where computing meets it, the last block that has left the window is not encoded yet.
        let before = if near > 0 { near + 1 } else { 0 };
        let (begin, to) =
            (if meet == first { from } else { meet.saturating_sub(before).max(from) }, from + parts.len());
        let parts = parts[(begin - from).min(parts.len())..].to_vec();
        let slowest = (begin..to).map(level).max()?;
        let seconds = reading(begin..to);
        (to > meet && parts.iter().any(|parts| parts.any())).then_some(Choice {
            meet,
            from: begin,
            parts,
            level: slowest,
            seconds,
        })
    }

    /// Hands blocks that a sequence has computed down, those that are not there yet.
    pub(super) fn keep_below(&mut self, cache: &KvCache, domain: Domain, thread: &Thread, tokens: &[u32]) {
        if self.config.lossy.is_some() && !thread.is_lossy() {
            let blocks = thread.lossy.map(|lossy| self.keep_lossy(domain, lossy, tokens)).unwrap_or_default();
            if let (false, Some(below)) = (blocks.is_empty(), &mut self.lower.below) {
                below.keep(thread.tenant, blocks);
            }
            return;
        }
        let Some(below) = &mut self.lower.below else { return };
        let (mut parent, mut blocks) = (None, Vec::new());
        for id in self.tree.whole(domain, tokens) {
            let Some(node) = self.tree.node_mut(id) else { break };
            let before = parent.replace(node.key);
            if node.tokens.len() < PAGE_TOKENS {
                break;
            }
            let parts = cache.parts(&node.block);
            let new = Parts {
                kept: parts.kept.is_some() && !node.stored.kept,
                near: parts.near.is_some() && !node.stored.near,
            };
            if new.any() {
                node.stored = Parts { kept: node.stored.kept || new.kept, near: node.stored.near || new.near };
                let start = node.depth * PAGE_TOKENS;
                let (tokens, block) = (node.tokens.clone(), node.block.clone());
                blocks.push((Parcel { domain, parent: before, start, tokens, block }, new));
            }
        }
        if !blocks.is_empty() {
            below.keep(thread.tenant, blocks);
        }
    }

    /// Removes all of a tenant: what is in the pool at once, and what is below later; `tell` hears of both.
    pub fn delete_tenant(&mut self, tenant: Tenant, tell: Box<dyn FnOnce(Deletion) + Send>) {
        let before = self.size();
        let owned: Vec<Domain> = self.owners.iter().filter(|(_, owner)| **owner == tenant).map(|(d, _)| *d).collect();
        for domain in owned {
            self.tree.remove_domain(domain);
            self.library.remove_domain(domain);
            self.anchors.remove_domain(domain);
            self.owners.remove(&domain);
        }
        // What is on its way up finds nobody who takes it in.
        self.lower.fetching.retain(|_, fetching| fetching.tenant != tenant);
        let after = self.size();
        let (objects, bytes) = (before.0 - after.0, before.1 - after.1);
        let pool = Removed { objects: objects as u64, bytes, ..Removed::default() };
        let deletion = Deletion { pool, ..Deletion::default() };
        match &mut self.lower.below {
            Some(below) => {
                let tell = move |proof| tell(Deletion { tiers: Some(proof), ..deletion });
                below.delete(tenant, Box::new(tell));
            }
            None => tell(deletion),
        }
    }

    /// Blocks and anchors of a tenant, and their bytes.
    pub fn shared_by(&self, tenant: Tenant) -> (u64, u64) {
        let is_theirs = |domain: &Domain| self.owners.get(domain) == Some(&tenant);
        let nodes = self.tree.iter().filter(|(_, node)| is_theirs(&node.domain)).map(|(_, node)| &node.block);
        let (mut blocks, mut held) = (0, Held::default());
        for block in nodes.chain(self.library.blocks_of(is_theirs)) {
            blocks += 1;
            held.add(block);
        }
        let (anchors, bytes) = self.anchors.of(is_theirs);
        (blocks + anchors as u64, held.bytes() + bytes)
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

/// Blocks to read, from `from` on, and how far to compute meanwhile.
struct Choice {
    meet: usize,
    from: usize,
    parts: Vec<Parts>,
    level: Level,
    seconds: f64,
}

/// Blocks before a position that a query there reads in another form than queries far behind: none where all is plain.
pub(super) fn near_blocks(cache: &KvCache, plan: &CachePlan) -> usize {
    let layers = cache.config().layers.iter().zip(&plan.lanes);
    let near = layers.map(|(g, lanes)| {
        let encoded = lanes.iter().filter(|lane| lane.body.is_some() && !plan.holds()).map(|lane| lane.window);
        // Positions to go on from are whole blocks.
        let window = encoded.map(|window| window.div_ceil(PAGE_TOKENS)).max().unwrap_or(0);
        window.max(g.window.map_or(0, |window| (window - 1).div_ceil(PAGE_TOKENS)))
    });
    near.max().unwrap_or(0)
}

/// Of what is there, the blocks up to the last from which a query can go on: it needs the second part of the `near` before it.
fn choose(parts: &[Parts], near: usize) -> Vec<Parts> {
    if near == 0 {
        let kept = parts.iter().take_while(|parts| parts.kept).count();
        return parts[..kept].iter().map(|parts| Parts { near: false, ..*parts }).collect();
    }
    let ends = |&end: &usize| {
        let (far, close) = parts[..end].split_at(end.saturating_sub(near));
        far.iter().all(|parts| parts.kept) && close.iter().all(|parts| parts.near)
    };
    let end = (1..=parts.len()).rev().find(ends).unwrap_or(0);
    let begin = end.saturating_sub(near);
    parts[..end].iter().enumerate().map(|(i, parts)| Parts { near: parts.near && i >= begin, ..*parts }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_fetched_up_to_where_a_query_can_go_on() {
        let parts = |text: &str| -> Vec<Parts> {
            let part = |c| Parts { kept: c != 'n', near: c != 'k' };
            text.chars().map(part).collect()
        };
        // k: kept alone, n: near alone, b: both.
        assert_eq!(choose(&parts("kkkk"), 0).len(), 4);
        assert_eq!(choose(&parts("kknk"), 0).len(), 2);
        assert_eq!(choose(&parts("kkkk"), 2).len(), 0);
        assert_eq!(choose(&parts("kkbbkk"), 2), parts("kkbb"));
        assert_eq!(choose(&parts("bkkknn"), 2), parts("kkkknn"));
        assert_eq!(choose(&parts("b"), 2), parts("b"));
        assert_eq!(choose(&parts("bnnbb"), 2), parts("knn"));
    }
}
