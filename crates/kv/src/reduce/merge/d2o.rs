//! D2O (Wan et al., 2024): tokens that go join the one that stays with the most similar key, if they are similar enough.

use super::{Merge, Rows, Weight, by_center, nearest, others};
use crate::lane::keep::Merged;
use crate::score::Scene;

/// The threshold is a moving mean of similarities, one for all heads of a layer, as in the authors' code.
#[derive(Debug)]
pub(super) struct D2o {
    pub weight: Weight,
    /// What the moving mean keeps of itself.
    pub decay: f64,
}

/// A head's rows, the slots that go, and for each the nearest that stays with its cosine.
type Near = (Rows, Vec<u32>, Vec<(usize, f32)>);

impl Merge for D2o {
    fn merge(&self, scene: &Scene<'_>, chosen: &mut [Vec<u32>], _: &[Vec<f32>]) -> Vec<Vec<Merged>> {
        let lanes: Vec<Near> = chosen
            .iter()
            .enumerate()
            .map(|(head, chosen)| {
                let rows = Rows::of(scene, head);
                let gone = others(chosen, scene.slots(head));
                let near = nearest(scene.isa, &rows.unit(&gone), &rows.unit(chosen), rows.dim);
                (rows, gone, near)
            })
            .collect();
        let similarities = lanes.iter().flat_map(|(_, _, near)| near.iter().map(|near| f64::from(near.1)));
        let (count, sum) = similarities.fold((0, 0.0), |(count, sum), x| (count + 1, sum + x));
        let mean = sum / f64::from(count.max(1));
        let threshold = scene.remember(|before| match before.is_nan() {
            true => mean,
            false => self.decay * before + (1.0 - self.decay) * mean,
        });
        // Where heads drop the same number of tokens, one decision is for the tokens of one rank in all of them.
        let ranks = lanes.iter().map(|(_, gone, _)| gone.len()).max().unwrap_or(0);
        let joins: Vec<bool> = (0..ranks)
            .map(|rank| {
                let of: Vec<f64> = lanes.iter().filter_map(|l| l.2.get(rank)).map(|near| f64::from(near.1)).collect();
                of.iter().sum::<f64>() / of.len().max(1) as f64 >= threshold
            })
            .collect();
        lanes
            .iter()
            .zip(chosen)
            .map(|((rows, gone, near), chosen)| self.lane(rows, gone, near, &joins, chosen))
            .collect()
    }

    fn describe(&self) -> String {
        let weight = if self.weight == Weight::Exact { "exact weights" } else { "scaled by their similarity" };
        format!("those that go join the most similar key that stays, if similar enough ({weight})")
    }
}

impl D2o {
    fn lane(&self, rows: &Rows, gone: &[u32], near: &[(usize, f32)], joins: &[bool], chosen: &[u32]) -> Vec<Merged> {
        let joining = gone.iter().zip(near).zip(joins).filter(|(_, joins)| **joins);
        let similarity: std::collections::BTreeMap<u32, f32> =
            gone.iter().zip(near).map(|(&slot, near)| (slot, near.1)).collect();
        let groups = by_center(joining.map(|((&slot, near), _)| (chosen[near.0], slot)));
        let group = |(center, members): (u32, Vec<u32>)| {
            if self.weight == Weight::Exact {
                return rows.together(center, &members);
            }
            let share = 1.0 / (1.0 + members.len() as f32);
            let (mut k, mut v) = (rows.key(center).to_vec(), rows.value(center).to_vec());
            for member in members {
                let u = similarity.get(&member).copied().unwrap_or(0.0);
                k.iter_mut().zip(rows.key(member)).for_each(|(k, x)| *k += u * x);
                v.iter_mut().zip(rows.value(member)).for_each(|(v, x)| *v += u * x);
            }
            k.iter_mut().chain(&mut v).for_each(|x| *x *= share);
            Merged { slot: center, k, v, extra: 0.0 }
        };
        groups.into_iter().map(group).collect()
    }
}
