//! Rotary position: queries and keys turned by angles that grow with the position (Su et al., 2021), in the
//! rotate-half pairing: channel `i` turns with channel `i + rotated/2`.

use cachalot_kernels::attention::PAGE_TOKENS;
use std::sync::{Arc, PoisonError, RwLock};

/// Positions of a block of [`Angles`]; a multiple of the page.
const STEP: usize = 1024;

/// The rotation of one kind of layer. Scaling methods (linear, llama3, yarn) are in the frequencies and the factor.
pub struct Rope {
    inv_freq: Vec<f32>,
    attention_factor: f32,
    /// Cosines and sines, `[position][2][rotated/2]`.
    table: RwLock<Arc<Angles>>,
    /// The same as tiles of keys want them, `[page][rotated/2][2][PAGE_TOKENS]`; made where keys are kept before rotation.
    tiles: RwLock<Arc<Angles>>,
}

/// Cosines and sines of the positions seen so far, in blocks of [`STEP`] positions, so that those that are there stay where
/// they are when others are added.
#[derive(Default)]
pub(crate) struct Angles {
    blocks: Vec<Arc<[f32]>>,
}

impl Angles {
    /// Those of `count` positions of one block, from `first` on.
    fn of(&self, first: usize, count: usize) -> &[f32] {
        let block = &self.blocks[first / STEP];
        let row = block.len() / STEP;
        &block[first % STEP * row..][..count * row]
    }

    /// These, and blocks up to number `blocks` as `block` makes them.
    fn grown(&self, blocks: usize, block: impl Fn(usize) -> Vec<f32>) -> Angles {
        let new = (self.blocks.len()..blocks).map(|i| block(i).into());
        Angles { blocks: self.blocks.iter().cloned().chain(new).collect() }
    }
}

/// At least the angles of the positions below `positions`; blocks that are missing are made and kept.
fn have(angles: &RwLock<Arc<Angles>>, positions: usize, block: impl Fn(usize) -> Vec<f32>) -> Arc<Angles> {
    let blocks = positions.div_ceil(STEP);
    let found = angles.read().unwrap_or_else(PoisonError::into_inner).clone();
    if found.blocks.len() >= blocks {
        return found;
    }
    let mut kept = angles.write().unwrap_or_else(PoisonError::into_inner);
    if kept.blocks.len() < blocks {
        *kept = Arc::new(kept.grown(blocks, block));
    }
    kept.clone()
}

/// See [`Rope::mean_rotation`]: cosines, then sines.
pub(crate) struct MeanRotation {
    mean: Vec<f64>,
}

impl MeanRotation {
    /// Turns a vector.
    pub(crate) fn apply(&self, x: &mut [f64]) {
        let half = self.mean.len() / 2;
        let (cos, sin) = self.mean.split_at(half);
        let (low, high) = x[..2 * half].split_at_mut(half);
        for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// See [`Rope::shift`]: cosines, then sines.
pub(crate) struct Shift {
    angles: Vec<f32>,
}

impl Shift {
    /// Turns one head.
    pub(crate) fn apply(&self, x: &mut [f32]) {
        turn_head(&self.angles, x);
    }
}

/// Turns one head by cosines and sines.
fn turn_head(angles: &[f32], x: &mut [f32]) {
    let half = angles.len() / 2;
    let (cos, sin) = angles.split_at(half);
    let (low, high) = x[..2 * half].split_at_mut(half);
    for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

impl std::fmt::Debug for Rope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rope").field("rotated", &self.rotated()).field("factor", &self.attention_factor).finish()
    }
}

impl Rope {
    /// `inv_freq` in radians per position, one per pair of channels; `attention_factor` multiplies cosine and sine (1
    /// but for yarn).
    pub fn new(inv_freq: Vec<f32>, attention_factor: f32) -> Rope {
        Rope { inv_freq, attention_factor, table: RwLock::default(), tiles: RwLock::default() }
    }

