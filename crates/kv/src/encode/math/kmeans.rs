//! Clustering by Lloyd's iteration (k-means).

use super::Rng;
use cachalot_kernels::Isa;
use cachalot_kernels::lookup::nearest;
use cachalot_kernels::simd::LANES;

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
    let mut words = seeds(&rows, dims, count, &mut Rng::new(seed, 30));
    let isa = Isa::detect();
    let stride = count.next_multiple_of(LANES);
    let mut served = vec![(0, 0.0f32); rows.len()];
    for _ in 0..iterations {
        let by_channel = channel_major(&words, dims);
        let mut moved = false;
        for (row, served) in rows.iter().zip(&mut served) {
            let now = nearest(isa, row, &by_channel, stride, count);
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

/// Rows whose distances are summed up together when the next word is drawn.
const BLOCK: usize = 128;

/// First words: rows drawn with a chance that grows with the squared distance to those drawn before (k-means++, Arthur
/// and Vassilvitskii, 2007).
fn seeds(rows: &[&[f32]], dims: usize, count: usize, rng: &mut Rng) -> Vec<f32> {
    let mut words = Vec::with_capacity(count * dims);
    if rows.is_empty() {
        return vec![0.0; count * dims];
    }
    // Channel by channel within blocks, so that distances are vectors of rows; the last block is filled up with nothing.
    let mut blocks = vec![0.0f32; rows.len().div_ceil(BLOCK) * BLOCK * dims];
    for (i, row) in rows.iter().enumerate() {
        let block = &mut blocks[i / BLOCK * BLOCK * dims..][..BLOCK * dims];
        row.iter().enumerate().for_each(|(j, &x)| block[j * BLOCK + i % BLOCK] = x);
    }
    let mut distances = vec![1.0f32; blocks.len() / dims];
    distances[rows.len()..].fill(0.0);
    let sum = |block: &[f32]| block.iter().map(|&d| f64::from(d)).sum::<f64>();
    let mut sums: Vec<f64> = distances.chunks_exact(BLOCK).map(sum).collect();
    while words.len() < count * dims {
        let total: f64 = sums.iter().sum();
        if total <= 0.0 {
            break;
        }
        let mut left = rng.uniform() * total;
        let block = sums.iter().position(|sum| {
            left -= sum;
            left < 0.0
        });
        // Rounding may leave a little at the end.
        let block = block.unwrap_or(sums.len() - 1);
        left += sums[block];
        let within = distances[block * BLOCK..][..BLOCK].iter().position(|&d| {
            left -= f64::from(d);
            left < 0.0
        });
        let word = rows[(block * BLOCK + within.unwrap_or(0)).min(rows.len() - 1)];
        if words.is_empty() {
            distances[..rows.len()].fill(f32::INFINITY);
        }
        words.extend_from_slice(word);
        let of_blocks = distances.chunks_exact_mut(BLOCK).zip(blocks.chunks_exact(BLOCK * dims)).zip(&mut sums);
        for ((least, block), total) in of_blocks {
            let mut far = [0.0f32; BLOCK];
            for (channel, x) in block.chunks_exact(BLOCK).zip(word) {
                far.iter_mut().zip(channel).for_each(|(far, y)| *far += (y - x) * (y - x));
            }
            least.iter_mut().zip(&far).for_each(|(least, far)| *least = least.min(*far));
            *total = sum(least);
        }
    }
    words.resize(count * dims, 0.0);
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
        let error: f32 = rows.iter().map(|x| nearest(Isa::Portable, &[*x], &words, 16, 16).1).sum();
        assert!((error / 20_000.0 / 0.0095 - 1.0).abs() < 0.05, "{}", error / 20_000.0);
    }
}
