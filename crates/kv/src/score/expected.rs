//! Expected Attention (Devoto et al., 2025): what queries to come would look at, if they are distributed as those so far.

use super::rows::norm;
use super::{Method, Scene};
use crate::observe::Wish;

/// First tokens that stay and do not take part.
const SINKS: usize = 4;

/// The softmax of expected logits, times the length of the value.
#[derive(Debug)]
pub(super) struct ExpectedAttention {
    /// Positions to come whose rotations are averaged.
    pub future: usize,
    /// Added to the softmax.
    pub epsilon: f32,
    /// Whether values count.
    pub values: bool,
}

impl ExpectedAttention {
    /// Mean over the query heads of a group of what each is expected to give.
    fn expected(&self, scene: &Scene<'_>, head: usize, keys: &[f32]) -> Vec<f32> {
        let g = scene.geometry;
        let (dim, group) = (g.head_dim, g.group());
        let mut mean = vec![0.0f32; keys.len() / dim];
        let Some(moments) = scene.observed.and_then(|observed| observed.moments(scene.layer)) else { return mean };
        let scale = f64::from(g.scale);
        for query in 0..group {
            let (mut mu, mut sigma) = moments.of_head(head * group + query);
            if let Some(rope) = &g.rope {
                let turn = rope.mean_rotation(scene.tokens, self.future);
                turn.apply(&mut mu);
                sigma.chunks_exact_mut(dim).for_each(|row| turn.apply(row));
                transpose(&mut sigma, dim);
                sigma.chunks_exact_mut(dim).for_each(|row| turn.apply(row));
            }
            let logit = |key: &[f32]| {
                let key: Vec<f64> = key.iter().map(|&x| f64::from(x)).collect();
                let dot = |row: &[f64]| row.iter().zip(&key).map(|(a, b)| a * b).sum::<f64>();
                let quadratic: f64 = sigma.chunks_exact(dim).zip(&key).map(|(row, x)| x * dot(row)).sum();
                dot(&mu) * scale + quadratic * scale * scale / 2.0
            };
            let logits: Vec<f64> = keys.chunks_exact(dim).skip(SINKS).map(logit).collect();
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
            for (mean, logit) in mean.iter_mut().skip(SINKS).zip(logits) {
                *mean += ((logit - max).exp() / sum) as f32 / group as f32;
            }
        }
        mean
    }
}

impl Method for ExpectedAttention {
    fn wish(&self) -> Wish {
        Wish { moments: true, ..Wish::default() }
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        let dim = scene.geometry.head_dim;
        let lane = |head: usize| {
            let mut scores = self.expected(scene, head, &scene.keys(head));
            if self.values {
                let values = scene.values(head);
                let norms = values.chunks_exact(dim).map(norm);
                scores.iter_mut().zip(norms).for_each(|(score, norm)| *score = (*score + self.epsilon) * norm);
            }
            scores
        };
        let mut scores: Vec<Vec<f32>> = scene.heads().map(lane).collect();
        let most = scores.iter().flat_map(|s| s.iter().skip(SINKS)).copied().fold(f32::NEG_INFINITY, f32::max) + 1.0;
        scores.iter_mut().for_each(|scores| scores.iter_mut().take(SINKS).for_each(|score| *score = most));
        scores
    }

    fn least(&self) -> usize {
        SINKS
    }

    fn describe(&self) -> String {
        format!("attention expected of the next {} queries, by mean and covariance of those so far", self.future)
    }
}

fn transpose(square: &mut [f64], dim: usize) {
    for i in 0..dim {
        for j in 0..i {
            square.swap(i * dim + j, j * dim + i);
        }
    }
}
