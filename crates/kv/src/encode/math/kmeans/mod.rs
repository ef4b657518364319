//! Clustering by Lloyd's iteration (k-means).

mod places;
mod seeds;

use super::Rng;
use cachalot_kernels::Isa;
use cachalot_kernels::simd::LANES;
use places::{Places, in_strips};
use seeds::{BLOCK, seeds};

/// `[count][dims]` to `[dims][stride]`, the stride being `count` rounded up to a vector, with zeros.
pub fn channel_major(words: &[f32], dims: usize) -> Vec<f32> {
    let count = words.len() / dims;
    let stride = count.next_multiple_of(LANES);
    let mut out = vec![0.0; dims * stride];
    for (j, row) in out.chunks_exact_mut(stride).enumerate() {
        row.iter_mut().zip(words.chunks_exact(dims)).for_each(|(to, word)| *to = word[j]);
    }
    out
}

/// Rows that are looked at: so many a word, but never fewer than this.
const PER_WORD: usize = 64;
const FEWEST: usize = 16_384;

/// `count` words for the rows, `[rows][dims]`, word by word: at most `iterations` rounds. A word that no row is nearest to
/// moves to the row worst served. Rows beyond 64 a word (and 16,384) are thinned out.
pub fn train(rows: &[f32], dims: usize, count: usize, iterations: usize, seed: u64) -> Vec<f32> {
    let total = rows.len() / dims;
    let step = total.div_ceil((PER_WORD * count).max(FEWEST)).max(1);
    let rows: Vec<&[f32]> = rows.chunks_exact(dims).step_by(step).collect();
    let (order, _) = in_strips(&rows, rows.len().isqrt().next_multiple_of(BLOCK));
    let rows: Vec<&[f32]> = order.into_iter().map(|i| rows[i]).collect();
    let mut words = seeds(&rows, dims, count, &mut Rng::new(seed, 30));
    let isa = Isa::detect();
    let mut served = vec![(0, 0.0f32); rows.len()];
    for _ in 0..iterations {
        let places = Places::new(&words, dims);
        let mut moved = false;
        for (row, served) in rows.iter().zip(&mut served) {
            let now = places.nearest(isa, row, served.0);
            moved |= now != *served;
            *served = now;
        }
        if !moved {
            break;
        }
        centre(&rows, &mut served, dims, &mut words);
    }
    words
}

/// Every word to the mean of the rows it serves.
fn centre(rows: &[&[f32]], served: &mut [(usize, f32)], dims: usize, words: &mut [f32]) {
    let count = words.len() / dims;
    let (mut sums, mut sizes) = (vec![0.0f64; words.len()], vec![0usize; count]);
    for (row, &(word, _)) in rows.iter().zip(&*served) {
        sums[word * dims..][..dims].iter_mut().zip(*row).for_each(|(sum, &x)| *sum += f64::from(x));
        sizes[word] += 1;
    }
    for word in 0..count {
        let to = &mut words[word * dims..][..dims];
        if sizes[word] > 0 {
            let sums = &sums[word * dims..][..dims];
            to.iter_mut().zip(sums).for_each(|(to, sum)| *to = (sum / sizes[word] as f64) as f32);
            continue;
        }
        let worst = served.iter().enumerate().fold(0, |worst, (i, s)| if s.1 > served[worst].1 { i } else { worst });
        if let Some(row) = rows.get(worst).filter(|_| served[worst].1 > 0.0) {
            to.copy_from_slice(row);
            served[worst].1 = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cachalot_kernels::nearest::{Codebook, nearest};

    #[test]
    fn finds_separated_clusters_and_survives_too_few_rows() {
        let mut rng = Rng::new(4, 0);
        let centres = [[0.0f32, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0], [5.0, 30.0]];
        let rows: Vec<f32> = (0..500).flat_map(|i| centres[i % 5].map(|c| c + 0.1 * rng.normal() as f32)).collect();
        for seed in 0..5 {
            let words = train(&rows, 2, 5, 50, seed);
            for centre in centres {
                let off = |w: &[f32]| (w[0] - centre[0]).hypot(w[1] - centre[1]);
                assert!(words.chunks_exact(2).any(|w| off(w) < 0.1), "{words:?}");
            }
        }
        assert_eq!(train(&rows[..4], 2, 8, 9, 0).len(), 16);
        assert_eq!(train(&[], 2, 4, 9, 0), [0.0; 8]);
    }

    /// Panter and Dite's scalar optimum: two levels of a Gaussian at ±0.7979, 16 levels at an error of 0.0095.
    #[test]
    fn scalar_words_of_a_gaussian_are_the_lloyd_max_levels() {
        let mut rng = Rng::new(5, 0);
        let rows: Vec<f32> = (0..20_000).map(|_| rng.normal() as f32).collect();
        let mut two = train(&rows, 1, 2, 100, 1);
        two.sort_by(f32::total_cmp);
        assert!((two[0] + 0.7979).abs() < 0.02 && (two[1] - 0.7979).abs() < 0.02, "{two:?}");
        let words = train(&rows, 1, 16, 200, 1);
        let book = Codebook { words: &words, dims: 1, stride: 16, count: 16 };
        let error: f32 = rows.iter().map(|x| nearest(Isa::Portable, &[*x], book).1).sum();
        assert!((error / 20_000.0 / 0.0095 - 1.0).abs() < 0.05, "{}", error / 20_000.0);
    }
}
