//! kvpress's merging: values of tokens that go are folded into those of the most similar key that stays; keys stay as they are.

use super::{Merge, Rows, by_center, nearest, others};
use crate::lane::keep::Merged;
use crate::score::Scene;

/// A member weighs `max(cos, 0) * |v| / (|v| + |v of the center|)`.
#[derive(Debug)]
pub(super) struct Merging;

impl Merge for Merging {
    fn merge(&self, scene: &Scene<'_>, chosen: &mut [Vec<u32>], _: &[Vec<f32>]) -> Vec<Vec<Merged>> {
        let lane = |(head, chosen): (usize, &mut Vec<u32>)| {
            let rows = Rows::of(scene, head);
            let gone = others(chosen, scene.slots(head));
            let near = nearest(scene.isa, &rows.unit(&gone), &rows.unit(chosen), rows.dim);
            let norm = |slot: u32| rows.value(slot).iter().map(|x| x * x).sum::<f32>().sqrt();
            let similarity: Vec<f32> = near.iter().map(|near| near.1.max(0.0)).collect();
            let pairs = near.iter().enumerate().map(|(i, near)| (chosen[near.0], i as u32));
            let group = |(center, members): (u32, Vec<u32>)| {
                let own = norm(center);
                let mut v = rows.value(center).to_vec();
                let mut weight = 1.0;
                for i in members {
                    let member = gone[i as usize];
                    let each = norm(member);
                    let share = similarity[i as usize] * each / (each + own).max(f32::MIN_POSITIVE);
                    weight += share;
                    v.iter_mut().zip(rows.value(member)).for_each(|(v, x)| *v += share * x);
                }
                v.iter_mut().for_each(|v| *v /= weight);
                Merged { slot: center, k: rows.key(center).to_vec(), v, extra: 0.0 }
            };
            by_center(pairs).into_iter().map(group).collect()
        };
        chosen.iter_mut().enumerate().map(lane).collect()
    }

    fn describe(&self) -> String {
        "values of those that go join the most similar key that stays, by their norms".to_owned()
    }
}
