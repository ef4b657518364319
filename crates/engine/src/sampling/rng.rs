//! The random draws of sampling: a counter-based generator without state.
//!
//! A draw is a pure function of (seed, choice, position): nothing has to be saved when a sequence is set aside, and
//! what one sequence draws can never depend on the others in its batch.

/// The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The increment of SplitMix64: 2^64 divided by the golden ratio, made odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The stream of one choice of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: u64,
}

impl Stream {
    /// The stream of choice `choice` under `seed`. Choices of one seed have unrelated streams.
    pub fn new(seed: u64, choice: u64) -> Stream {
        Stream { key: mix(mix(seed.wrapping_add(GOLDEN)) ^ mix(choice.wrapping_mul(GOLDEN).wrapping_add(1))) }
    }

    /// The draw for the generated token at `position`, uniform in `[0, 1)` with 53 random bits.
    pub fn uniform(self, position: u64) -> f64 {
        let bits = mix(self.key.wrapping_add(position.wrapping_add(1).wrapping_mul(GOLDEN)));
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finalizer_is_splitmix64() {
        // First outputs of SplitMix64 seeded with 1234567, as published with the reference code.
        let mut state = 1234567u64;
        let mut next = || {
            state = state.wrapping_add(GOLDEN);
            mix(state)
        };
        assert_eq!([next(), next(), next()], [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn draws_are_uniform_and_streams_unrelated() {
        let n = 20_000u64;
        for (seed, choice) in [(0, 0), (0, 1), (1, 0), (u64::MAX, 7)] {
            let stream = Stream::new(seed, choice);
            let mut buckets = [0u32; 16];
            for i in 0..n {
                let u = stream.uniform(i);
                assert!((0.0..1.0).contains(&u));
                buckets[(u * 16.0) as usize] += 1;
            }
            let expected = n as f64 / 16.0;
            let chi: f64 = buckets.iter().map(|&b| (f64::from(b) - expected).powi(2) / expected).sum();
            assert!(chi < 45.0, "seed {seed}, choice {choice}: chi-square of 15 degrees is {chi}");
        }
        let (a, b) = (Stream::new(5, 0), Stream::new(5, 1));
        let correlation: f64 =
            (0..n).map(|i| (a.uniform(i) - 0.5) * (b.uniform(i) - 0.5)).sum::<f64>() / n as f64 * 12.0;
        assert!(correlation.abs() < 0.03, "{correlation}");
    }
}
