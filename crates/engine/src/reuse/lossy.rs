//! Blocks that come back from below other than they were: written by a codec that does not give back every bit (CacheGen).
//!
//! They have a domain of their own, in which the codec's name is a part of every key. What was computed exactly goes down under
//! that domain's keys; what comes up stays in it, with everything that is computed behind it. So a request that wants exact
//! blocks never finds them, and one that allows them takes them only where the pool has fewer exact ones.

use std::sync::Arc;
use std::time::Duration;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::{CachePlan, KvCache};
use cachalot_store::{BlockKey, Domain};

use super::below::Parts;
use super::fetch::{Stage, Wanted};
use super::weigh::near_blocks;
use super::{Parcel, Reuse, ReuseConfig, Thread};

impl ReuseConfig {
    /// Where sequences with this plan share what a lossy codec below made of it; nowhere where there is none, or where pages are
    /// encoded already.
    pub fn lossy_domain(&self, cache: &KvCache, plan: &CachePlan, tenant: &str) -> Option<Domain> {
        let codec = self.lossy.as_ref().filter(|_| self.enabled)?;
        let plain = plan.keep.is_none() && plan.lanes.iter().flatten().all(|lane| lane.body.is_none());
        if !plain || near_blocks(cache, plan) > 0 {
            return None;
        }
        let mut identity = self.identity(plan, tenant, None);
        let mut hasher = blake3::Hasher::new_derive_key("cachalot lossy plan v1");
        hasher.update(&identity.plan).update(codec.as_bytes());
        identity.plan = *hasher.finalize().as_bytes();
        Some(identity.domain())
    }
}

impl Thread {
    /// Of one whose blocks a lossy codec writes under this domain.
    pub fn lossy(self, lossy: Option<Domain>) -> Thread {
        Thread { lossy, ..self }
    }

    /// Whether what it begins with may be other than what was computed.
    pub fn is_lossy(&self) -> bool {
        self.lossy.is_some() && self.domain == self.lossy
    }

    fn enter(&mut self, domain: Domain) {
        if self.domain != Some(domain) {
            self.domain = Some(domain);
            self.keys.clear();
        }
    }
}

impl Reuse {
    /// See [`ReuseConfig::lossy_domain`].
    pub fn lossy_domain(&self, cache: &KvCache, plan: &Arc<CachePlan>, tenant: &str) -> Option<Domain> {
        self.config.lossy_domain(cache, plan, tenant)
    }

    /// As [`Reuse::look_below`] does, where everything below is lossy. In the end the sequence is where it begins with most, exactly
    /// where that makes no difference.
    pub(super) fn look_below_lossy(&mut self, wanted: &Wanted<'_>, thread: &mut Thread, now: Duration) -> bool {
        let Some(lossy) = thread.lossy.filter(|_| thread.wish.lossy == Some(true) && thread.blend().is_none()) else {
            return false;
        };
        let (Some(domain), false) = (thread.domain, matches!(thread.stage, Stage::Done | Stage::Beside(_))) else {
            return false;
        };
        let exact = *thread.exact.get_or_insert(domain);
        let blocks = |reuse: &Reuse, domain| reuse.tree.find(domain, wanted.tokens).tokens / PAGE_TOKENS;
        let here = blocks(self, exact);
        thread.enter(lossy);
        let looked = match thread.wish.within {
            Some(within) => self.look_in_time(wanted, thread, here, within, now),
            None => self.look(wanted, thread, here, now),
        };
        if looked {
            return true;
        }
        if !matches!(thread.stage, Stage::Beside(_)) && blocks(self, lossy) <= here {
            thread.enter(exact);
        }
        false
    }

    /// Hands exact blocks down under the keys of the lossy domain.
    pub(super) fn keep_lossy(&mut self, domain: Domain, lossy: Domain, tokens: &[u32]) -> Vec<(Parcel, Parts)> {
        self.owners.get(&domain).copied().map(|tenant| self.owners.insert(lossy, tenant));
        let (mut parent, mut blocks): (Option<BlockKey>, _) = (None, Vec::new());
        for id in self.tree.whole(domain, tokens) {
            let Some(node) = self.tree.node_mut(id).filter(|node| node.tokens.len() == PAGE_TOKENS) else { break };
            let before = parent.replace(lossy.key(parent, &node.tokens));
            if !std::mem::replace(&mut node.stored.kept, true) {
                let start = node.depth * PAGE_TOKENS;
                let (tokens, block) = (node.tokens.clone(), node.block.clone());
                let parcel = Parcel { domain: lossy, parent: before, start, tokens, block };
                blocks.push((parcel, Parts { kept: true, near: false }));
            }
        }
        blocks
    }
}
