//! R-KV (Cai et al., 2025): what the last queries look at, less what is said again later.

use super::attention::{Pool, logits, with_window};
use super::rows::{add, dot, norm};
use super::{Method, Scene};
use crate::observe::Wish;
use crate::reduce::When;

/// `balance` of importance, the rest of redundancy.
#[derive(Debug)]
pub(super) struct Rkv {
    pub window: usize,
    pub kernel: usize,
    pub balance: f32,
    /// Keys at least this similar say the same.
    pub same: f32,
}

impl Method for Rkv {
    fn wish(&self) -> Wish {
        Wish::rows(self.window)
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        with_window(scene, self.window, |head, past| {
            let importance = self.importance(scene, head, past);
            let redundancy = redundancy(&scene.keys(head), scene.geometry.head_dim, self.same);
            let both = importance.iter().zip(&redundancy);
            both.map(|(i, r)| self.balance * i - (1.0 - self.balance) * r).collect()
        })
    }

    fn least(&self) -> usize {
        self.window
    }

    fn when(&self) -> When {
        When::Decode
    }

    fn describe(&self) -> String {
        let Rkv { window, balance, .. } = self;
        format!("attention of the last {window} queries ({balance}), less how much later keys repeat a token")
    }
}

impl Rkv {
    /// Softmax over the tokens before the window of the largest logit in a group, mean over the rows.
    fn importance(&self, scene: &Scene<'_>, head: usize, past: usize) -> Vec<f32> {
        let group = scene.geometry.group();
        let rows = logits(scene, head, self.window);
        let count = (rows.len() / group).max(1) as f32;
        let mut mean = vec![0.0; past];
        for row in rows.chunks_exact(group) {
            let largest: Vec<f32> =
                (0..past).map(|slot| row.iter().map(|l| l[slot]).fold(f32::NEG_INFINITY, f32::max)).collect();
            let max = largest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = largest.iter().map(|x| (x - max).exp()).collect();
            let sum: f32 = weights.iter().sum();
            mean.iter_mut().zip(weights).for_each(|(mean, w)| *mean += w / (sum * count));
        }
        Pool::Largest.over(&mean, self.kernel)
    }
}

/// Softmax of each key's mean cosine with all others, of which in every row the newest that is the same does not count.
///
/// The sum over all rows is a product with the sum of unit keys, so only the exceptions take a search: backwards from each
/// key, in most cases a short one.
fn redundancy(keys: &[f32], dim: usize, same: f32) -> Vec<f32> {
    let count = keys.len() / dim;
    let unit: Vec<f32> = keys
        .chunks_exact(dim)
        .flat_map(|k| {
            let n = norm(k).max(1e-12);
            k.iter().map(move |x| x / n)
        })
        .collect();
    let row = |i: usize| &unit[i * dim..][..dim];
    let mut sum = vec![0.0; dim];
    unit.chunks_exact(dim).for_each(|k| add(&mut sum, 1.0, k));
    let mut total: Vec<f32> = (0..count).map(|j| dot(row(j), &sum) - dot(row(j), row(j))).collect();
    for i in 0..count {
        // The last of the row that is the same, the diagonal left out; the first column where there is none.
        let newest = (0..count).rev().find(|&j| j != i && dot(row(i), row(j)) > same).unwrap_or(0);
        if newest != i {
            total[newest] -= dot(row(i), row(newest));
        }
    }
    let mean: Vec<f32> = total.iter().map(|x| x / count as f32).collect();
    let max = mean.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = mean.iter().map(|x| (x - max).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_keys_the_newest_is_the_least_redundant() {
        // The dossier's: of n equal keys, the last column is all zero, the one before loses one entry.
        let n = 6;
        let r = redundancy(&[1.0, 2.0].repeat(n), 2, 0.5);
        assert!((r.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let mean = |x: f32| x.exp();
        let expected = [5.0 / 6.0, 5.0 / 6.0, 5.0 / 6.0, 5.0 / 6.0, 4.0 / 6.0, 0.0].map(mean);
        let sum: f32 = expected.iter().sum();
        r.iter().zip(expected).for_each(|(r, e)| assert!((r - e / sum).abs() < 1e-5, "{r} {e}"));
    }
}
