//! EMS (Li et al., 2024): of those that go, the better ones join the most similar center, or a class of nothing.

use super::{Merge, Rows, Weight, by_center, nearest, others};
use crate::lane::keep::Merged;
use crate::score::{Scene, by_score};

/// The next `band` times as many tokens as stay may join; those less similar than `least` to every center vanish, as if an
/// all-zero center took them.
#[derive(Debug)]
pub(super) struct Ems {
    pub band: f64,
    pub least: f32,
    pub weight: Weight,
}

impl Merge for Ems {
    fn merge(&self, scene: &Scene<'_>, chosen: &mut [Vec<u32>], scores: &[Vec<f32>]) -> Vec<Vec<Merged>> {
        let lane = |(head, chosen): (usize, &mut Vec<u32>)| {
            let rows = Rows::of(scene, head);
            let scores = &scores[head];
            let mut joining = others(chosen, scene.slots(head));
            joining.sort_unstable_by(by_score(scores));
            joining.truncate((chosen.len() as f64 * self.band) as usize);
            let near = nearest(scene.isa, &rows.unit(&joining), &rows.unit(chosen), rows.dim);
            let similar = joining.iter().zip(&near).filter(|(_, near)| near.1 >= self.least);
            let groups = by_center(similar.map(|(&slot, near)| (chosen[near.0], slot)));
            let group = |(center, members): (u32, Vec<u32>)| {
                if self.weight == Weight::Exact {
                    return rows.together(center, &members);
                }
                // Protected tokens have scores beyond any other: none of them weighs more than all its members.
                let most = members.iter().map(|&m| scores[m as usize].max(0.0)).sum::<f32>().max(f32::MIN_POSITIVE);
                let weight = |slot: u32| scores[slot as usize].clamp(0.0, most);
                let total: f32 = weight(center) + members.iter().map(|&m| weight(m)).sum::<f32>();
                let (mut k, mut v) = (vec![0.0; rows.dim], vec![0.0; rows.dim]);
                for slot in std::iter::once(center).chain(members) {
                    let share = weight(slot) / total;
                    k.iter_mut().zip(rows.key(slot)).for_each(|(k, x)| *k += share * x);
                    v.iter_mut().zip(rows.value(slot)).for_each(|(v, x)| *v += share * x);
                }
                Merged { slot: center, k, v, extra: 0.0 }
            };
            groups.into_iter().map(group).collect()
        };
        chosen.iter_mut().enumerate().map(lane).collect()
    }

    fn describe(&self) -> String {
        let Ems { band, least, .. } = self;
        format!("the next {band} times as many join the most similar that stays, from a similarity of {least}")
    }
}
