//! CriticalKV (Feng et al., 2025): of what another method likes, first the best, then what changes the layer's output most.

use super::ada::AdaKv;
use super::{Budget, Choose, top};
use crate::products::products;
use crate::score::{Method, Scene};

/// Added to a score before it is multiplied.
const EPSILON: f32 = 1e-4;

/// Half of the budget by the scores of another method, the rest by these times the norm of the value after the output projection.
#[derive(Debug)]
pub(crate) struct Critical {
    /// The share that goes by the scores alone.
    pub first: f64,
    /// Heads share the budget of a layer, as Ada-KV has it: CriticalAdaKV.
    pub ada: Option<AdaKv>,
}

impl Choose for Critical {
    fn choose(
        &self,
        _: &dyn Method,
        scene: &Scene<'_>,
        scores: &[Vec<f32>],
        kept: &[usize],
        budget: Budget,
    ) -> Vec<Vec<u32>> {
        let safe = match &self.ada {
            Some(ada) => ada.choose_by(scores, kept),
            None => Vec::new(),
        };
        let lane = |(head, scores): (usize, &Vec<f32>)| {
            let (stay, first) = match safe.get(head) {
                Some(chosen) => (chosen.len(), (chosen.len() as f64 * self.first) as usize),
                None => (kept[head], self.first_stage(scores.len(), kept[head], budget)),
            };
            let mut both = scores.clone();
            let norms = norms(scene, head);
            both.iter_mut().zip(norms).for_each(|(score, norm)| *score = (*score + EPSILON) * norm);
            let floor = self.ada.as_ref().map_or(0, |ada| ada.floor_of(kept[head]));
            for slot in top(scores, floor.max(first)) {
                both[slot as usize] = f32::INFINITY;
            }
            top(&both, stay)
        };
        scores.iter().enumerate().map(lane).collect()
    }

    fn describe(&self) -> String {
        let heads = self.ada.as_ref().map_or("", |_| "; heads of a layer share their budget");
        format!("{} of the budget by that, the rest also by what values do to the output{heads}", self.first)
    }
}

impl Critical {
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
    let (dim, group) = (g.head_dim, g.group());
    let values = scene.values(head);
    let mut norms = vec![0.0f32; values.len() / dim];
    for query in 0..group {
        let columns = output.of_head(head * group + query);
        products(scene.isa, &values, &columns, dim, |row, _, products| {
            norms[row] += products.iter().map(|x| x.abs()).sum::<f32>() / group as f32;
        });
    }
    norms
}