    /// Radians that each pair of channels turns by from one position to the next.
    pub fn angles(&self) -> &[f32] {
        &self.inv_freq
    }

    /// Channels that are turned, from the first; those beyond stay as they are.
    pub fn rotated(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// Cosines and sines for at least the positions below `positions`.
    pub(crate) fn table(&self, positions: usize) -> Arc<Angles> {
        have(&self.table, positions, |block| {
            let mut rows = Vec::with_capacity(STEP * self.rotated());
            for position in block * STEP..(block + 1) * STEP {
                let angles = self.inv_freq.iter().map(|f| position as f32 * f);
                rows.extend(angles.clone().map(|a| a.cos() * self.attention_factor));
                rows.extend(angles.map(|a| a.sin() * self.attention_factor));
            }
            rows
        })
    }

    /// Turns one head, `x` of at least [`Rope::rotated`] channels, at `position`.
    pub fn turn(&self, position: usize, x: &mut [f32]) {
        self.rotate(&self.table(position + 1), position, x);
    }

    /// The mean of the rotations at the `count` positions from `first` on: it shortens what it turns.
    pub(crate) fn mean_rotation(&self, first: usize, count: usize) -> MeanRotation {
        let half = self.inv_freq.len();
        let mut mean = vec![0.0; 2 * half];
        for position in first..first + count {
            for (i, f) in self.inv_freq.iter().enumerate() {
                let angle = position as f32 * f;
                mean[i] += f64::from(angle.cos() * self.attention_factor) / count as f64;
                mean[half + i] += f64::from(angle.sin() * self.attention_factor) / count as f64;
            }
        }
        MeanRotation { mean }
    }

    /// Undoes [`Rope::rotate`].
    pub(crate) fn unrotate(&self, table: &Angles, position: usize, x: &mut [f32]) {
        let half = self.inv_freq.len();
        let (cos, sin) = table.of(position, 1).split_at(half);
        let (low, high) = x[..2 * half].split_at_mut(half);
        // The factor of yarn is in cosine and sine, so turning back by them multiplies with its square.
        let back = 1.0 / (self.attention_factor * self.attention_factor);
        for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            (*a, *b) = ((*a * cos + *b * sin) * back, (*b * cos - *a * sin) * back);
        }
    }

    /// The table as tiles of keys want it, for at least the positions below `positions`.
    pub(crate) fn tiles(&self, positions: usize) -> Arc<Angles> {
        let (table, half) = (self.table(positions), self.inv_freq.len());
        have(&self.tiles, positions, |block| {
            let mut tiles = Vec::with_capacity(STEP * self.rotated());
            for first in (block * STEP..(block + 1) * STEP).step_by(PAGE_TOKENS) {
                let rows = table.of(first, PAGE_TOKENS);
                let column = |i: usize| rows.iter().skip(i).step_by(2 * half);
                (0..half).for_each(|i| tiles.extend(column(i).chain(column(half + i))));
            }
            tiles
        })
    }

