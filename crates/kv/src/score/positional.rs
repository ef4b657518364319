//! StreamingLLM (Xiao et al., 2023): the first tokens and the last ones, whatever they say.

use super::{Method, Scene};

/// Keeps `sinks` tokens at the start and as many at the end as the budget leaves.
#[derive(Debug)]
pub(super) struct StreamingLlm {
    pub sinks: usize,
}

impl Method for StreamingLlm {
    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        // Later is better; the sinks are better than all.
        let score = |i: usize| if i < self.sinks { (scene.tokens + self.sinks - i) as f32 } else { i as f32 };
        vec![(0..scene.tokens).map(score).collect(); scene.geometry.kv_heads]
    }

    fn least(&self) -> usize {
        self.sinks
    }

    fn describe(&self) -> String {
        format!("the first {} tokens and the last ones", self.sinks)
    }
}
