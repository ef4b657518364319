//! Least recently used.

use super::Policy;
use crate::BlockKey;
use std::collections::{BTreeMap, HashMap};

/// What was not wanted for longest goes first.
#[derive(Default)]
pub struct Lru {
    clock: u64,
    order: BTreeMap<u64, BlockKey>,
    at: HashMap<BlockKey, u64>,
}

impl Policy for Lru {
    fn insert(&mut self, key: BlockKey, _bytes: u64) {
        self.remove(&key);
        self.clock += 1;
        self.order.insert(self.clock, key);
        self.at.insert(key, self.clock);
    }

    fn touch(&mut self, key: &BlockKey) {
        if self.at.contains_key(key) {
            self.insert(*key, 0);
        }
    }

    fn remove(&mut self, key: &BlockKey) {
        if let Some(at) = self.at.remove(key) {
            self.order.remove(&at);
        }
    }

    fn evict(&mut self, may_go: &mut dyn FnMut(&BlockKey) -> bool) -> Option<BlockKey> {
        let key = self.order.values().find(|key| may_go(key)).copied()?;
        self.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_may_go_goes() {
        let mut lru = Lru::default();
        let key = |n| BlockKey([n; 32]);
        (0..4).for_each(|n| lru.insert(key(n), 1));
        lru.touch(&key(0));
        lru.touch(&key(9));
        assert_eq!(lru.evict(&mut |k| *k != key(1)), Some(key(2)));
        assert_eq!(lru.evict(&mut |_| true), Some(key(1)));
        lru.remove(&key(3));
        assert_eq!(lru.evict(&mut |_| true), Some(key(0)));
        assert_eq!(lru.evict(&mut |_| true), None);
    }
}
