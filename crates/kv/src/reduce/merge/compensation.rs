//! RazorAttention's compensation token (Tang et al., 2024): the mean of all that was dropped, with the weight of all of them.

use super::{Merge, Rows, Weight, others};
use crate::lane::keep::Merged;
use crate::score::Scene;

/// One slot for everything that is dropped.
#[derive(Debug)]
pub(super) struct Compensation {
    /// The deployed code has a plain mean; the paper its weight, which is the default here.
    pub weight: Weight,
}

impl Merge for Compensation {
    fn takes_a_slot(&self) -> bool {
        true
    }

    fn merge(&self, scene: &Scene<'_>, chosen: &mut [Vec<u32>], scores: &[Vec<f32>]) -> Vec<Vec<Merged>> {
        let lane = |(head, chosen): (usize, &mut Vec<u32>)| {
            let mut gone = others(chosen, scene.slots(head));
            // A reduction after another adds to the token of that one: the first slot that stands for many.
            let before = (0..scene.slots(head)).find(|&slot| scene.extra(head, slot) > 0.0).map(|slot| slot as u32);
            let slot = match before.filter(|slot| gone.binary_search(slot).is_err()) {
                Some(slot) => slot,
                None => {
                    // It takes the place of the least of those that stay.
                    if gone.is_empty() {
                        return Vec::new();
                    }
                    let score = |slot: &&u32| scores[head].get(**slot as usize).copied().unwrap_or(0.0);
                    let least = chosen.iter().min_by(|a, b| score(a).total_cmp(&score(b)).then(b.cmp(a))).copied();
                    let Some(least) = least else { return Vec::new() };
                    chosen.retain(|&slot| slot != least);
                    gone.push(least);
                    gone.sort_unstable();
                    chosen.push(gone[0]);
                    chosen.sort_unstable();
                    gone.remove(0)
                }
            };
            gone.retain(|&other| other != slot);
            let mut merged = Rows::of(scene, head).together(slot, &gone);
            if self.weight == Weight::Paper {
                merged.extra = 0.0;
            }
            vec![merged]
        };
        chosen.iter_mut().enumerate().map(lane).collect()
    }

    fn describe(&self) -> String {
        let weight =
            if self.weight == Weight::Exact { "with the weight of all of them" } else { "that weighs like one" };
        format!("one token that is the mean of all that went, {weight}")
    }
}
