//! Which requests are shadowed.

use crate::sampling::Stream;

/// Requests of a block; every block has its share.
const BLOCK: u64 = 100;

/// Draws a fixed share of requests: of every [`BLOCK`] that follow on each other exactly that share, to the next whole
/// number, and no pattern of the traffic can hide from it or be hit by it alone, since places in a block are drawn.
#[derive(Debug)]
pub(crate) struct Draw {
    share: f64,
    places: Stream,
    /// Requests so far.
    seen: u64,
    /// Still to be taken of this block.
    due: u64,
}

impl Draw {
    pub fn new(share: f64, seed: u64) -> Draw {
        // A share that is not a number is none.
        let share = if share > 0.0 { share.min(1.0) } else { 0.0 };
        Draw { share, places: Stream::new(seed, 0x5ad0), seen: 0, due: 0 }
    }

    /// Whether the next request is one of them.
    pub fn next(&mut self) -> bool {
        if self.share == 0.0 {
            return false;
        }
        let place = self.seen % BLOCK;
        if place == 0 {
            // What a block's share leaves over counts for the next.
            let until = |blocks: u64| (self.share * (blocks * BLOCK) as f64).floor() as u64;
            let block = self.seen / BLOCK;
            self.due = until(block + 1) - until(block);
        }
        // Selection sampling (Knuth, volume 2, algorithm S): each of those left is as likely as any other.
        let left = (BLOCK - place) as f64;
        let taken = self.places.uniform(self.seen) * left < self.due as f64;
        self.seen += 1;
        self.due -= u64::from(taken);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_has_exactly_its_share_at_places_of_its_own() {
        for (share, of_block) in [(0.0, 0), (0.01, 1), (0.25, 25), (0.99, 99), (1.0, 100), (7.0, 100), (f64::NAN, 0)] {
            let mut draw = Draw::new(share, 7);
            let mut firsts = std::collections::BTreeSet::new();
            for _ in 0..50 {
                let block: Vec<bool> = (0..BLOCK).map(|_| draw.next()).collect();
                assert_eq!(block.iter().filter(|&&taken| taken).count(), of_block, "{share}");
                firsts.insert(block.iter().position(|&taken| taken));
            }
            // One of a hundred places, fifty times: nearly all are different.
            assert!(of_block != 1 || firsts.len() > 25, "{firsts:?}");
        }
        // A third of a hundred is not whole: what is left over comes later.
        let mut draw = Draw::new(1.0 / 3.0, 1);
        assert_eq!((0..30_000).filter(|_| draw.next()).count(), 10_000);
        let mut rare = Draw::new(0.001, 1);
        assert_eq!((0..10_000).filter(|_| rare.next()).count(), 10);
    }

    #[test]
    fn the_seed_decides() {
        let drawn = |seed| {
            let mut draw = Draw::new(0.1, seed);
            (0..500).map(|_| draw.next()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }
}
