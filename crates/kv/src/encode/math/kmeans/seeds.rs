//! The first words.

use super::super::Rng;
use super::places::gap;

/// Rows whose distances are summed up together when the next word is drawn.
pub(super) const BLOCK: usize = 128;

/// Rows of a block, channel by channel, `[dims][BLOCK]`, filled up with nothing.
struct Block {
    rows: Vec<f32>,
    /// Least and largest of each channel.
    reach: Vec<[f32; 2]>,
    /// Squared distances to the nearest word so far, zero behind the last row.
    least: [f32; BLOCK],
    largest: f32,
    sum: f64,
}

impl Block {
    fn new(rows: &[&[f32]], dims: usize) -> Block {
        let mut to = vec![0.0; dims * BLOCK];
        let mut reach = vec![[f32::INFINITY, f32::NEG_INFINITY]; dims];
        for (i, row) in rows.iter().enumerate() {
            for (j, (&x, reach)) in row.iter().zip(&mut reach).enumerate() {
                to[j * BLOCK + i] = x;
                *reach = [reach[0].min(x), reach[1].max(x)];
            }
        }
        let mut least = [1.0; BLOCK];
        least[rows.len()..].fill(0.0);
        Block { rows: to, reach, least, largest: f32::INFINITY, sum: rows.len() as f64 }
    }

    /// Takes a word in; nothing happens where no row can be nearer to it than to those before.
    fn take(&mut self, word: &[f32]) {
        let gap = self.reach.iter().zip(word).map(|(&reach, &x)| gap(reach, x)).fold(0.0f32, f32::max);
        if gap * gap > self.largest {
            return;
        }
        let mut far = [0.0f32; BLOCK];
        for (channel, x) in self.rows.chunks_exact(BLOCK).zip(word) {
            far.iter_mut().zip(channel).for_each(|(far, y)| *far += (y - x) * (y - x));
        }
        self.least.iter_mut().zip(&far).for_each(|(least, far)| *least = least.min(*far));
        self.largest = self.least.iter().fold(0.0, |largest, &x| if x > largest { x } else { largest });
        self.sum = self.least.iter().map(|&d| f64::from(d)).sum();
    }
}

/// First words: rows drawn with a chance that grows with the squared distance to those drawn before (k-means++, Arthur
/// and Vassilvitskii, 2007).
pub(super) fn seeds(rows: &[&[f32]], dims: usize, count: usize, rng: &mut Rng) -> Vec<f32> {
    let mut words = Vec::with_capacity(count * dims);
    if rows.is_empty() {
        return vec![0.0; count * dims];
    }
    let mut blocks: Vec<Block> = rows.chunks(BLOCK).map(|rows| Block::new(rows, dims)).collect();
    while words.len() < count * dims {
        let total: f64 = blocks.iter().map(|block| block.sum).sum();
        if total <= 0.0 {
            break;
        }
        let mut left = rng.uniform() * total;
        let at = blocks.iter().position(|block| {
            left -= block.sum;
            left < 0.0
        });
        // Rounding may leave a little at the end.
        let at = at.unwrap_or(blocks.len() - 1);
        left += blocks[at].sum;
        let within = blocks[at].least.iter().position(|&d| {
            left -= f64::from(d);
            left < 0.0
        });
        let word = rows[(at * BLOCK + within.unwrap_or(0)).min(rows.len() - 1)];
        if words.is_empty() {
            for (block, rows) in blocks.iter_mut().zip(rows.chunks(BLOCK)) {
                block.least[..rows.len()].fill(f32::INFINITY);
            }
        }
        words.extend_from_slice(word);
        blocks.iter_mut().for_each(|block| block.take(word));
    }
    words.resize(count * dims, 0.0);
    words
}
