//! **score**: how much each cached token matters. One file a method; [`registry`] names them.
//!
//! A method sees one layer of a sequence ([`Scene`]) and gives every token of every KV head a number, higher where it should
//! stay. How many stay and whether heads share is the business of [`crate::allot`]; what becomes of the others that of
//! [`crate::reduce`].

mod keydiff;
mod norm;
mod positional;
pub mod registry;
mod rows;
mod window;

use crate::LayerGeometry;
use crate::allot::{self, Budget};
use crate::lane::Lane;
use crate::observe::Observed;
use cachalot_kernels::Isa;
use std::cmp::Ordering;

/// One layer of a sequence that is about to be reduced.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub(crate) isa: Isa,
    pub(crate) layer: usize,
    pub(crate) geometry: &'a LayerGeometry,
    pub(crate) lanes: &'a [Lane],
    /// Tokens that every lane of the layer holds.
    pub(crate) tokens: usize,
    pub(crate) observed: Option<&'a Observed>,
}

impl Scene<'_> {
    /// Keys of a head as attention reads them, after rotary position: `[tokens][head_dim]`.
    fn keys(&self, head: usize) -> Vec<f32> {
        self.lanes[head].keys(self.tokens)
    }
}

/// A method of choosing what to keep.
pub trait Method: std::fmt::Debug + Send + Sync {
    /// Query rows before the reduction that it wants to see.
    fn observes(&self) -> usize {
        0
    }

    /// Tokens that each head of the layer keeps of those it has.
    fn budget(&self, budget: Budget, tokens: usize, layer: usize, layers: usize) -> usize {
        let _ = (layer, layers);
        budget.tokens(tokens)
    }

    /// A number for every token, `[head][tokens]`; higher stays.
    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>>;

    /// Which tokens stay, in ascending order for each head, where each may keep `kept` on average.
    fn choose(&self, scores: &[Vec<f32>], kept: usize, budget: Budget) -> Vec<Vec<u32>> {
        let _ = budget;
        scores.iter().map(|scores| allot::top(scores, kept)).collect()
    }

    /// Tokens that stay in any case: a context of no more is kept whole, and no budget is smaller.
    fn least(&self) -> usize {
        0
    }

    /// One line for people.
    fn describe(&self) -> String;
}

/// Higher scores first, of equal ones the earlier token: the order everything here is chosen in.
pub(crate) fn by_score(scores: &[f32]) -> impl Fn(&u32, &u32) -> Ordering + '_ {
    |&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b))
}

/// What protects tokens: one more than any score of the layer.
fn above(scores: &[Vec<f32>]) -> f32 {
    scores.iter().flatten().copied().fold(f32::NEG_INFINITY, f32::max) + 1.0
}
