//! Blocks that are below at several levels of loss: which one a request with little time gets (CacheGen's controller).
//!
//! Some blocks at a time: at the best level at which all that is left would be there in time, as fast as the tier has proved so
//! far; where none is, whichever is soonest there, computing the rest from its tokens included. So what began coarse goes on
//! finer where the tier is faster than expected, and the other way round.

use std::time::Duration;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_store::BlockKey;
use cachalot_store::cost::transfer::{Chunk, Send, next_send};
use cachalot_store::tier::{Level, Tenant};

use super::below::{Below, Parts, There};
use super::fetch::{Fetching, PATIENCE, Stage, Wanted};
use super::{Reuse, ReuseConfig, Thread};
use crate::observe;

/// Blocks that are read before it is looked again.
const SEGMENT: usize = 8;

impl ReuseConfig {
    /// Most levels of loss that blocks are written at.
    pub const MOST_LEVELS: u8 = 3;

    /// How many there are; one where nothing is lost.
    pub fn levels(&self) -> u8 {
        let names = self.lossy.as_ref().map_or(1, |names| names.split(',').count());
        names.clamp(1, usize::from(Self::MOST_LEVELS)) as u8
    }

    /// How many times smaller each level is than 16 bit elements: see the table in docs/tiers.md. What a tier takes for it is
    /// observed as if it were so.
    fn ratios(&self) -> Vec<f64> {
        let ratio = |name: &str| match name {
            "cachegen-3" => 2.78,
            "cachegen-2" => 3.39,
            "cachegen-1" => 4.27,
            _ => 1.0,
        };
        self.lossy.as_ref().map_or(vec![1.0], |names| names.split(',').map(ratio).collect())
    }
}

/// Names of blocks at the best of the levels at which most of them are there, and what is.
pub(super) fn at_best_level(
    below: &mut dyn Below,
    tenant: Tenant,
    keys: Vec<BlockKey>,
    levels: u8,
) -> (Vec<BlockKey>, There) {
    let mut best = below.there(tenant, &keys);
    let mut names = keys.clone();
    for level in 1..levels {
        let other: Vec<BlockKey> = keys.iter().map(|key| key.level(level)).collect();
        let there = below.there(tenant, &other);
        let asking = best.asking || there.asking;
        if there.parts.len() > best.parts.len() {
            (names, best) = (other, there);
        }
        best.asking = asking;
    }
    (names, best)
}

impl Reuse {
    /// Reads some blocks of a prompt whose first token is wanted `within` so long of its arrival, at the level for that. Whether
    /// they are to be waited for; what is there then is looked at again.
    pub(super) fn look_in_time(
        &mut self,
        wanted: &Wanted<'_>,
        thread: &mut Thread,
        least: usize,
        within: Duration,
        now: Duration,
    ) -> bool {
        let (Some(domain), Some(below)) = (thread.domain, &mut self.lower.below) else { return false };
        let Wanted { cache, kv, plan, tokens, .. } = wanted;
        let first = self.tree.find(domain, tokens).tokens / PAGE_TOKENS;
        let asked = match thread.stage {
            Stage::Done | Stage::Beside(_) => return false,
            Stage::Fetching(id) if self.lower.fetching.contains_key(&id) => return true,
            // Of what was read last nothing came, or it is gone again.
            Stage::Fetching(_) if first < thread.sought => {
                thread.stage = Stage::Done;
                return false;
            }
            Stage::Asking(since) => since,
            Stage::Fetching(_) | Stage::New => now,
        };
        thread.stage = Stage::Done;
        let most = tokens.len().saturating_sub(1).min(kv.unobserved()) / PAGE_TOKENS;
        if first >= most {
            return false;
        }
        let keys: Vec<BlockKey> = (first..most).map(|index| thread.key(domain, tokens, index)).collect();
        let (tenant, mut there, mut asking) = (thread.tenant, Vec::new(), false);
        for level in 0..self.config.levels() {
            let names: Vec<BlockKey> = keys.iter().map(|key| key.level(level)).collect();
            let found = below.there(tenant, &names);
            asking |= found.asking;
            let kept = found.parts.iter().take_while(|parts| parts.kept).count();
            there.push((names, found.levels, kept));
        }
        if asking && now.saturating_sub(asked) < PATIENCE {
            thread.stage = Stage::Asking(asked);
            return true;
        }
        let end = there.iter().map(|(_, _, kept)| *kept).max().unwrap_or(0);
        if first + end <= least {
            return false;
        }
        let (cost, ratios) = (&self.lower.cost, self.config.ratios());
        let block = cache.bytes_with(plan, PAGE_TOKENS);
        let bytes = |level: usize| (block as f64 / ratios.get(level).copied().unwrap_or(1.0)) as u64;
        let chunk = |i: usize| Chunk {
            // What is not there at a level is never in time.
            levels: there.iter().enumerate().map(|(l, t)| if i < t.2 { bytes(l) } else { u64::MAX }).collect(),
            decode: vec![0.0; there.len()],
            text: 0,
            compute: cost.prefill(PAGE_TOKENS, (first + i) * PAGE_TOKENS),
        };
        let chunks: Vec<Chunk> = (0..end).map(chunk).collect();
        let tier = there.iter().flat_map(|(_, levels, kept)| levels.iter().take(*kept)).copied().max();
        let tier = tier.unwrap_or(Level::Remote);
        let bandwidth = 1e9 / cost.transfer(tier.name(), 1_000_000_000).max(1e-9);
        let begin = (first + end) * PAGE_TOKENS;
        let after = cost.latency(tier.name()) + cost.prefill(tokens.len().saturating_sub(begin), begin);
        let waited = now.saturating_sub(wanted.submitted);
        let left = within.as_secs_f64() - waited.as_secs_f64() - cost.prefill(wanted.queued, 0) - after;
        let Some(Send::Level(level)) = next_send(&chunks, bandwidth, left) else {
            observe::fetch("text");
            return false;
        };
        let Some((names, _, kept)) = there.get(level) else { return false };
        let blocks = (*kept).min(SEGMENT);
        if blocks == 0 || !self.make_room_for(cache, block * blocks as u64) {
            return false;
        }
        let list: Vec<(BlockKey, Parts)> =
            names[..blocks].iter().map(|name| (*name, Parts { kept: true, near: false })).collect();
        let read = bytes(level) * blocks as u64;
        let expected = self.lower.cost.latency(tier.name()) + self.lower.cost.transfer(tier.name(), read);
        let Some(below) = &mut self.lower.below else { return false };
        let id = below.fetch(tenant, plan, &list);
        self.lower.fetching.insert(id, Fetching::of_prompt(tenant, (now, tier, read, expected), blocks));
        observe::fetch("timely");
        thread.sought = first + 1;
        thread.stage = Stage::Fetching(id);
        true
    }
}
