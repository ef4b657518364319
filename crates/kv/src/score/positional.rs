//! StreamingLLM (Xiao et al., 2023): the first tokens and the last ones, whatever they say.

use super::{Method, Place, Scene};
use crate::allot::Budget;
use crate::observe::Wish;
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

/// A method, with a way of merging.
#[derive(Debug)]
pub(super) struct With {
    pub of: Arc<dyn Method>,
    pub merge: Arc<dyn Merge>,
}

impl Method for With {
    fn wish(&self) -> Wish {
        self.of.wish()
    }

    fn budget(&self, budget: Budget, tokens: usize, place: Place) -> usize {
        self.of.budget(budget, tokens, place)
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        self.of.scores(scene)
    }

    fn choose(&self, scene: &Scene<'_>, scores: &[Vec<f32>], kept: &[usize], budget: Budget) -> Vec<Vec<u32>> {
        self.of.choose(scene, scores, kept, budget)
    }

    fn least(&self) -> usize {
        self.of.least()
    }

    fn when(&self) -> When {
        self.of.when()
    }

    fn merge(&self) -> Option<Arc<dyn Merge>> {
        Some(self.merge.clone())
    }

    fn describe(&self) -> String {
        self.of.describe()
    }
}
