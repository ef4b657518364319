//! S3-FIFO, after Yang, Zhang, Qiu, Yue and Vinayak, "FIFO queues are all you need for cache eviction", SOSP 2023.
//!
//! Chosen before GDSF: blocks of a model are nearly all of one size and cost about the same per byte to compute again, which is
//! where GDSF is plain LFU with ageing. What hurts a tier of KV blocks is the stream of prompts that never come back, and a small
//! queue in front of the main one lets those pass without touching what is used again.
//!
//! Queues are measured in bytes where the paper counts objects of one size, and the small queue is a tenth of what the tenant has
//! rather than of the cache, as each tenant has queues of its own.

use super::Policy;
use crate::BlockKey;
use std::collections::{BTreeMap, HashMap};

/// The paper's cap on the counter of an object: two bits.
const MOST: u8 = 3;
/// An object leaves the small queue for the main one when it was wanted more often than this since it came.
const PROMOTE: u8 = 1;
/// The small queue gives way while it has one in so many bytes, or more.
const SMALL: u64 = 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

struct Place {
    queue: Queue,
    at: u64,
    bytes: u64,
    wanted: u8,
}

/// A small queue for what is new, a main one for what was wanted again, and the names of what lately left the small one.
#[derive(Default)]
pub struct S3Fifo {
    clock: u64,
    places: HashMap<BlockKey, Place>,
    small: BTreeMap<u64, BlockKey>,
    main: BTreeMap<u64, BlockKey>,
    small_bytes: u64,
    main_bytes: u64,
    ghosts: BTreeMap<u64, BlockKey>,
    ghost_at: HashMap<BlockKey, u64>,
}

impl S3Fifo {
    fn put(&mut self, key: BlockKey, queue: Queue, bytes: u64, wanted: u8) {
        self.clock += 1;
        let (line, sum) = match queue {
            Queue::Small => (&mut self.small, &mut self.small_bytes),
            Queue::Main => (&mut self.main, &mut self.main_bytes),
        };
        line.insert(self.clock, key);
        *sum += bytes;
        self.places.insert(key, Place { queue, at: self.clock, bytes, wanted });
    }

    fn take(&mut self, key: &BlockKey) -> Option<Place> {
        let place = self.places.remove(key)?;
        let (line, sum) = match place.queue {
            Queue::Small => (&mut self.small, &mut self.small_bytes),
            Queue::Main => (&mut self.main, &mut self.main_bytes),
        };
        line.remove(&place.at);
        *sum -= place.bytes;
        Some(place)
    }

    /// Remembers the name of one that went; as many as the main queue has objects, as in the paper.
    fn haunt(&mut self, key: BlockKey) {
        self.clock += 1;
        self.ghosts.insert(self.clock, key);
        self.ghost_at.insert(key, self.clock);
        while self.ghosts.len() > self.main.len().max(16) {
            if let Some((_, key)) = self.ghosts.pop_first() {
                self.ghost_at.remove(&key);
            }
        }
    }

    /// From the head of the small queue: to the main one what was wanted, until one is found that was not.
    fn sweep_small(&mut self, may_go: &mut dyn FnMut(&BlockKey) -> bool) -> Option<BlockKey> {
        let mut after = 0;
        while let Some((&at, &key)) = self.small.range(after..).next() {
            after = at + 1;
            if self.places.get(&key).is_some_and(|place| place.wanted > PROMOTE) {
                if let Some(place) = self.take(&key) {
                    self.put(key, Queue::Main, place.bytes, 0);
                }
            } else if may_go(&key) {
                self.take(&key);
                self.haunt(key);
                return Some(key);
            }
        }
        None
    }

    /// From the head of the main queue: what was wanted goes back to its end with one less on its counter.
    fn sweep_main(&mut self, may_go: &mut dyn FnMut(&BlockKey) -> bool) -> Option<BlockKey> {
        for _ in 0..=MOST {
            let end = self.clock;
            let mut after = 0;
            while let Some((&at, &key)) = self.main.range(after..).next()
                && at <= end
            {
                after = at + 1;
                let wanted = self.places.get(&key).map_or(0, |place| place.wanted);
                if wanted > 0 {
                    if let Some(place) = self.take(&key) {
                        self.put(key, Queue::Main, place.bytes, wanted - 1);
                    }
                } else if may_go(&key) {
                    self.take(&key);
                    return Some(key);
                }
            }
        }
        None
    }
}

impl Policy for S3Fifo {
    fn insert(&mut self, key: BlockKey, bytes: u64) {
        self.take(&key);
        let queue = match self.ghost_at.remove(&key) {
            Some(at) => {
                self.ghosts.remove(&at);
                Queue::Main
            }
            None => Queue::Small,
        };
        self.put(key, queue, bytes, 0);
    }

    fn touch(&mut self, key: &BlockKey) {
        if let Some(place) = self.places.get_mut(key) {
            place.wanted = (place.wanted + 1).min(MOST);
        }
    }

    fn remove(&mut self, key: &BlockKey) {
        self.take(key);
    }

    fn evict(&mut self, may_go: &mut dyn FnMut(&BlockKey) -> bool) -> Option<BlockKey> {
        match self.small_bytes * SMALL >= self.small_bytes + self.main_bytes {
            true => self.sweep_small(may_go).or_else(|| self.sweep_main(may_go)),
            false => self.sweep_main(may_go).or_else(|| self.sweep_small(may_go)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> BlockKey {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        BlockKey(key)
    }

    #[test]
    fn a_stream_of_new_objects_does_not_push_out_what_is_wanted() {
        let mut policy = S3Fifo::default();
        (0..10).for_each(|n| policy.insert(key(n), 100));
        for n in 0..5 {
            policy.touch(&key(n));
            policy.touch(&key(n));
        }
        // Room for ten; a thousand pass through.
        for n in 100..1100 {
            assert!(policy.evict(&mut |_| true).is_some_and(|gone| gone.0 >= key(5).0));
            policy.insert(key(n), 100);
        }
        assert_eq!(policy.places.len(), 10);
        assert!((0..5).all(|n| policy.places.contains_key(&key(n))));
    }

    #[test]
    fn what_comes_back_soon_goes_to_the_main_queue() {
        let mut policy = S3Fifo::default();
        (0..4).for_each(|n| policy.insert(key(n), 1));
        let gone = policy.evict(&mut |_| true).unwrap();
        assert_eq!(gone, key(0));
        policy.insert(gone, 1);
        assert!(policy.places[&gone].queue == Queue::Main);
        assert!(policy.ghosts.is_empty() && policy.ghost_at.is_empty());
    }

    #[test]
    fn pinned_ones_stay_and_bytes_are_exact() {
        let mut policy = S3Fifo::default();
        (0..50).for_each(|n| policy.insert(key(n), u64::from(n)));
        (0..25).for_each(|n| (0..n % 5).for_each(|_| policy.touch(&key(n))));
        let mut gone = Vec::new();
        while let Some(key) = policy.evict(&mut |k| k.0[3] % 2 == 0) {
            gone.push(key.0[3]);
            let left = (0..50).filter(|n| !gone.contains(n)).map(u64::from).sum::<u64>();
            assert_eq!(policy.small_bytes + policy.main_bytes, left);
        }
        gone.sort_unstable();
        assert_eq!(gone, (0..50).step_by(2).collect::<Vec<u8>>());
    }
}
