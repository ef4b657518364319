//! ChunkKV (Liu et al., 2025): whole chunks of neighbours stay or go, the same for all heads.

use super::{Budget, Choose, top};
use crate::score::{Method, Scene};

/// kvpress's form: the score of a chunk is the sum over heads of the mean over its tokens.
#[derive(Debug)]
pub(crate) struct ChunkKv {
    pub chunk: usize,
}

impl Choose for ChunkKv {
    fn choose(
        &self,
        of: &dyn Method,
        scene: &Scene<'_>,
        scores: &[Vec<f32>],
        kept: &[usize],
        budget: Budget,
    ) -> Vec<Vec<u32>> {
        let tokens = scores.first().map_or(0, Vec::len);
        let same = scores.iter().all(|scores| scores.len() == tokens);
        let (true, Some(&kept)) = (tokens >= self.chunk && same, kept.first()) else {
            return of.choose(scene, scores, kept, budget);
        };
        let mut sums = vec![0.0f32; tokens];
        scores.iter().for_each(|scores| sums.iter_mut().zip(scores).for_each(|(sum, x)| *sum += x));
        let means: Vec<f32> = sums.chunks(self.chunk).map(|c| c.iter().sum::<f32>() / c.len() as f32).collect();
        let chunks = match budget {
            Budget::Share(_) => budget.tokens(means.len()),
            _ => means.len() * kept / tokens,
        };
        let span = |c: u32| c * self.chunk as u32..((c + 1) * self.chunk as u32).min(tokens as u32);
        vec![top(&means, chunks.max(1)).into_iter().flat_map(span).collect(); scores.len()]
    }

    fn describe(&self) -> String {
        format!("in chunks of {} tokens, the same for all heads", self.chunk)
    }
}
