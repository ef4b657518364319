//! Ada-KV (Feng et al., 2024): the heads of a layer share one budget, and the best scores of all of them win.

use super::{Budget, Choose, top};
use crate::score::{Method, Scene};

/// kvpress's form: the best `floor` of every head's own budget are safe, the rest compete over all heads.
#[derive(Debug)]
pub(crate) struct AdaKv {
    pub floor: f64,
}

impl Choose for AdaKv {
    fn choose(&self, _: &dyn Method, _: &Scene<'_>, scores: &[Vec<f32>], kept: &[usize], _: Budget) -> Vec<Vec<u32>> {
        self.choose_by(scores, kept)
    }

    fn describe(&self) -> String {
        format!("heads of a layer share their budget, {} of it safe", self.floor)
    }
}

impl AdaKv {
    /// Tokens of a head that are safe.
    pub(crate) fn floor_of(&self, kept: usize) -> usize {
        ((kept as f64 * self.floor) as usize).max(1)
    }

    pub(crate) fn choose_by(&self, scores: &[Vec<f32>], kept: &[usize]) -> Vec<Vec<u32>> {
        // Heads may hold different numbers of tokens; earlier heads come first among equals.
        let start: Vec<usize> = scores.iter().scan(0, |at, s| Some(std::mem::replace(at, *at + s.len()))).collect();
        let mut all: Vec<f32> = scores.concat();
        for ((scores, &start), &kept) in scores.iter().zip(&start).zip(kept) {
            let safe = self.floor_of(kept);
            top(scores, safe).into_iter().for_each(|i| all[start + i as usize] = f32::INFINITY);
        }
        let mut chosen = vec![Vec::new(); scores.len()];
        for i in top(&all, kept.iter().sum()) {
            let head = start.partition_point(|&start| start <= i as usize) - 1;
            chosen[head].push(i - start[head] as u32);
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(floor: f64, scores: &[Vec<f32>], kept: usize) -> Vec<Vec<u32>> {
        AdaKv { floor }.choose_by(scores, &vec![kept; scores.len()])
    }

    #[test]
    fn the_best_of_both_heads_stay() {
        // The dossier's T3.
        let scores = vec![vec![0.9, 0.8, 0.7, 0.6, 0.05, 0.04], vec![0.3, 0.2, 0.1, 0.02, 0.01, 0.005]];
        for floor in [0.0, 0.2, 2.0 / 3.0] {
            assert_eq!(counts(floor, &scores, 3), [vec![0, 1, 2, 3], vec![0, 1]], "{floor}");
        }
    }

    #[test]
    fn everything_safe_is_uniform() {
        let scores = vec![vec![0.9, 0.8, 0.7, 0.6], vec![0.1, 0.3, 0.2, 0.0]];
        assert_eq!(counts(1.0, &scores, 2), [vec![0, 1], vec![1, 2]]);
        // Equal scores in all heads, too.
        let same = vec![vec![0.4, 0.1, 0.3, 0.2]; 3];
        assert_eq!(counts(0.0, &same, 2), vec![vec![0, 2]; 3]);
    }
}
