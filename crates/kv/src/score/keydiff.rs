//! KeyDiff: key similarity-based eviction (Park et al., 2025).

use super::rows::{add, dot, norm};
use super::{Method, Scene};

/// Keys that point elsewhere than most stay.
#[derive(Debug)]
pub(super) struct KeyDiff;

/// Lengths below this count as this, as in the reference.
const SHORTEST: f32 = 1e-8;

impl Method for KeyDiff {
    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        let dim = scene.geometry.head_dim;
        (0..scene.geometry.kv_heads).map(|head| scores(&scene.keys(head), dim)).collect()
    }

    fn describe(&self) -> String {
        "keys unlike the mean direction".to_owned()
    }
}

/// `-cos(k, mean of the unit keys)`.
pub(super) fn scores(keys: &[f32], dim: usize) -> Vec<f32> {
    let mut anchor = vec![0.0; dim];
    let share = dim as f32 / keys.len() as f32;
    keys.chunks_exact(dim).for_each(|k| add(&mut anchor, share / norm(k).max(1e-12), k));
    let length = norm(&anchor).max(SHORTEST);
    keys.chunks_exact(dim).map(|k| -dot(k, &anchor) / (norm(k).max(SHORTEST) * length)).collect()
}
