//! The attention of the last query rows, from which many methods score.

use super::Scene;
use cachalot_kernels::attention::{PAGE_TOKENS, Rows, Visible, score_page, soften};

/// Attention of the last `rows` queries with one KV head, mean over the rows: `[group][slots]`. The softmax is over all
/// tokens, causal among the last.
pub(super) fn attention(scene: &Scene<'_>, head: usize, rows: usize) -> Vec<Vec<f32>> {
    let g = scene.geometry;
    let (group, slots) = (g.group(), scene.slots(head));
    let mut mean = vec![vec![0.0; slots]; group];
    each(scene, head, rows, |vector, vectors, page, shares| {
        let share = group as f32 / vectors as f32;
        let mean = &mut mean[vector % group][page * PAGE_TOKENS..];
        mean.iter_mut().zip(shares).for_each(|(mean, weight)| *mean += share * weight);
    });
    mean
}

/// Logits of the last `rows` queries with one KV head, without any mask: `[row][group][slots]`.
pub(super) fn logits(scene: &Scene<'_>, head: usize, rows: usize) -> Vec<Vec<f32>> {
    let (width, slots) = (scene.geometry.width(), scene.slots(head));
    let Some(queries) = queries(scene, head, rows) else { return Vec::new() };
    let keys = scene.keys(head);
    let dim = scene.geometry.head_dim;
    let mut logits = vec![Vec::with_capacity(slots); queries.len() / width];
    for (query, logits) in queries.chunks_exact(width).zip(&mut logits) {
        logits.extend(keys.chunks_exact(dim).map(|key| super::rows::dot(&query[..dim], key)));
    }
    logits
}

/// The last query vectors, `[row][group][width]`.
fn queries(scene: &Scene<'_>, head: usize, rows: usize) -> Option<Vec<f32>> {
    let g = scene.geometry;
    let mut q = scene.observed?.of_head(scene.layer, g, head);
    let each = g.group() * g.width();
    let rows = rows.min(q.len() / each).min(scene.tokens);
    q.drain(..q.len() - rows * each);
    Some(q)
}

/// Shows the share of attention that each of the last query vectors gives the tokens of each page: `(vector, vectors, page,
/// shares)`.
pub(super) fn each(scene: &Scene<'_>, head: usize, rows: usize, mut show: impl FnMut(usize, usize, usize, &[f32])) {
    let g = scene.geometry;
    let (group, width, slots) = (g.group(), g.width(), scene.slots(head));
    let Some(q) = queries(scene, head, rows) else { return };
    let (pages, vectors) = (slots.div_ceil(PAGE_TOKENS), q.len() / width);
    let rows = vectors / group;
    // Slots that each row sees: those of tokens that are not after it.
    let ends: Vec<usize> = (0..rows).map(|row| scene.lanes[head].slots_before(scene.tokens - rows + row + 1)).collect();
    // Only where pages are encoded.
    let keys = std::cell::OnceCell::new();
    let mut weights = vec![0.0f32; pages * vectors * PAGE_TOKENS];
    // As attention does it, page by page: weights relative to the maximum so far, which are brought to the last one below.
    let (mut max, mut sum) = (vec![f32::NEG_INFINITY; vectors], vec![0.0; vectors]);
    let mut at_page = Vec::with_capacity(pages);
    for (page, weights) in weights.chunks_exact_mut(vectors * PAGE_TOKENS).enumerate() {
        match scene.lanes[head].exact(page) {
            Some(view) => score_page(scene.isa, &q, width, view.k, view.k_element, weights),
            None => score_rows(&q, width, keys.get_or_init(|| scene.keys(head)), g.head_dim, page, weights),
        }
        let softcap = crate::attend::extend(g, &scene.lanes[head], page, weights);
        let visible: Vec<Visible> = (0..vectors)
            .map(|vector| {
                let to = ends[vector / group].saturating_sub(page * PAGE_TOKENS).min(PAGE_TOKENS) as u8;
                Visible { from: 0, to }
            })
            .collect();
        let mut state = Rows { max: &mut max, sum: &mut sum, out: &mut [] };
        soften(scene.isa, weights, &visible, softcap, &mut state);
        at_page.push(max.clone());
    }
    for (page, (weights, then)) in weights.chunks_exact_mut(vectors * PAGE_TOKENS).zip(&at_page).enumerate() {
        for (vector, weights) in weights.chunks_exact_mut(PAGE_TOKENS).enumerate() {
            let share = (then[vector] - max[vector]).exp() / sum[vector];
            weights.iter_mut().for_each(|weight| *weight *= share);
            show(vector, vectors, page, weights);
        }
    }
}

/// Scores with the keys of an encoded page, which have been read already.
fn score_rows(q: &[f32], width: usize, keys: &[f32], dim: usize, page: usize, scores: &mut [f32]) {
    let keys = keys.chunks_exact(dim).skip(page * PAGE_TOKENS).take(PAGE_TOKENS);
    for (slot, key) in keys.enumerate() {
        for (vector, query) in q.chunks_exact(width).enumerate() {
            scores[vector * PAGE_TOKENS + slot] = super::rows::dot(&query[..dim], key);
        }
    }
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

/// As [`attention`], mean over the group too, of the first `past` slots.
pub(super) fn looked_at(scene: &Scene<'_>, head: usize, rows: usize, past: usize) -> Vec<f32> {
    let mut mean = group_mean(&attention(scene, head, rows), scene.geometry.group());
    mean.truncate(past);
    mean
}

/// The largest of `kernel` neighbours.
pub(super) fn largest(x: &[f32], kernel: usize) -> Vec<f32> {
    let half = kernel / 2;
    let window = |i: usize| &x[i.saturating_sub(half)..(i + half + 1).min(x.len())];
    (0..x.len()).map(|i| window(i).iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect()
}

/// How neighbours smooth a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// Their mean.
    Average,
    /// The largest of them.
    Largest,
}

impl Pool {
    pub fn over(self, x: &[f32], kernel: usize) -> Vec<f32> {
        match self {
            Pool::Average => average(x, kernel),
            Pool::Largest => largest(x, kernel),
        }
    }
}

/// Scores of the tokens before the last `window` of each head, with these protected.
pub(super) fn with_window(
    scene: &Scene<'_>,
    window: usize,
    mut score: impl FnMut(usize, usize) -> Vec<f32>,
) -> Vec<Vec<f32>> {
    let mut scores: Vec<Vec<f32>> = scene
        .heads()
        .map(|head| {
            let past = scene.slots(head).saturating_sub(window);
            let mut scores = score(head, past);
            scores.truncate(past);
            scores
        })
        .collect();
    let most = super::above(&scores);
    for (head, scores) in scores.iter_mut().enumerate() {
        scores.resize(scene.slots(head), most);
    }
    scores
}
