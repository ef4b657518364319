//! Ada-KV (Feng et al., 2024): the heads of a layer share one budget, and the best scores of all of them win.

use super::{Budget, Choose, top};
use crate::score::Method;

/// kvpress's form: the best `floor` of every head's own budget are safe, the rest compete over all heads.
#[derive(Debug)]
pub(crate) struct AdaKv {
    pub floor: f64,
}

impl Choose for AdaKv {
    fn choose(&self, _: &dyn Method, scores: &[Vec<f32>], kept: usize, _: Budget) -> Vec<Vec<u32>> {
        let safe = (kept as f64 * self.floor) as usize;
        let tokens = scores.first().map_or(0, Vec::len);
        let mut all: Vec<f32> = scores.concat();
        for (head, scores) in scores.iter().enumerate() {
            top(scores, safe).into_iter().for_each(|i| all[head * tokens + i as usize] = f32::INFINITY);
        }
        let mut chosen = vec![Vec::new(); scores.len()];
        for i in top(&all, kept * scores.len()) {
            chosen[i as usize / tokens].push(i % tokens as u32);
        }
        chosen
    }

    fn describe(&self) -> String {
        format!("heads of a layer share their budget, {} of it safe", self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::score::registry::build;
    use super::*;

    fn counts(floor: f64, scores: &[Vec<f32>], kept: usize) -> Vec<Vec<u32>> {
        let of = build(&"knorm".parse().unwrap()).unwrap();
        AdaKv { floor }.choose(&*of, scores, kept, Budget::Tokens(kept))
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
