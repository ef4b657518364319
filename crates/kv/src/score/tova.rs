//! TOVA: "Transformers are Multi-State RNNs" (Oren et al., 2024).

use super::attention::attention;
use super::{Method, Scene, above};
use crate::observe::Wish;
use crate::reduce::When;

/// What the last query looks at, the same tokens for all heads.
#[derive(Debug)]
pub(super) struct Tova;

impl Method for Tova {
    fn wish(&self) -> Wish {
        Wish::rows(1)
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        let g = scene.geometry;
        let mut mean = vec![0.0; scene.slots(0)];
        for head in scene.heads() {
            for row in attention(scene, head, 1) {
                mean.iter_mut().zip(row).for_each(|(mean, a)| *mean += a / g.heads as f32);
            }
        }
        let most = above(std::slice::from_ref(&mean));
        if let Some(last) = mean.last_mut() {
            *last = most;
        }
        vec![mean; g.kv_heads]
    }

    fn when(&self) -> When {
        When::Both
    }

    fn describe(&self) -> String {
        "attention of the last query, the same tokens for all heads of a layer".to_owned()
    }
}
