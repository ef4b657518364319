//! Scores from the attention of the last queries: SnapKV (Li et al., 2024), PyramidKV (Cai et al., 2024), TOVA (Oren et al., 2024).

use super::{Method, Scene, above};
use crate::allot::{Budget, pyramid};
use cachalot_kernels::attention::{PAGE_TOKENS, Rows, Visible, score_page, soften};

/// SnapKV: what the last `window` queries look at, smoothed over neighbours; the window itself stays.
#[derive(Debug)]
pub(super) struct SnapKv {
    pub window: usize,
    pub kernel: usize,
    /// Budgets that shrink linearly with depth, so that the last layer has a `beta`-th of the mean: PyramidKV.
    pub beta: Option<usize>,
}

impl Method for SnapKv {
    fn observes(&self) -> usize {
        self.window
    }

    fn budget(&self, budget: Budget, tokens: usize, layer: usize, layers: usize) -> usize {
        match self.beta {
            None => budget.tokens(tokens),
            Some(beta) => pyramid::tokens(budget, tokens, self.window, beta, layer, layers),
        }
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        let past = scene.tokens.saturating_sub(self.window);
        let heads = 0..scene.geometry.kv_heads;
        let mut scores: Vec<Vec<f32>> = heads
            .map(|head| {
                let mut mean = group_mean(&attention(scene, head, self.window), scene.geometry.group());
                mean.truncate(past);
                average(&mean, self.kernel)
            })
            .collect();
        let most = above(&scores);
        scores.iter_mut().for_each(|scores| scores.resize(scene.tokens, most));
        scores
    }

    fn least(&self) -> usize {
        self.window
    }

    fn describe(&self) -> String {
        let budgets = if self.beta.is_some() { ", less of it in later layers" } else { "" };
        format!("attention of the last {} queries, mean over {} neighbours{budgets}", self.window, self.kernel)
    }
}

/// TOVA: what the last query looks at, the same tokens for all heads.
#[derive(Debug)]
pub(super) struct Tova;

impl Method for Tova {
    fn observes(&self) -> usize {
        1
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        let g = scene.geometry;
        let mut mean = vec![0.0; scene.tokens];
        for head in 0..g.kv_heads {
            for row in attention(scene, head, 1) {
                mean.iter_mut().zip(row).for_each(|(mean, a)| *mean += a / g.heads as f32);
            }
        }
        let most = above(std::slice::from_ref(&mean));
        if let Some(last) = mean.last_mut() {
            *last = most;
        }
        vec![mean; g.kv_heads]
    }

    fn describe(&self) -> String {
        "attention of the last query, the same tokens for all heads of a layer".to_owned()
    }
}

/// Attention of the last `rows` queries with one KV head, mean over the rows: `[group][tokens]`. The softmax is over all
/// tokens, causal among the last.
pub(super) fn attention(scene: &Scene<'_>, head: usize, rows: usize) -> Vec<Vec<f32>> {
    let g = scene.geometry;
    let (group, width, tokens) = (g.group(), g.width(), scene.tokens);
    let Some(observed) = scene.observed else { return vec![vec![0.0; tokens]; group] };
    let q = observed.of_head(scene.layer, g, head);
    let rows = rows.min(q.len() / (group * width)).min(tokens);
    let q = &q[q.len() - rows * group * width..];
    let pages = tokens.div_ceil(PAGE_TOKENS);
    let vectors = rows * group;
    let mut weights = vec![0.0f32; pages * vectors * PAGE_TOKENS];
    // As attention does it, page by page: weights relative to the maximum so far, which are brought to the last one below.
    let (mut max, mut sum) = (vec![f32::NEG_INFINITY; vectors], vec![0.0; vectors]);
    let mut at_page = Vec::with_capacity(pages);
    for (page, weights) in weights.chunks_exact_mut(vectors * PAGE_TOKENS).enumerate() {
        let Some(view) = scene.lanes[head].exact(page) else { continue };
        score_page(scene.isa, q, width, view.k, view.k_element, weights);
        let visible: Vec<Visible> = (0..vectors)
            .map(|vector| {
                let end = tokens - rows + vector / group + 1;
                Visible { from: 0, to: end.saturating_sub(page * PAGE_TOKENS).min(PAGE_TOKENS) as u8 }
            })
            .collect();
        let mut state = Rows { max: &mut max, sum: &mut sum, out: &mut [] };
        soften(scene.isa, weights, &visible, g.softcap.unwrap_or(0.0), &mut state);
        at_page.push(max.clone());
    }
    let mut mean = vec![vec![0.0; tokens]; group];
    for (page, (weights, then)) in weights.chunks_exact(vectors * PAGE_TOKENS).zip(&at_page).enumerate() {
        for (vector, weights) in weights.chunks_exact(PAGE_TOKENS).enumerate() {
            let share = (then[vector] - max[vector]).exp() / (sum[vector] * rows as f32);
            let mean = &mut mean[vector % group][page * PAGE_TOKENS..];
            mean.iter_mut().zip(weights).for_each(|(mean, weight)| *mean += share * weight);
        }
    }
    mean
}

/// Mean over the query heads of a group.
pub(super) fn group_mean(rows: &[Vec<f32>], group: usize) -> Vec<f32> {
    let mut mean = vec![0.0; rows.first().map_or(0, Vec::len)];
    rows.iter().for_each(|row| mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x / group as f32));
    mean
}

/// Mean over `kernel` neighbours; beyond the ends lie zeros, which count.
pub(super) fn average(x: &[f32], kernel: usize) -> Vec<f32> {
    let half = kernel / 2;
    let window = |i: usize| &x[i.saturating_sub(half)..(i + half + 1).min(x.len())];
    (0..x.len()).map(|i| window(i).iter().sum::<f32>() / kernel as f32).collect()
}
