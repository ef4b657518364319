//! Elastic Cache (Liu et al., 2024): tokens that go join the nearest one that stays, by position.

use super::{Merge, Rows, Weight, by_center, others};
use crate::lane::keep::Merged;
use crate::score::Scene;

/// Means of keys and of values; of two at equal distance the earlier takes the token in.
#[derive(Debug)]
pub(super) struct Elastic {
    pub weight: Weight,
}

impl Merge for Elastic {
    fn merge(&self, scene: &Scene<'_>, chosen: &mut [Vec<u32>], _: &[Vec<f32>]) -> Vec<Vec<Merged>> {
        let lane = |(head, chosen): (usize, &mut Vec<u32>)| {
            let rows = Rows::of(scene, head);
            let position = |slot: u32| scene.position(head, slot as usize);
            let center = |slot: u32| {
                let after = chosen.partition_point(|&other| other < slot);
                let sides = [after.checked_sub(1), Some(after)].into_iter().flatten().filter_map(|i| chosen.get(i));
                sides.copied().min_by_key(|&other| position(other).abs_diff(position(slot)))
            };
            let gone = others(chosen, scene.slots(head));
            let groups = by_center(gone.iter().filter_map(|&slot| Some((center(slot)?, slot))));
            let group = |(center, members): (u32, Vec<u32>)| {
                let merged = rows.together(center, &members);
                if self.weight == Weight::Exact { merged } else { Merged { extra: 0.0, ..merged } }
            };
            groups.into_iter().map(group).collect()
        };
        chosen.iter_mut().enumerate().map(lane).collect()
    }

    fn describe(&self) -> String {
        let weight = if self.weight == Weight::Exact { "with their weight" } else { "as one token" };
        format!("those that go join the nearest that stays, {weight}")
    }
}
