//! SnapKV (Li et al., 2024) and PyramidKV (Cai et al., 2024).

use super::attention::{Pool, attention, group_mean, with_window};
use super::{Method, Place, Scene};
use crate::allot::{Budget, pyramid};
use crate::observe::Wish;

/// What the last `window` queries look at, smoothed over neighbours; the window itself stays.
#[derive(Debug)]
pub(super) struct SnapKv {
    pub window: usize,
    pub kernel: usize,
    /// Before the mean over a group, which makes a difference to the largest.
    pub pool: Pool,
    /// Budgets that shrink linearly with depth, so that the last layer has a `beta`-th of the mean: PyramidKV.
    pub beta: Option<usize>,
}

impl Method for SnapKv {
    fn wish(&self) -> Wish {
        Wish::rows(self.window)
    }

    fn budget(&self, budget: Budget, tokens: usize, place: Place) -> usize {
        match self.beta {
            None => budget.tokens(tokens),
            Some(beta) => pyramid::tokens(budget, tokens, self.window, beta, place.layer, place.layers),
        }
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        let group = scene.geometry.group();
        with_window(scene, self.window, |head, past| {
            let pooled = attention(scene, head, self.window).into_iter().map(|mut row| {
                row.truncate(past);
                self.pool.over(&row, self.kernel)
            });
            group_mean(&pooled.collect::<Vec<_>>(), group)
        })
    }

    fn least(&self) -> usize {
        self.window
    }

    fn describe(&self) -> String {
        let of = if self.pool == Pool::Average { "mean" } else { "largest" };
        let budgets = if self.beta.is_some() { ", less of it in later layers" } else { "" };
        format!("attention of the last {} queries, {of} of {} neighbours{budgets}", self.window, self.kernel)
    }
}
