//! KVMerger (Wang et al., 2024): runs of neighbours with similar keys become one token each, around the one with the most
//! attention.

use super::{Merge, Rows};
use crate::lane::keep::Merged;
use crate::score::{Scene, by_score};
use std::ops::Range;

/// What makes up for the members that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Makeup {
    /// Nothing.
    None,
    /// The value times their number: the paper's.
    Value,
    /// The logarithm of their number, added to scores.
    Log,
}

/// A `reserved` share of the budget is for tokens that never merge: the best scores. The others are cut into runs where
/// neighbours are least alike, into as many as the budget leaves.
#[derive(Debug)]
pub(super) struct KvMerger {
    pub reserved: f64,
    pub makeup: Makeup,
    /// Width of the Gaussian that weighs members; a run's own where zero.
    pub sigma: f32,
}

impl Merge for KvMerger {
    fn merge(&self, scene: &Scene<'_>, chosen: &mut [Vec<u32>], scores: &[Vec<f32>]) -> Vec<Vec<Merged>> {
        let lane = |(head, chosen): (usize, &mut Vec<u32>)| {
            let rows = Rows::of(scene, head);
            let (scores, budget) = (&scores[head], chosen.len());
            chosen.sort_unstable_by(by_score(scores));
            chosen.truncate((budget as f64 * self.reserved) as usize);
            chosen.sort_unstable();
            let mut runs = runs(&rows, chosen, scene.slots(head), budget - chosen.len());
            // Reserved tokens may cut the rest into more runs than there is room for: the best stay.
            let pivot = |run: &Range<u32>| {
                run.clone().min_by(|a, b| by_score(scores)(a, b)).map_or(f32::NEG_INFINITY, |p| scores[p as usize])
            };
            runs.sort_by(|a, b| pivot(b).total_cmp(&pivot(a)).then(a.start.cmp(&b.start)));
            runs.truncate(budget - chosen.len());
            runs.sort_by_key(|run| run.start);
            let mut merged = Vec::new();
            for run in runs {
                let Some(pivot) = run.clone().min_by(|a, b| by_score(scores)(a, b)) else { continue };
                chosen.push(pivot);
                if run.len() > 1 {
                    merged.push(self.run(&rows, run, pivot));
                }
            }
            chosen.sort_unstable();
            merged
        };
        chosen.iter_mut().enumerate().map(lane).collect()
    }

    fn describe(&self) -> String {
        let makeup = match self.makeup {
            Makeup::None => "",
            Makeup::Value => ", values times their number",
            Makeup::Log => ", with the weight of all",
        };
        format!(
            "runs of neighbours with similar keys become one token{makeup}; {} of the budget never merges",
            self.reserved
        )
    }
}

impl KvMerger {
    fn run(&self, rows: &Rows, run: Range<u32>, pivot: u32) -> Merged {
        let far = |slot: u32| rows.key(slot).iter().zip(rows.key(pivot)).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        let own = run.clone().map(|slot| far(slot).sqrt()).sum::<f32>() / (2f32.sqrt() * run.len() as f32);
        let sigma = if self.sigma > 0.0 { self.sigma } else { own };
        let weight = |slot: u32| if sigma > 0.0 { (-far(slot) / (2.0 * sigma * sigma)).exp() } else { 1.0 };
        let total: f32 = run.clone().map(weight).sum();
        let count: f32 = run.clone().map(|slot| rows.counts[slot as usize]).sum();
        let (mut k, mut v) = (vec![0.0; rows.dim], vec![0.0; rows.dim]);
        for slot in run {
            let share = weight(slot) / total;
            k.iter_mut().zip(rows.key(slot)).for_each(|(k, x)| *k += share * x);
            v.iter_mut().zip(rows.value(slot)).for_each(|(v, x)| *v += share * x);
        }
        if self.makeup == Makeup::Value {
            v.iter_mut().for_each(|v| *v *= count);
        }
        Merged { slot: pivot, k, v, extra: if self.makeup == Makeup::Log { count.ln() } else { 0.0 } }
    }
}

/// The slots that are not `reserved` in at most `most` runs, if the reserved ones allow it: cut where the cosine of
/// neighbours is smallest.
fn runs(rows: &Rows, reserved: &[u32], slots: usize, most: usize) -> Vec<Range<u32>> {
    let free = super::others(reserved, slots);
    let unit = rows.unit(&free);
    let mut cuts: Vec<(f32, usize)> = Vec::new();
    let mut forced = vec![true];
    for i in 1..free.len() {
        let [a, b] = [i - 1, i].map(|i| &unit[i * rows.dim..][..rows.dim]);
        forced.push(free[i] != free[i - 1] + 1);
        if free[i] == free[i - 1] + 1 {
            cuts.push((a.iter().zip(b).map(|(a, b)| a * b).sum(), i));
        }
    }
    let room = most.saturating_sub(forced.iter().filter(|&&forced| forced).count());
    cuts.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    cuts.iter().take(room).for_each(|&(_, i)| forced[i] = true);
    let mut runs: Vec<Range<u32>> = Vec::new();
    for (&slot, start) in free.iter().zip(forced) {
        match runs.last_mut() {
            Some(run) if !start => run.end = slot + 1,
            _ => runs.push(slot..slot + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planar(degrees: &[f32]) -> Rows {
        let k = degrees.iter().flat_map(|a| [a.to_radians().cos(), a.to_radians().sin()]).collect();
        Rows { dim: 2, k, v: vec![0.0; 2 * degrees.len()], counts: vec![1.0; degrees.len()] }
    }

    #[test]
    fn runs_are_cut_where_keys_turn() {
        // The dossier's.
        let rows = planar(&[0.0, 10.0, 90.0, 95.0, 100.0]);
        assert_eq!(runs(&rows, &[], 5, 2), [0..2, 2..5]);
        assert_eq!(runs(&rows, &[], 5, 5).len(), 5);
        // A reserved token breaks a run.
        assert_eq!(runs(&rows, &[3], 5, 1), [0..3, 4..5].map(|run| run).to_vec());
    }

    #[test]
    fn two_equal_keys_weigh_as_both_only_by_the_logarithm() {
        // The dossier's: query .7, keys .3 .3 -.2, values 1 5 9.
        let rows = Rows { dim: 1, k: vec![0.3, 0.3, -0.2], v: vec![1.0, 5.0, 9.0], counts: vec![1.0; 3] };
        let output = |makeup| {
            let merged = KvMerger { reserved: 0.0, makeup, sigma: 0.0 }.run(&rows, 0..2, 0);
            let a = (0.7 * merged.k[0] + merged.extra).exp();
            let b = (0.7f32 * -0.2).exp();
            (a * merged.v[0] + b * 9.0) / (a + b)
        };
        assert!((output(Makeup::Log) - 4.56326).abs() < 1e-4);
        assert!((output(Makeup::Value) - 7.24015).abs() < 1e-4);
    }
}
