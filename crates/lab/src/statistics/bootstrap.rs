//! Bootstrap intervals over blocks.

use super::quantile::of_sorted;
use super::{Interval, Random};

/// The 95% percentile interval of a statistic that is a function of sums.
///
/// `blocks` are the sums of consecutive tokens: neighbours depend on each other, so blocks are drawn, not tokens (Künsch,
/// "The jackknife and the bootstrap for general stationary observations", 1989, without overlap). Each resample draws as
/// many blocks as there are, with replacement, adds them up and hands the sums to `statistic`. Sums of a recipe and of its
/// reference stand in one block, so what they have in common cancels.
///
/// Fewer than two blocks have no spread to learn from: the interval is then the statistic itself, twice.
pub fn bootstrap<const N: usize>(
    blocks: &[[f64; N]],
    resamples: usize,
    seed: u64,
    statistic: impl Fn(&[f64; N]) -> f64,
) -> Interval {
    let mut random = Random::new(seed);
    let mut values: Vec<f64> = Vec::with_capacity(resamples);
    for _ in 0..resamples {
        let mut sums = [0.0; N];
        for _ in 0..blocks.len() {
            let block = &blocks[random.below(blocks.len())];
            sums.iter_mut().zip(block).for_each(|(sum, value)| *sum += value);
        }
        values.push(statistic(&sums));
    }
    values.sort_by(f64::total_cmp);
    Interval { low: of_sorted(&values, 0.025), high: of_sorted(&values, 0.975) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean of blocks `[count, sum]`.
    fn mean(sums: &[f64; 2]) -> f64 {
        sums[1] / sums[0]
    }

    #[test]
    fn two_blocks_have_three_resampled_means() {
        // Blocks with means 0 and 1 give 0, ½ and 1 with probabilities ¼, ½ and ¼.
        let blocks = [[10.0, 0.0], [10.0, 10.0]];
        assert_eq!(bootstrap(&blocks, 1000, 1, mean), Interval { low: 0.0, high: 1.0 });
        assert_eq!(bootstrap(&[[10.0, 4.0]], 1000, 1, mean), Interval { low: 0.4, high: 0.4 });
    }

    #[test]
    fn the_interval_covers_as_often_as_it_says() {
        // Blocks of one uniform number each; the mean of the population is ½.
        let mut random = Random::new(11);
        let mut covered = 0;
        let trials = 400;
        for trial in 0..trials {
            let blocks: Vec<[f64; 2]> = (0..50).map(|_| [1.0, random.below(1 << 20) as f64 / 1048576.0]).collect();
            covered += usize::from(bootstrap(&blocks, 300, trial, mean).contains(0.5));
        }
        let share = covered as f64 / trials as f64;
        assert!((0.90..0.985).contains(&share), "{share}");
    }

    #[test]
    fn the_seed_decides() {
        let blocks: Vec<[f64; 2]> = (0..20).map(|i| [1.0, f64::from(i * i % 7)]).collect();
        assert_eq!(bootstrap(&blocks, 200, 5, mean), bootstrap(&blocks, 200, 5, mean));
        assert_ne!(bootstrap(&blocks, 200, 5, mean), bootstrap(&blocks, 200, 6, mean));
    }
}
