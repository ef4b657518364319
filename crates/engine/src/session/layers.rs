//! What a file has to hold for a sequence to go on, from the plan.

use cachalot_kv::{CachePlan, LayerGeometry};
use cachalot_store::file::Layer;

/// For the file's identity. Empty where the recipe reduces its context: what is shared of that is plain, whatever becomes of it.
pub(super) fn layers(plan: &CachePlan, geometry: &[LayerGeometry]) -> Vec<Layer> {
    if plan.keep.is_some() {
        return Vec::new();
    }
    let layer = |(lanes, g): (&Vec<cachalot_kv::LanePlan>, &LayerGeometry)| {
        let first = lanes.first();
        Layer {
            dim: g.head_dim as u32,
            sliding: g.window.map(|window| window as u64),
            sinks: first.map_or(0, |lane| lane.sinks as u64),
            exact: first.map_or(0, |lane| lane.window as u64),
            encoded: lanes.iter().map(|lane| lane.body.is_some()).collect(),
        }
    };
    plan.lanes.iter().zip(geometry).map(layer).collect()
}
