//! StreamingLLM (Xiao et al., 2023): the first tokens and the last ones, whatever they say.

use super::{Method, Scene};
use crate::reduce::{Merge, When};
use std::sync::Arc;

/// Keeps `sinks` tokens at the start and as many at the end as the budget leaves.
#[derive(Debug)]
pub(super) struct StreamingLlm {
    pub sinks: usize,
}

impl Method for StreamingLlm {
    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        // Later is better; the sinks are better than all.
        let score = |i: usize| if i < self.sinks { (scene.tokens + self.sinks - i) as f32 } else { i as f32 };
        scene.heads().map(|head| (0..scene.slots(head)).map(score).collect()).collect()
    }

    fn least(&self) -> usize {
        self.sinks
    }

    fn when(&self) -> When {
        When::Both
    }

    fn describe(&self) -> String {
        format!("the first {} tokens and the last ones", self.sinks)
    }
}

/// A way of merging that chooses by itself.
#[derive(Debug)]
pub(super) struct Merged {
    pub merge: Arc<dyn Merge>,
}

impl Method for Merged {
    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        StreamingLlm { sinks: 0 }.scores(scene)
    }

    fn merge(&self) -> Option<Arc<dyn Merge>> {
        Some(self.merge.clone())
    }

    fn describe(&self) -> String {
        "whatever the merging leaves".to_owned()
    }
}
