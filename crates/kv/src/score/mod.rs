//! **score**: how much each cached token matters. One file a method; [`registry`] names them.
//!
//! A method sees one layer of a sequence ([`Scene`]) and gives every token of every KV head a number, higher where it should
//! stay. How many stay and whether heads share is the business of [`crate::allot`]; what becomes of the others that of
//! [`crate::reduce`].

mod attention;
mod ems;
mod expected;
mod guikv;
mod keydiff;
mod kvzip;
mod mpcache;
mod norm;
mod positional;
pub mod registry;
pub(crate) use kvzip::SINKS;
mod rkv;
mod rows;
mod snapkv;
mod sums;
mod tova;
mod treekv;
mod windowkv;

use crate::LayerGeometry;
use crate::allot::{self, Budget};
use crate::lane::Lane;
use crate::observe::{Observed, Wish, lock};
use cachalot_kernels::Isa;
use std::cmp::Ordering;

/// One layer of a sequence that is about to be reduced.
///
/// Everything counts in slots of a lane, which hold tokens in order of position; before the first reduction they are positions.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub(crate) isa: Isa,
    pub(crate) layer: usize,
    pub(crate) geometry: &'a LayerGeometry,
    pub(crate) lanes: &'a [Lane],
    /// Tokens of the sequence.
    pub(crate) tokens: usize,
    pub(crate) observed: Option<&'a Observed>,
    /// Stretches of the prompt that the request marked, such as images; ascending.
    pub(crate) spans: &'a [std::ops::Range<usize>],
}

impl Scene<'_> {
    /// KV heads.
    pub(crate) fn heads(&self) -> std::ops::Range<usize> {
        0..self.geometry.kv_heads
    }

    /// Tokens that a head holds.
    pub(crate) fn slots(&self, head: usize) -> usize {
        self.lanes[head].slots(self.tokens)
    }

    /// Position of the token in a slot.
    pub(crate) fn position(&self, head: usize, slot: usize) -> usize {
        self.lanes[head].position(slot)
    }

    /// Keys of a head as attention reads them, after rotary position: `[slots][head_dim]`.
    pub(crate) fn keys(&self, head: usize) -> Vec<f32> {
        self.lanes[head].keys(self.slots(head), self.geometry.rope.as_deref())
    }

    /// Values of a head, `[slots][head_dim]`.
    pub(crate) fn values(&self, head: usize) -> Vec<f32> {
        self.lanes[head].values(self.slots(head))
    }

    /// What the tokens of a head received, as its method gathers it; zeros where nothing was gathered.
    pub(crate) fn received(&self, head: usize) -> Vec<f64> {
        let column = self.observed.map_or(&[][..], |observed| observed.column(self.layer, head));
        let mut column = column.to_vec();
        column.resize(self.slots(head), 0.0);
        column
    }

    /// Slots for which anything was gathered.
    pub(crate) fn gathered(&self, head: usize) -> usize {
        self.observed.map_or(0, |observed| observed.column(self.layer, head).len())
    }

    /// Norms of the hidden states that went into the layer, by position.
    pub(crate) fn hidden(&self) -> &[f32] {
        self.observed.map_or(&[], |observed| observed.hidden(self.layer))
    }

    /// Rows that saw the token in a slot and were looked at.
    pub(crate) fn observers(&self, head: usize, slot: usize) -> usize {
        let position = self.lanes[head].position(slot);
        match self.observed {
            Some(observed) => observed.observers(position, self.tokens),
            None => self.tokens.saturating_sub(position),
        }
    }

    /// What a method remembers of this layer from the last reduction: `next` of it, not-a-number at first.
    pub(crate) fn remember(&self, next: impl FnOnce(f64) -> f64) -> f64 {
        let Some(observed) = self.observed else { return next(f64::NAN) };
        let mut memory = lock(observed.memory(self.layer));
        *memory = next(*memory);
        *memory
    }

    /// Of the tokens that a slot stands for, the logarithm.
    pub(crate) fn extra(&self, head: usize, slot: usize) -> f32 {
        self.lanes[head].extra_of(slot)
    }
}

/// A method of choosing what to keep.
pub trait Method: std::fmt::Debug + Send + Sync {
    /// What it wants to see.
    fn wish(&self) -> Wish {
        Wish::default()
    }

    /// Tokens that a head keeps of a context of so many, as far as that is known before it is read.
    fn budget(&self, budget: Budget, tokens: usize, place: Place) -> usize {
        let _ = place;
        budget.tokens(tokens)
    }

    /// The layer whose scores a layer uses: itself, or one before it.
    fn leader(&self, layer: usize) -> usize {
        layer
    }

    /// A number for every slot, `[head][slots]`; higher stays.
    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>>;

    /// Tokens that each head keeps, `[layer][head]`, where that depends on the scores of all layers. `kept` has what
    /// [`Method::budget`] says.
    fn allot(&self, layers: &[Scored<'_>], budget: Budget, kept: &mut [Vec<usize>]) {
        let _ = (layers, budget, kept);
    }

    /// Which slots stay, in ascending order for each head, where each may keep `kept`.
    fn choose(&self, scene: &Scene<'_>, scores: &[Vec<f32>], kept: &[usize], budget: Budget) -> Vec<Vec<u32>> {
        let _ = (scene, budget);
        scores.iter().zip(kept).map(|(scores, &kept)| allot::top(scores, kept)).collect()
    }

    /// Tokens that stay in any case: a context of no more is kept whole, and no budget is smaller.
    fn least(&self) -> usize {
        0
    }

    /// What it wants computed over a context before it is reduced.
    fn passes(&self) -> crate::reduce::Passes {
        crate::reduce::Passes::Once
    }

    /// When it reduces, where the recipe does not say.
    fn when(&self) -> crate::reduce::When {
        crate::reduce::When::Prompt
    }

    /// What becomes of the tokens that go, where the recipe does not say.
    fn merge(&self) -> Option<std::sync::Arc<dyn crate::reduce::Merge>> {
        None
    }

    /// One line for people.
    fn describe(&self) -> String;
}

/// A KV head of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its layer.
    pub layer: usize,
    /// Layers of the model.
    pub layers: usize,
    /// The head.
    pub head: usize,
}

/// A layer with its scores.
pub struct Scored<'a> {
    /// The layer.
    pub scene: Scene<'a>,
    /// `[head][slots]`; nothing for a layer that keeps everything.
    pub scores: Vec<Vec<f32>>,
}

/// Higher scores first, of equal ones the earlier token: the order everything here is chosen in.
pub(crate) fn by_score(scores: &[f32]) -> impl Fn(&u32, &u32) -> Ordering + '_ {
    |&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b))
}

/// What protects tokens: one more than any score of the layer.
pub(crate) fn above(scores: &[Vec<f32>]) -> f32 {
    scores.iter().flatten().copied().fold(f32::NEG_INFINITY, f32::max) + 1.0
}
