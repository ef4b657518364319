//! Sessions that stay in memory for a time: their blocks are held, so that eviction does not find them.

use std::collections::HashMap;

use cachalot_store::BlockKey;

use super::SessionName;
use crate::reuse::Parcel;

type Key = (String, SessionName);

struct Pin {
    until: u64,
    blocks: HashMap<BlockKey, Parcel>,
}

/// What is pinned. Blocks that several sessions have in common count once.
#[derive(Default)]
pub(super) struct Pins(HashMap<Key, Pin>);

/// Bytes of a pin that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom {
    pub needed: u64,
    pub free: u64,
}

impl Pins {
    /// Bytes that are held.
    pub fn bytes(&self) -> u64 {
        self.but(None).values().sum()
    }

    /// Blocks that are held by others than `key`, with their bytes.
    fn but(&self, key: Option<&Key>) -> HashMap<BlockKey, u64> {
        let pins = self.0.iter().filter(|(other, _)| Some(*other) != key);
        pins.flat_map(|(_, pin)| pin.blocks.iter().map(|(key, parcel)| (*key, parcel.block.bytes()))).collect()
    }

    /// Holds a session's blocks in place of those that it held, within `limit` bytes for all. Where they do not fit, those that
    /// it held stay.
    pub fn hold(&mut self, key: Key, parcels: Vec<Parcel>, until: u64, limit: u64) -> Result<u64, NoRoom> {
        let blocks: HashMap<BlockKey, Parcel> = parcels.into_iter().map(|parcel| (parcel.key(), parcel)).collect();
        let others = self.but(Some(&key));
        let new = blocks.iter().filter(|(key, _)| !others.contains_key(key));
        let needed: u64 = new.map(|(_, parcel)| parcel.block.bytes()).sum();
        let free = limit.saturating_sub(others.values().sum());
        if needed > free {
            return Err(NoRoom { needed, free });
        }
        let bytes = blocks.values().map(|parcel| parcel.block.bytes()).sum();
        self.0.insert(key, Pin { until, blocks });
        Ok(bytes)
    }

    /// Lets go of a session, or of what it has beyond `tokens`.
    pub fn release(&mut self, tenant: &str, name: &SessionName, tokens: usize) {
        let key = (tenant.to_owned(), name.clone());
        if tokens == 0 {
            self.0.remove(&key);
        } else if let Some(pin) = self.0.get_mut(&key) {
            pin.blocks.retain(|_, parcel| parcel.start + parcel.tokens.len() <= tokens);
        }
    }

    /// Lets go of all sessions of a tenant.
    pub fn release_tenant(&mut self, tenant: &str) {
        self.0.retain(|(owner, _), _| owner != tenant);
    }

    /// Lets go of those whose time is over.
    pub fn expire(&mut self, now: u64) -> Vec<Key> {
        let over: Vec<Key> = self.0.iter().filter(|(_, pin)| pin.until <= now).map(|(key, _)| key.clone()).collect();
        over.iter().for_each(|key| drop(self.0.remove(key)));
        over
    }

    /// Lets go of the one whose time is over first.
    pub fn yield_one(&mut self) -> Option<Key> {
        let key = self.0.iter().min_by_key(|(key, pin)| (pin.until, *key)).map(|(key, _)| key.clone())?;
        self.0.remove(&key);
        Some(key)
    }
}
