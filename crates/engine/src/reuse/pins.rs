//! Prompts that stay for a time: their blocks are held, so that eviction does not find them.
//!
//! Every tenant has a share of the KV budget for its pins, and all together no more than [`ALL`] of it; a pin that does not fit is
//! not granted, and the request is told. Requests go first: one that could not run at all beside the pins ends the one whose time
//! is over first.

use std::collections::HashMap;
use std::time::Duration;

use cachalot_kv::{KvCache, SharedBlock};
use cachalot_store::tier::Tenant;
use cachalot_store::{BlockKey, Domain};

use super::{Reuse, Thread};
use crate::observe;

/// Share of the KV budget that all pinned prompts hold at most, whatever tenants may.
const ALL: f64 = 0.5;

/// What became of the wish that a prompt stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Pinned {
    /// It stays.
    Held {
        /// Tokens of the prompt whose blocks are held.
        tokens: usize,
        /// Bytes of these blocks, those that other pins of the tenant hold too included.
        bytes: u64,
    },
    /// It would need more bytes than pins have left; nothing of it is held by this pin.
    NoRoom {
        /// Bytes that it adds to those that are pinned.
        needed_bytes: u64,
        /// Bytes that the tenant could pin yet.
        free_bytes: u64,
    },
    /// None of its blocks is there for other prompts: nothing is shared, it is shorter than a block, its recipe reduces the
    /// context, or it was put together from stretches of others.
    NotShared,
}

impl Pinned {
    /// Of two prompts of one request: what was refused is what has to be known.
    pub fn and(self, other: Pinned) -> Pinned {
        match (self, other) {
            (Pinned::Held { tokens, bytes }, Pinned::Held { tokens: more, bytes: further }) => {
                Pinned::Held { tokens: tokens + more, bytes: bytes + further }
            }
            (Pinned::Held { .. }, refused) | (refused, _) => refused,
        }
    }
}

struct Pin {
    tenant: Tenant,
    /// On the scheduler's clock.
    until: Duration,
    blocks: HashMap<BlockKey, SharedBlock>,
}

/// What is pinned, by the names of prompts. Blocks that several have in common count once.
#[derive(Default)]
pub(super) struct Pins(HashMap<BlockKey, Pin>);

impl Pins {
    /// Blocks that pins other than `but` hold, with their bytes: of one tenant or of all.
    fn held(&self, tenant: Option<Tenant>, but: Option<BlockKey>) -> HashMap<BlockKey, u64> {
        let pins =
            self.0.iter().filter(|(name, pin)| Some(**name) != but && tenant.is_none_or(|tenant| tenant == pin.tenant));
        pins.flat_map(|(_, pin)| pin.blocks.iter().map(|(key, block)| (*key, block.bytes()))).collect()
    }

    /// Bytes that are held.
    pub fn bytes(&self) -> u64 {
        self.held(None, None).values().sum()
    }

    /// When the next one is over.
    pub fn next_end(&self) -> Option<Duration> {
        self.0.values().map(|pin| pin.until).min()
    }

    /// Holds blocks under a name in place of those that it held, no shorter than these were to stay. `most` are bytes for the
    /// tenant and for all. Where they do not fit, those that it held stay.
    fn hold(&mut self, name: BlockKey, mut pin: Pin, most: (u64, u64)) -> Result<u64, (u64, u64)> {
        let (own, all) = (self.held(Some(pin.tenant), Some(name)), self.held(None, Some(name)));
        // Keys of tenants are apart, so what is new to its tenant is new to all.
        let new = pin.blocks.iter().filter(|(key, _)| !own.contains_key(key));
        let needed: u64 = new.map(|(_, block)| block.bytes()).sum();
        let free = most.0.saturating_sub(own.values().sum()).min(most.1.saturating_sub(all.values().sum()));
        if needed > free {
            return Err((needed, free));
        }
        pin.until = self.0.get(&name).map_or(pin.until, |before| before.until.max(pin.until));
        let bytes = pin.blocks.values().map(SharedBlock::bytes).sum();
        self.0.insert(name, pin);
        Ok(bytes)
    }

    /// How many of a chain of blocks from the front are held, and until when all of these are.
    fn covering(&self, keys: &[BlockKey]) -> (usize, Duration) {
        let until = |key| self.0.values().filter(|pin| pin.blocks.contains_key(key)).map(|pin| pin.until).max();
        let ends: Vec<Duration> = keys.iter().map_while(until).collect();
        (ends.len(), ends.into_iter().min().unwrap_or_default())
    }

