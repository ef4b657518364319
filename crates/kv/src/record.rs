//! What calibration sees of a step.

use crate::{LayerGeometry, Segment};

/// Shown every layer of every step of a cache built with [`crate::KvCache::with_recorder`], before anything is stored.
pub trait Recorder: Send + Sync {
    /// `q` is `[rows][heads * head_dim]`, `k` and `v` are `[rows][kv_heads * head_dim]`, all before rotary position; the
    /// rows are those of the segments in order, whose positions follow on the length of their sequence.
    fn record(&self, layer: usize, geometry: &LayerGeometry, segments: &[Segment<'_>], q: &[f32], k: &[f32], v: &[f32]);
}
