//! What a new sequence begins with and only tiers have: looked for, weighed, and begun to be read.

use std::sync::Arc;
use std::time::Duration;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_store::BlockKey;
use cachalot_store::tier::Tenant;

use super::below::Parts;
use super::beside::Beside;
use super::fetch::{Fetching, PATIENCE, Stage, Wanted};
use super::timely::at_best_level;
use super::weigh::near_blocks;
use super::{Reuse, Thread};
use crate::observe;

/// How much longer than expected computing waits for what it has come to.
const SLACK: Duration = Duration::from_millis(20);

impl Reuse {
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
}
