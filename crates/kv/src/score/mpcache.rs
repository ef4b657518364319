//! MPCache's look-once eviction (Zeng et al., 2025), in plaintext: what any of the last queries looks at.

use super::sums::shared;
use super::{Method, Scene};
use crate::observe::{Gather, Last, Wish};

/// The largest attention that any of the last `share` of the queries gives, mean over heads; one set for all heads.
#[derive(Debug)]
pub(super) struct MpCache {
    pub share: f64,
}

impl Method for MpCache {
    fn wish(&self) -> Wish {
        Wish::columns(Gather::Max, Last::Share(self.share))
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        let heads = scene.heads().map(|head| scene.received(head).into_iter().map(|x| x as f32).collect());
        shared(&heads.collect::<Vec<_>>())
    }

    fn describe(&self) -> String {
        format!("the largest attention of any of the last {} of the queries, one set for all heads", self.share)
    }
}
