//! Blocks that come from below the pool, and those that go there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::{CachePlan, KvCache, SequenceKv};
use cachalot_store::cost::CostModel;
use cachalot_store::tier::{Removed, Tenant};
use cachalot_store::{BlockKey, Domain};

use super::below::{Below, FetchId, Parts};
use super::held::Held;
use super::{Parcel, Reuse, Thread};
use crate::Deletion;

/// How long a tier may think about what it has before a prompt is computed without it.
const PATIENCE: Duration = Duration::from_millis(300);

/// How far a sequence has come with what is below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    New,
    /// A tier was asked what it has.
    Asking(Duration),
    Fetching(FetchId),
    Done,
}

/// Parts of blocks on their way.
struct Fetching {
    left: usize,
    parcels: Vec<Parcel>,
    tenant: Tenant,
    begun: Duration,
    /// See [`super::below::There::level`].
    level: &'static str,
    bytes: u64,
}

/// What is below, if anything, and what is on its way from there.
#[derive(Default)]
pub(super) struct Lower {
    below: Option<Box<dyn Below>>,
    fetching: HashMap<FetchId, Fetching>,
    pub cost: CostModel,
    /// Fetches that were not begun because computing is faster.
    pub refused: u64,
}

/// What a sequence looks for.
pub(crate) struct Wanted<'a> {
    pub cache: &'a KvCache,
    pub kv: &'a SequenceKv,
    pub plan: &'a Arc<CachePlan>,
    pub tokens: &'a [u32],
}

impl Reuse {
    /// From now on blocks are kept there and come from there.
    pub fn attach(&mut self, below: Box<dyn Below>) {
        self.lower.below = Some(below);
    }

    /// Whether something is under way below that wants [`Reuse::take_arrivals`].
    pub fn is_busy(&self) -> bool {
        self.lower.below.as_ref().is_some_and(|below| below.is_busy())
    }

    /// Takes in what has come from below.
    pub fn take_arrivals(&mut self, now: Duration) {
        let Some(below) = &mut self.lower.below else { return };
        let mut complete = Vec::new();
        for arrived in below.arrived() {
            let Some(fetch) = self.lower.fetching.get_mut(&arrived.id) else { continue };
            fetch.left = fetch.left.saturating_sub(1);
            fetch.parcels.extend(arrived.parcel);
            if fetch.left == 0 {
                complete.extend(self.lower.fetching.remove(&arrived.id));
            }
        }
        for mut fetch in complete {
            if !fetch.parcels.is_empty() {
                let seconds = now.saturating_sub(fetch.begun).as_secs_f64();
                self.lower.cost.observe_tier(fetch.level, fetch.bytes, seconds);
            }
            fetch.parcels.sort_by_key(|parcel| parcel.start);
            self.import(fetch.tenant, fetch.parcels);
        }
    }

    /// Looks below for what a new sequence begins with and the pool has not. Whether it is to wait for that.
    pub fn look_below(&mut self, wanted: &Wanted<'_>, thread: &mut Thread, now: Duration) -> bool {
        let (Some(domain), Some(below)) = (thread.domain, &mut self.lower.below) else { return false };
        let asked = match thread.stage {
            Stage::Done => return false,
            Stage::Fetching(id) if self.lower.fetching.contains_key(&id) => return true,
            Stage::Fetching(_) => {
                thread.stage = Stage::Done;
                return false;
            }
            Stage::Asking(since) => since,
            Stage::New => now,
        };
        thread.stage = Stage::Done;
        let Wanted { cache, kv, plan, tokens } = wanted;
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
        let parts = choose(&there.parts, near);
        let gain = (from + parts.len()).saturating_sub(first);
        let left: usize = parts.iter().map(|parts| usize::from(parts.kept) + usize::from(parts.near)).sum();
        if gain == 0 || left == 0 {
            return false;
        }
        let bytes = cache.bytes_with(plan, parts.len() * PAGE_TOKENS);
        let cost = &self.lower.cost;
        let reading = cost.transfer(there.level, bytes);
        if reading > cost.prefill(gain * PAGE_TOKENS, first * PAGE_TOKENS) {
            self.lower.refused += 1;
            return false;
        }
        self.clock += 1;
        self.tree.touch(&found.path, self.clock);
        while cache.ledger().free() < bytes {
            if self.tree.evict().is_none() {
                return false;
            }
            self.evicted += 1;
        }
        let list: Vec<(BlockKey, Parts)> = keys.into_iter().zip(parts).collect();
        let id = below.fetch(thread.tenant, plan, &list);
        let fetching =
            Fetching { left, parcels: Vec::new(), tenant: thread.tenant, begun: now, level: there.level, bytes };
        self.lower.fetching.insert(id, fetching);
        thread.stage = Stage::Fetching(id);
        true
    }

    /// Hands blocks that a sequence has computed down, those that are not there yet.
    pub(super) fn keep_below(&mut self, cache: &KvCache, domain: Domain, tenant: Tenant, tokens: &[u32]) {
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
            below.keep(tenant, blocks);
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
            below.close(patience);
        }
    }

    /// A step computed so many prompt tokens from a position on, alone.
    pub fn observe_prefill(&mut self, tokens: usize, start: usize, took: Duration) {
        self.lower.cost.observe_prefill(tokens, start, took.as_secs_f64());
    }
}

/// Blocks before a position that a query there reads in another form than queries far behind: none where all is plain.
fn near_blocks(cache: &KvCache, plan: &CachePlan) -> usize {
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