    /// Of [`Rope::tiles`] those of one page.
    pub(crate) fn page<'a>(&self, tiles: &'a Angles, page: usize) -> &'a [f32] {
        tiles.of(page * PAGE_TOKENS, PAGE_TOKENS)
    }

    /// Turns a tile of keys, `[width][PAGE_TOKENS]`, of tokens at any positions.
    pub(crate) fn rotate_tile_at(&self, positions: &[usize; PAGE_TOKENS], tile: &mut [f32]) {
        let half = self.inv_freq.len();
        let table = self.table(positions.iter().max().map_or(0, |last| last + 1));
        let (low, high) = tile[..2 * half * PAGE_TOKENS].split_at_mut(half * PAGE_TOKENS);
        for (token, position) in positions.iter().enumerate() {
            let (cos, sin) = table.of(*position, 1).split_at(half);
            for (i, (cos, sin)) in cos.iter().zip(sin).enumerate() {
                let (a, b) = (&mut low[i * PAGE_TOKENS + token], &mut high[i * PAGE_TOKENS + token]);
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }

    /// Turns one head, `x` of at least [`Rope::rotated`] channels, at `position` of a table that holds it.
    pub(crate) fn rotate(&self, table: &Angles, position: usize, x: &mut [f32]) {
        turn_head(table.of(position, 1), x);
    }

    /// What takes a key from its position to another, so many further on; `None` where it stays. The factor of yarn is in the
    /// key already, so this has none.
    pub(crate) fn shift(&self, positions: i64) -> Option<Shift> {
        let angle = |f: &f32| positions as f64 * f64::from(*f);
        let cos = self.inv_freq.iter().map(|f| angle(f).cos() as f32);
        let angles = cos.chain(self.inv_freq.iter().map(|f| angle(f).sin() as f32)).collect();
        (positions != 0).then_some(Shift { angles })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cachalot_kernels::Isa;
    use cachalot_kernels::attention::turn;

    fn rope(theta: f32, dim: usize) -> Rope {
        Rope::new((0..dim / 2).map(|i| theta.powf(-2.0 * i as f32 / dim as f32)).collect(), 1.0)
    }

    #[test]
    fn scores_depend_on_the_distance_only() {
        let rope = rope(10000.0, 32);
        let q: Vec<f32> = (0..32).map(|i| (i as f32 * 0.37).sin()).collect();
        let k: Vec<f32> = (0..32).map(|i| (i as f32 * 0.71).cos()).collect();
        let score = |qp: usize, kp: usize| {
            let table = rope.table(qp.max(kp) + 1);
            let (mut q, mut k) = (q.clone(), k.clone());
            rope.rotate(&table, qp, &mut q);
            rope.rotate(&table, kp, &mut k);
            q.iter().zip(&k).map(|(a, b)| a * b).sum::<f32>()
        };
        for shift in [1, 50, 3000] {
            assert!((score(7, 3) - score(7 + shift, 3 + shift)).abs() < 2e-3, "{shift}");
        }
        assert!((score(7, 3) - score(9, 3)).abs() > 1e-2);
    }

    #[test]
    fn channels_beyond_the_rotated_stay_and_lengths_are_kept() {
        let rope = rope(10000.0, 8);
        let mut x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let before = x.clone();
        rope.rotate(&rope.table(101), 100, &mut x);
        assert_eq!(x[8..], before[8..]);
        let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
        assert!((norm(&x) - norm(&before)).abs() < 1e-3);
    }

    #[test]
    fn a_tile_turns_as_its_rows_do_on_every_isa() {
        let rope = rope(500.0, 24);
        // Asked for in between, so that the tiles grow, too.
        rope.tiles(10);
        let (table, tiles) = (rope.table(2000), rope.tiles(2000));
        for isa in Isa::available() {
            for page in [0, 7, 30] {
                let mut tile: Vec<f32> = (0..32 * PAGE_TOKENS).map(|i| (i as f32 * 0.37).sin()).collect();
                let rows = tile.clone();
                let angles = rope.page(&tiles, page);
                turn(isa, &mut tile[..24 * PAGE_TOKENS], angles);
                for token in 0..PAGE_TOKENS {
                    let mut x: Vec<f32> = rows.iter().skip(token).step_by(PAGE_TOKENS).copied().collect();
                    rope.rotate(&table, page * PAGE_TOKENS + token, &mut x);
                    let turned: Vec<f32> = tile.iter().skip(token).step_by(PAGE_TOKENS).copied().collect();
                    assert_eq!(turned, x, "{isa} page {page} token {token}");
                }
            }
        }
    }

    #[test]
    fn a_grown_table_keeps_its_rows() {
        let rope = rope(500.0, 16);
        let small = rope.table(3);
        let large = rope.table(5000);
        assert_eq!(small.of(2, 1), large.of(2, 1));
        assert_eq!(large.of(4999, 1).len(), 16);
        // Not only equal: the same memory.
        assert!(Arc::ptr_eq(&small.blocks[0], &large.blocks[0]));
    }
}
