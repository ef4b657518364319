//! CaM (Zhang et al., 2024): values of tokens that go are spread, by chance, over those that come after them.

use super::{Merge, Rows, others};
use crate::encode::math::Rng;
use crate::lane::keep::Merged;
use crate::observe::{Gather, Last, Wish};
use crate::score::Scene;
use std::collections::BTreeMap;

/// A token goes to each of the next `targets` that stay with `1 / targets` of its value, with the probability that makes up
/// for their larger attention.
#[derive(Debug)]
pub(super) struct Cam {
    pub targets: usize,
    pub seed: u64,
}

impl Merge for Cam {
    fn wish(&self) -> Wish {
        Wish::columns(Gather::Sum, Last::All)
    }

    fn merge(&self, scene: &Scene<'_>, chosen: &mut [Vec<u32>], _: &[Vec<f32>]) -> Vec<Vec<Merged>> {
        let lane = |(head, chosen): (usize, &mut Vec<u32>)| {
            let rows = Rows::of(scene, head);
            let received = scene.received(head);
            let mut values: BTreeMap<u32, Vec<f32>> = BTreeMap::new();
            for slot in others(chosen, scene.slots(head)) {
                let after = chosen.partition_point(|&other| other < slot);
                let targets = &chosen[after..chosen.len().min(after + self.targets)];
                if targets.is_empty() {
                    continue;
                }
                let mean = targets.iter().map(|&t| received[t as usize]).sum::<f64>() / targets.len() as f64;
                let probability = probability(received[slot as usize], mean);
                let lane = (scene.layer * scene.geometry.kv_heads + head) as u64;
                if uniform(self.seed ^ lane << 40 ^ scene.position(head, slot as usize) as u64) >= probability {
                    continue;
                }
                let share = 1.0 / targets.len() as f32;
                for &target in targets {
                    let value = values.entry(target).or_insert_with(|| rows.value(target).to_vec());
                    value.iter_mut().zip(rows.value(slot)).for_each(|(to, x)| *to += share * x);
                }
            }
            let extra = |slot: u32| scene.extra(head, slot as usize);
            let merged = |(slot, v)| Merged { slot, k: rows.key(slot).to_vec(), v, extra: extra(slot) };
            values.into_iter().map(merged).collect()
        };
        chosen.iter_mut().enumerate().map(lane).collect()
    }

    fn describe(&self) -> String {
        format!("values of those that go are spread over the next {} that stay, by chance", self.targets)
    }
}

/// With which a token that got `own` joins others that got `mean`.
fn probability(own: f64, mean: f64) -> f64 {
    let probability = own / mean;
    if probability.is_nan() { 0.0 } else { probability.clamp(0.0, 1.0) }
}

/// A number below one for every seed.
fn uniform(seed: u64) -> f64 {
    Rng::of_key(seed).uniform()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dossier's: what is expected of chance is what the token had by itself.
    #[test]
    fn the_contribution_is_unbiased() {
        let (attention, own, value) = ([0.05, 0.1, 0.2, 0.15], 0.08, 2.0);
        let probability = probability(own, attention.iter().sum::<f64>() / 4.0);
        assert!((probability - 0.64).abs() < 1e-12);
        let draws = 200_000;
        let hits = (0..draws).filter(|&seed| uniform(seed) < probability).count() as f64 / draws as f64;
        let contribution: f64 = attention.iter().map(|a| a * value * hits / 4.0).sum();
        assert!((contribution - own * value).abs() < 1e-3, "{contribution}");
    }

    #[test]
    fn what_got_nothing_never_joins_and_what_got_more_always_does() {
        assert_eq!([(0.0, 0.3), (0.4, 0.3), (0.0, 0.0)].map(|(own, mean)| probability(own, mean)), [0.0, 1.0, 0.0]);
    }
}
