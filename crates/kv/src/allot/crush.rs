//! KVCrush (Jha et al., 2025): some of the budget is for tokens that heads treat unlike those that matter most, so that all
//! kinds of behaviour stay represented.

use super::{Budget, Choose, top};
use crate::score::{Method, Scene};

/// A share of the budget goes to representatives, the same for all heads.
#[derive(Debug)]
pub(crate) struct KvCrush {
    pub share: f64,
}

impl Choose for KvCrush {
    fn choose(
        &self,
        of: &dyn Method,
        scene: &Scene<'_>,
        scores: &[Vec<f32>],
        kept: &[usize],
        budget: Budget,
    ) -> Vec<Vec<u32>> {
        let least = of.least();
        let important: Vec<usize> =
            kept.iter().map(|&kept| (kept - (kept as f64 * self.share) as usize).max(least.min(kept))).collect();
        let mut chosen = of.choose(scene, scores, &important, budget);
        let behaviour = behaviour(scores);
        for (chosen, (&kept, scores)) in chosen.iter_mut().zip(kept.iter().zip(scores)) {
            let mut taken = vec![false; scores.len()];
            chosen.iter().for_each(|&slot| taken[slot as usize] = true);
            let mut rest: Vec<u32> = (0..scores.len() as u32).filter(|&slot| !taken[slot as usize]).collect();
            rest.sort_by_key(|&slot| behaviour.get(slot as usize).copied().unwrap_or(0));
            let room = kept.saturating_sub(chosen.len()).min(rest.len());
            if let Some(stride) = rest.len().checked_div(room) {
                chosen.extend(rest.iter().step_by(stride).take(room));
                chosen.sort_unstable();
            }
        }
        chosen
    }

    fn describe(&self) -> String {
        format!("{} of the budget for tokens that stand for others which heads treat alike", self.share)
    }
}

/// For every token the distance of its behaviour (which heads have it in their better half) from the typical one.
fn behaviour(scores: &[Vec<f32>]) -> Vec<u32> {
    let len = scores.iter().map(Vec::len).min().unwrap_or(0);
    let mut bits = vec![vec![false; len]; scores.len()];
    for (bits, scores) in bits.iter_mut().zip(scores) {
        top(&scores[..len], len / 2).into_iter().for_each(|slot| bits[slot as usize] = true);
    }
    // The anchor alternates, as half of all bits are set by construction.
    (0..len).map(|t| bits.iter().enumerate().filter(|(head, bits)| bits[t] != (head % 2 == 1)).count() as u32).collect()
}
