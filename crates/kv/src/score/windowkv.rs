//! WindowKV (Zuo et al., 2025): short windows of neighbours, chosen once for several layers.

use super::attention::attention;
use super::{Method, Place, Scene};
use crate::allot::{Budget, top};
use crate::observe::Wish;

/// How the tokens of a window become one score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// Their mean: for summaries and the like.
    Average,
    /// The mean of the better half: for questions about one place.
    Max,
}

/// Windows of `size` tokens by the attention of the last `suffix` queries; layers in groups of `share`, of which the first
/// chooses. Earlier groups have more.
#[derive(Debug)]
pub(super) struct WindowKv {
    pub suffix: usize,
    pub size: usize,
    pub share: usize,
    pub beta: usize,
    pub strategy: Strategy,
}

impl Method for WindowKv {
    fn wish(&self) -> Wish {
        Wish::rows(self.suffix)
    }

    fn leader(&self, layer: usize) -> usize {
        layer / self.share * self.share
    }

    fn budget(&self, budget: Budget, tokens: usize, place: Place) -> usize {
        let mean = budget.tokens(tokens).saturating_sub(self.suffix);
        let group = [place.layer, place.layers - 1].map(|layer| layer / self.share);
        (self.suffix + group_budget(mean * self.share / self.beta, mean, group)).min(tokens)
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        let heads: Vec<Vec<Vec<f32>>> = scene.heads().map(|head| attention(scene, head, self.suffix)).collect();
        let rows: Vec<&[f32]> = heads.iter().flatten().map(Vec::as_slice).collect();
        let slots = scene.slots(0);
        let past = slots.saturating_sub(self.suffix);
        let mut scores = vec![f32::INFINITY; slots];
        for start in (0..past).step_by(self.size) {
            let window = start..(start + self.size).min(past);
            let of = |row: &&[f32]| -> f32 {
                let mut shares = row[window.clone()].to_vec();
                if self.strategy == Strategy::Max {
                    shares.sort_by(|a, b| b.total_cmp(a));
                    shares.truncate((self.size / 2).max(1));
                }
                shares.iter().sum::<f32>() / shares.len() as f32
            };
            let score = rows.iter().map(of).sum::<f32>() / rows.len() as f32;
            scores[window].fill(score);
        }
        vec![scores; scene.geometry.kv_heads]
    }

    fn choose(&self, _: &Scene<'_>, scores: &[Vec<f32>], kept: &[usize], _: Budget) -> Vec<Vec<u32>> {
        let heads = scores.len();
        let (Some(scores), Some(&kept)) = (scores.first(), kept.first()) else { return Vec::new() };
        let past = scores.len().saturating_sub(self.suffix);
        let windows: Vec<f32> = scores[..past].iter().step_by(self.size).copied().collect();
        let gone = past.saturating_sub(kept.saturating_sub(self.suffix)).div_ceil(self.size);
        let stay = top(&windows, windows.len() - gone.min(windows.len()));
        let span = |w: u32| w * self.size as u32..((w + 1) * self.size as u32).min(past as u32);
        let chosen: Vec<u32> = stay.into_iter().flat_map(span).chain(past as u32..scores.len() as u32).collect();
        vec![chosen; heads]
    }

    fn least(&self) -> usize {
        self.suffix
    }

    fn describe(&self) -> String {
        let Self { suffix, size, share, .. } = self;
        format!(
            "windows of {size} tokens by the attention of the last {suffix} queries, chosen once for {share} layers"
        )
    }
}

/// Tokens that a layer of a group keeps beside the suffix: linear from the first group to `least` in the last, in whole
/// numbers as in the authors' code.
fn group_budget(least: usize, mean: usize, [group, last]: [usize; 2]) -> usize {
    if last == 0 {
        return mean;
    }
    let most = (2 * mean).saturating_sub(least);
    if group == last { least } else { most - group * (most.saturating_sub(least) / last) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_those_of_the_dossier() {
        let budgets: Vec<usize> = (0..4).map(|group| group_budget(2048 * 8 / 14, 2048, [group, 3])).collect();
        assert_eq!(budgets, [2926, 2341, 1756, 1170]);
    }
}
