//! CriticalKV (Feng et al., 2025): of what another method likes, first the best, then what changes the layer's output most.

use super::{Method, Place, Scene, Scored};
use crate::allot::{Budget, ada::AdaKv, top};
use crate::observe::Wish;
use crate::reduce::{Merge, When};
use cachalot_kernels::attention::{Element, PAGE_TOKENS, score_page};
use std::sync::Arc;

/// Added to a score before it is multiplied.
const EPSILON: f32 = 1e-4;

/// Half of the budget by the scores of `of`, the rest by these times the norm of the value after the output projection.
#[derive(Debug)]
pub(super) struct CriticalKv {
    pub of: Arc<dyn Method>,
    /// The share that goes by the scores alone.
    pub first: f64,
    /// Heads share the budget of a layer, as Ada-KV has it: CriticalAdaKV.
    pub ada: Option<AdaKv>,
}

impl Method for CriticalKv {
    fn wish(&self) -> Wish {
        self.of.wish()
    }

    fn budget(&self, budget: Budget, tokens: usize, place: Place) -> usize {
        self.of.budget(budget, tokens, place)
    }

    fn leader(&self, layer: usize) -> usize {
        self.of.leader(layer)
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        self.of.scores(scene)
    }

    fn allot(&self, layers: &[Scored<'_>], kept: &mut [Vec<usize>]) {
        self.of.allot(layers, kept);
    }

    fn choose(&self, scene: &Scene<'_>, scores: &[Vec<f32>], kept: &[usize], budget: Budget) -> Vec<Vec<u32>> {
        let safe = match &self.ada {
            Some(ada) => ada.choose_by(scores, kept),
            None => Vec::new(),
        };
        let kept_of = |head: usize| kept[head];
        let lane = |(head, scores): (usize, &Vec<f32>)| {
            let (kept, first) = match safe.get(head) {
                Some(chosen) => (chosen.len(), (chosen.len() as f64 * self.first) as usize),
                None => (kept[head], self.first_stage(scores.len(), kept[head], budget)),
            };
            let mut both = scores.clone();
            let norms = norms(scene, head);
            both.iter_mut().zip(norms).for_each(|(score, norm)| *score = (*score + EPSILON) * norm);
            if let Some(ada) = &self.ada {
                top(scores, ada.floor_of(kept_of(head)))
                    .into_iter()
                    .for_each(|slot| both[slot as usize] = f32::INFINITY);
            }
            top(scores, first).into_iter().for_each(|slot| both[slot as usize] = f32::INFINITY);
            top(&both, kept)
        };
        scores.iter().enumerate().map(lane).collect()
    }

    fn least(&self) -> usize {
        self.of.least()
    }

    fn when(&self) -> When {
        self.of.when()
    }

    fn merge(&self) -> Option<Arc<dyn Merge>> {
        self.of.merge()
    }

    fn describe(&self) -> String {
        let heads = self.ada.as_ref().map_or("", |_| "; heads of a layer share their budget");
        format!(
            "{}; {} of the budget by that, the rest also by what values do to the output{heads}",
            self.of.describe(),
            self.first
        )
    }
}

impl CriticalKv {
    /// Tokens of the first stage, in the arithmetic of the reference.
    fn first_stage(&self, tokens: usize, kept: usize, budget: Budget) -> usize {
        match budget {
            Budget::Share(share) => ((share * tokens as f64 * self.first) as usize).max(1).min(kept),
            _ => (kept as f64 * self.first) as usize,
        }
    }
}

/// L1 norms of the values of a KV head after the output projection, mean over its query heads; ones where the cache does not
/// know the projection.
fn norms(scene: &Scene<'_>, head: usize) -> Vec<f32> {
    let g = scene.geometry;
    let Some(output) = &g.output else { return vec![1.0; scene.slots(head)] };
    let (dim, width, group) = (g.head_dim, g.width(), g.group());
    let mut values = Vec::new();
    for row in scene.values(head).chunks_exact(dim) {
        values.extend_from_slice(row);
        values.resize(values.len().next_multiple_of(width), 0.0);
    }
    let mut norms = vec![0.0f32; values.len() / width];
    let mut tile = vec![0.0f32; width * PAGE_TOKENS];
    const ROWS: usize = 256;
    let mut products = vec![0.0f32; ROWS * PAGE_TOKENS];
    for query in 0..group {
        for rows in output.of_head(head * group + query).chunks(dim * PAGE_TOKENS) {
            tile.fill(0.0);
            for (token, row) in rows.chunks_exact(dim).enumerate() {
                row.iter().enumerate().for_each(|(channel, &x)| tile[channel * PAGE_TOKENS + token] = x);
            }
            let bytes = crate::encode::codec::bytes_of(&tile);
            for (values, norms) in values.chunks(width * ROWS).zip(norms.chunks_mut(ROWS)) {
                score_page(scene.isa, values, width, bytes, Element::F32, &mut products[..norms.len() * PAGE_TOKENS]);
                for (norm, products) in norms.iter_mut().zip(products.chunks_exact(PAGE_TOKENS)) {
                    *norm += products.iter().map(|x| x.abs()).sum::<f32>() / group as f32;
                }
            }
        }
    }
    norms
}
