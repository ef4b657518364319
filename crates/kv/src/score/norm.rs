//! Knorm: "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression" (Devoto et al., 2024).

use super::rows::norm;
use super::{Method, Scene};

/// Short keys stay: they are the ones that get attention.
#[derive(Debug)]
pub(super) struct Knorm;

impl Method for Knorm {
    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        let dim = scene.geometry.head_dim;
        (0..scene.geometry.kv_heads)
            .map(|head| scene.keys(head).chunks_exact(dim).map(|k| -norm(k)).collect())
            .collect()
    }

    fn describe(&self) -> String {
        "keys of small norm".to_owned()
    }
}