    /// Lets go of those whose time is over.
    fn expire(&mut self, now: Duration) {
        let before = self.0.len();
        self.0.retain(|_, pin| pin.until > now);
        observe::pins("expired", before - self.0.len());
    }

    /// Lets go of all of a tenant.
    pub fn release(&mut self, tenant: Tenant) {
        self.0.retain(|_, pin| pin.tenant != tenant);
    }

    /// Lets go of those with a block whose bytes are not those that were sealed.
    pub fn purge(&mut self) {
        self.0.retain(|_, pin| pin.blocks.values().all(|block| block.verify().is_ok()));
    }
}

impl Reuse {
    /// Time goes on: pins end.
    pub fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.pins.expire(self.now);
    }

    /// Bytes that pins hold.
    pub fn pinned_bytes(&self) -> u64 {
        self.pins.bytes()
    }

    /// When the next pin is over.
    pub fn next_unpin(&self) -> Option<Duration> {
        self.pins.next_end()
    }

    /// Lets go of the pin whose time is over first, for a request that could otherwise not run. False where there is none.
    pub fn yield_pin(&mut self) -> bool {
        let Some(name) = self.pins.0.iter().min_by_key(|(name, pin)| (pin.until, **name)).map(|(name, _)| *name) else {
            return false;
        };
        self.pins.0.remove(&name);
        tracing::warn!("a prompt was unpinned before its time: a request could not have run beside it");
        observe::pins("yielded", 1);
        true
    }

    /// Holds what is there of a prompt, if its request wants that; a time of zero lets go of it.
    pub(super) fn pin(&mut self, cache: &KvCache, thread: &mut Thread, prompt: &[u32]) {
        let Some(time) = thread.wish.pin else { return };
        // A branch has what the first choice pinned.
        let Some(domain) = thread.domain.filter(|_| !thread.reduced) else {
            thread.pinned.get_or_insert(Pinned::NotShared);
            return;
        };
        let name = domain.key(None, prompt);
        if time.is_zero() {
            self.pins.0.remove(&name);
            thread.pinned = Some(Pinned::Held { tokens: 0, bytes: 0 });
            return;
        }
        let found = self.tree.find(domain, prompt);
        let nodes = found.path.iter().filter_map(|&id| self.tree.node(id));
        let blocks: HashMap<BlockKey, SharedBlock> = nodes.map(|node| (node.key, node.block.clone())).collect();
        if blocks.is_empty() {
            thread.pinned.get_or_insert(Pinned::NotShared);
            return;
        }
        let budget = cache.ledger().budget() as f64;
        let most = [self.config.pin_share, ALL].map(|share| (budget * share.clamp(0.0, 1.0)) as u64);
        let pin = Pin { tenant: thread.tenant, until: self.now.saturating_add(time), blocks };
        let outcome = match self.pins.hold(name, pin, (most[0], most[1])) {
            Ok(bytes) => Pinned::Held { tokens: found.tokens, bytes },
            // What was pinned at the end of the prompt stays, when the block that its answer begins in finds no room.
            Err(_) if matches!(thread.pinned, Some(Pinned::Held { .. })) => return,
            Err((needed_bytes, free_bytes)) => Pinned::NoRoom { needed_bytes, free_bytes },
        };
        if thread.pinned.is_none() {
            observe::pins(if matches!(outcome, Pinned::Held { .. }) { "held" } else { "refused" }, 1);
        }
        thread.pinned = Some(outcome);
    }

    /// Tokens at the beginning of a prompt that are pinned, and for how long all of them are.
    pub fn pinned(&self, domain: Domain, tokens: &[u32], now: Duration) -> Option<(usize, Duration)> {
        let found = self.tree.find(domain, tokens);
        let nodes = found.path.iter().filter_map(|&id| self.tree.node(id));
        let keys: Vec<BlockKey> = nodes.map(|node| node.key).collect();
        let (blocks, until) = self.pins.covering(&keys);
        let held = (blocks * cachalot_kernels::attention::PAGE_TOKENS).min(found.tokens);
        (held > 0 && until > now).then(|| (held, until.saturating_sub(now)))
    }
}
