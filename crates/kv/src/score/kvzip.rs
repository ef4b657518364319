//! KVzip (Kim et al., 2025): what a model needs to say its context again. Chunk by chunk it is asked to repeat it; a token
//! matters as much as any row of that pass looks at it.

use super::{Method, Scene, Scored};
use crate::allot::{Budget, top};
use crate::observe::{Gather, Last, Wish};
use crate::reduce::Passes;

/// First tokens that stay, and that every pass sees.
pub(crate) const SINKS: usize = 4;

#[derive(Debug)]
pub(super) struct KvZip {
    /// Tokens that are repeated at a time.
    pub chunk: usize,
    /// Whether every layer keeps as much as the others; heads share in any case.
    pub layerwise: bool,
}

impl Method for KvZip {
    fn wish(&self) -> Wish {
        Wish::columns(Gather::Repeated, Last::All)
    }

    fn passes(&self) -> Passes {
        Passes::Repeat { chunk: self.chunk }
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        // Shares are no more than one, in every layer.
        const MOST: f32 = 2.0;
        let of_head = |head: usize| -> Vec<f32> {
            let gathered = scene.gathered(head);
            let received = scene.received(head).into_iter().enumerate();
            // What came after the context was not repeated, so nothing speaks against it.
            let score = |(slot, share): (usize, f64)| match slot < SINKS || slot >= gathered || share.is_nan() {
                true => MOST,
                false => share as f32,
            };
            received.map(score).collect()
        };
        scene.heads().map(of_head).collect()
    }

    fn allot(&self, layers: &[Scored<'_>], budget: Budget, kept: &mut [Vec<usize>]) {
        let groups: Vec<Vec<usize>> = match self.layerwise {
            true => (0..layers.len()).map(|layer| vec![layer]).collect(),
            false => vec![(0..layers.len()).collect()],
        };
        for group in groups {
            let heads: Vec<(usize, usize)> = group
                .iter()
                .flat_map(|&layer| (0..layers[layer].scores.len()).map(move |head| (layer, head)))
                .collect();
            let all: Vec<f32> = heads.iter().flat_map(|&(layer, head)| &layers[layer].scores[head]).copied().collect();
            let kept_by_heads: usize = heads.iter().map(|&(layer, head)| kept[layer][head]).sum();
            // As kvpress, which rounds down what goes, once for all.
            let budget = match budget {
                // A share that is one less another is not exact.
                Budget::Share(share) => (all.len() as f64 * share - 1e-6).ceil() as usize,
                _ => kept_by_heads,
            };
            let starts: Vec<usize> = heads
                .iter()
                .scan(0, |at, &(layer, head)| Some(std::mem::replace(at, *at + layers[layer].scores[head].len())))
                .collect();
            heads.iter().for_each(|&(layer, head)| kept[layer][head] = 0);
            for slot in top(&all, budget) {
                let (layer, head) = heads[starts.partition_point(|&start| start <= slot as usize) - 1];
                kept[layer][head] += 1;
            }
        }
    }

    fn least(&self) -> usize {
        SINKS
    }

    fn describe(&self) -> String {
        let shared = if self.layerwise { "a layer" } else { "the model" };
        format!(
            "the largest attention while the context is repeated, {} tokens at a time; heads of {shared} share",
            self.chunk
        )
    }
}
