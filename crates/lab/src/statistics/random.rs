//! Random numbers that are the same everywhere for the same seed.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// The stream of one item of many under one seed; streams of different items are unrelated.
    pub fn of_item(seed: u64, item: u64) -> Random {
        let mut of_seed = Random::new(seed);
        let mut of_both = Random::new(of_seed.next_u64() ^ item);
        Random { state: of_both.next_u64() }
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = self.state;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`; 0 for a bound of 0. Multiplies and rejects (Lemire, "Fast random integer generation in an
    /// interval", 2019), so that no value is favoured.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= bound.wrapping_neg().checked_rem(bound).unwrap_or(0) {
                return (product >> 64) as usize;
            }
        }
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts things into a random order (Durstenfeld, 1964).
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for at in (1..things.len()).rev() {
            things.swap(at, self.below(at + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_splitmix64() {
        // First outputs for 1234567, as published with the reference code.
        let mut random = Random::new(1234567);
        assert_eq!(
            [random.next_u64(), random.next_u64(), random.next_u64()],
            [6457827717110365317, 3203168211198807973, 9817491932198370423]
        );
    }

    #[test]
    fn below_stays_below_and_is_even() {
        let mut random = Random::of_item(7, 3);
        assert_eq!(random.below(0), 0);
        assert_eq!(random.below(1), 0);
        let mut counts = [0usize; 6];
        (0..6000).for_each(|_| counts[random.below(6)] += 1);
        let chi: f64 = counts.iter().map(|&n| (n as f64 - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 20.5, "chi-square of 5 degrees is {chi}");
        assert_ne!(Random::of_item(7, 3).next_u64(), Random::of_item(7, 4).next_u64());
        assert_ne!(Random::of_item(7, 3).next_u64(), Random::of_item(3, 7).next_u64());
    }
}
