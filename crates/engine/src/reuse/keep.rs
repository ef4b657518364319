//! Blocks on their way down, and what goes for good: all of a tenant.

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::KvCache;
use cachalot_store::Domain;
use cachalot_store::tier::{Removed, Tenant};

use super::below::Parts;
use super::held::Held;
use super::{Parcel, Reuse, Thread};
use crate::Deletion;
use crate::blend::LEAST;

impl Reuse {
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
            let parts = cache.parts(&node.block);
            // The last may not be full: worth it where it comes back as it was, all of it in one part, and is not too short.
            let plain = parts.near.is_none() && self.config.lossy.is_none();
            if node.tokens.len() < PAGE_TOKENS && (!plain || node.tokens.len() < LEAST || before.is_none()) {
                break;
            }
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
        self.pins.release(tenant);
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
}
