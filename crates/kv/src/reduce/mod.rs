//! **reduce**: what happens to what falls below the line, between steps: a sequence's lanes shrink and their pages are free.

pub mod merge;
pub(crate) mod pass;
mod sequence;

use crate::allot::Budget;
use crate::lane::Lane;
use crate::lane::keep::Outcome;
use crate::observe::{Observed, lock};
use crate::plan::CachePlan;
use crate::pool::ledger::Ledger;
use crate::score::{Method, Place, Scene, Scored};
use crate::{KvCache, KvError, LayerGeometry, SequenceKv};
use cachalot_kernels::{Isa, Team};
pub use merge::Merge;
use pass::{Above, Pass};
pub use pass::{Passes, Stage, Words};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// When a sequence is reduced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// Once, at the end of its context.
    #[default]
    Prompt,
    /// While it grows after its context, which itself stays whole until then.
    Decode,
    /// Both.
    Both,
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<When, String> {
        match text {
            "prompt" => Ok(When::Prompt),
            "decode" => Ok(When::Decode),
            "both" => Ok(When::Both),
            _ => Err(format!("`{text}` is not one of prompt, decode, both")),
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            When::Prompt => "prompt",
            When::Decode => "decode",
            When::Both => "both",
        })
    }
}

/// What a recipe keeps of a context.
#[derive(Clone, Debug)]
pub struct Keep {
    /// How tokens are chosen.
    pub method: Arc<dyn Method>,
    /// How many.
    pub budget: Budget,
    /// When.
    pub when: When,
    /// Tokens between reductions after the context.
    pub every: usize,
    /// What becomes of the others; they are dropped where `None`.
    pub merge: Option<Arc<dyn Merge>>,
}

impl Keep {
    /// Tokens between reductions after the context, where a recipe does not say: a page.
    pub const EVERY: usize = cachalot_kernels::attention::PAGE_TOKENS;

    /// Tokens that a head keeps of a context: all where it is too short for the method, and never less than the method
    /// protects, however small the budget.
    pub fn tokens(&self, context: usize, place: Place) -> usize {
        let least = self.method.least().max(1);
        let merged = usize::from(self.merge.as_ref().is_some_and(|merge| merge.takes_a_slot()));
        match context <= least + merged {
            true => context,
            false => self.method.budget(self.budget, context, place).max(least + merged).min(context),
        }
    }

    /// What of it is left when a sequence is as long as this: between reductions there is more.
    pub fn held(&self, context: usize, tokens: usize, place: Place) -> usize {
        let prompt = if self.when == When::Decode { context } else { self.tokens(context, place) };
        let grown = prompt + tokens - context;
        match self.when {
            When::Prompt => grown,
            When::Decode if tokens < context + self.every => grown,
            When::Decode | When::Both => grown.min(self.tokens(tokens, place) + self.every),
        }
    }

    /// Tokens after a context that it looks at, too, where asking to repeat takes so many.
    pub(crate) fn more(&self, context: usize, longest: usize) -> usize {
        let again = self.method.passes().rows_again(context, longest);
        if self.when == When::Prompt { again } else { self.every.max(again) }
    }

    /// What it asks attention to leave behind.
    pub fn wish(&self) -> crate::observe::Wish {
        let merge = self.merge.as_ref().map(|merge| merge.wish()).unwrap_or_default();
        self.method.wish().and(merge)
    }
}

/// When a sequence is reduced next, and what is gathered for it.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Tokens of the sequence then.
    pub at: usize,
    /// Tokens of its context.
    pub context: usize,
    /// What the recipe keeps, its budget as a sequence knows it.
    pub keep: Keep,
    pub observed: Option<Observed>,
    /// What is being computed over the context.
    pub pass: Pass,
}

impl Pending {
    /// Whether all of the context stays exact until then.
    pub fn holds(&self) -> bool {
        self.keep.when != When::Decode
    }

    /// Whether the context is being read again.
    fn looks_back(&self) -> bool {
        !matches!(self.pass, Pass::Context)
    }

    /// Tokens at the start of the context whose queries nobody looks at.
    pub fn unobserved(&self) -> usize {
        match (&self.pass, &self.observed) {
            (Pass::Context, None) => usize::MAX,
            (Pass::Context, Some(observed)) => observed.unobserved(self.context),
            _ => 0,
        }
    }

    /// The same for a branch of the sequence, which is not in the middle of a pass.
    pub fn copy(&self, ledger: &Ledger) -> Result<Pending, KvError> {
        if !matches!(self.pass, Pass::Context) {
            return Err(KvError::Misuse("a branch of a context that is still being read".into()));
        }
        let observed = self.observed.as_ref().map(|observed| observed.copy(ledger)).transpose()?;
        Ok(Pending { at: self.at, context: self.context, keep: self.keep.clone(), observed, pass: Pass::Context })
    }
}

/// A reduction under way.
struct Reduction<'a> {
    keep: &'a Keep,
    layers: &'a [LayerGeometry],
    /// Tokens of the sequence.
    tokens: usize,
    observed: Option<&'a Observed>,
    spans: &'a [Range<usize>],
    /// Whether the encoder wants to know how much tokens matter.
    importance: bool,
}

impl KvCache {
    /// Announces that the first `tokens` of a sequence are the context that its recipe reduces, before any of them is
    /// computed. No step may reach beyond the next reduction ([`SequenceKv::rows_to_reduction`]) until [`KvCache::reduce`] is
    /// called there, nor anything else be read while [`SequenceKv::pass_tokens`] has something. The context stays exact until
    /// its end. Recipes that keep everything take no notice, nor do contexts too short for theirs.
    ///
    /// # Errors
    /// [`KvError::Misuse`] for a sequence that is not empty; [`KvError::OutOfBudget`] where there is no room for what the
    /// method wants to observe.
    pub fn expect(&self, seq: &mut SequenceKv, tokens: usize) -> Result<(), KvError> {
        let Some(keep) = seq.plan.keep.clone() else { return Ok(()) };
        if !seq.is_empty() {
            return Err(KvError::Misuse(format!("a context announced after {} tokens", seq.len())));
        }
        let keep = match keep.budget {
            Budget::Free(share) => {
                let bytes = (self.ledger().free() as f64 * share) as u64;
                Keep { budget: Budget::Tokens(seq.plan.tokens_within(&self.config().layers, bytes).max(1)), ..keep }
            }
            _ => keep,
        };
        let after = keep.when != When::Prompt;
        if tokens == 0 || !after && tokens <= keep.method.least() {
            return Ok(());
        }
        let (layers, wish, passes) = (&self.config().layers, keep.wish(), keep.method.passes());
        let more = keep.more(tokens, seq.words.longest());
        let observed = match wish.is_nothing() {
            true => None,
            false => Some(Observed::new(wish, tokens, more, layers, self.ledger())?),
        };
        let pass = match passes {
            Passes::Stages(stages) if keep.when != When::Decode => {
                Above::begin(self, &stages, tokens, keep.method.least())?.map_or(Pass::Context, Pass::Stage)
            }
            _ => Pass::Context,
        };
        if keep.when != When::Decode {
            seq.lanes.iter_mut().for_each(Lane::hold);
        }
        seq.pending = Some(Pending { at: tokens, context: tokens, keep, observed, pass });
        Ok(())
    }

    /// Reduces a sequence that has reached the end of its context, or as much more as its recipe says; others stay as they
    /// are. Layers with a sliding window keep what is in it. Returns the share of the sequence's tokens that stayed, mean of
    /// all lanes, where it was reduced.
    ///
    /// # Errors
    /// [`KvError::OutOfBudget`] or [`KvError::OutOfMemory`] where pages that others share leave no room for what stays. The
    /// sequence is of no use then.
    pub fn reduce(&self, seq: &mut SequenceKv) -> Result<Option<f64>, KvError> {
        if seq.pending.as_ref().is_none_or(|pending| pending.at != seq.len()) {
            return Ok(None);
        }
        let Some(mut pending) = seq.pending.take() else { return Ok(None) };
        let keep = pending.keep.clone();
        let tokens = seq.len();
        // Only a context is looked at more than once.
        let first = tokens == pending.context || pending.looks_back();
        if first && keep.when != When::Decode && self.next_pass(seq, &mut pending)? {
            seq.pending = Some(pending);
            return Ok(None);
        }
        let tokens = seq.len();
        let mut stayed = None;
        let again = keep.when != When::Prompt;
        if !first || keep.when != When::Decode {
            self.reduce_lanes(seq, &mut pending)?;
            if !again {
                pending.observed = None;
            }
            if first {
                // Sparse slabs become empty.
                seq.lanes.iter_mut().for_each(Lane::consolidate);
                self.pool().trim();
            }
            // Buffers of scores and what was merged are not needed again soon.
            cachalot_kernels::heap::trim();
            seq.context = if first { tokens } else { seq.context };
            let slots: usize = seq.lanes.iter().map(|lane| lane.slots(tokens)).sum();
            stayed = Some(slots as f64 / (seq.lanes.len() * tokens) as f64);
        }
        if again {
            seq.pending = Some(Pending { at: tokens + keep.every, ..pending });
        }
        Ok(stayed)
    }

    /// Scores all layers, gives them their budgets, and reduces them, each layer by one thread: what a layer leaves is gone
    /// before the thread takes the next.
    fn reduce_lanes(&self, seq: &mut SequenceKv, pending: &mut Pending) -> Result<(), KvError> {
        let layers = &self.config().layers;
        // All scores are held at once: a few bytes for each token.
        let slots: usize = seq.lanes.iter().map(|lane| lane.slots(seq.len())).sum();
        let _held = self.ledger().reserve(crate::Purpose::Scratch, 4 * slots as u64)?;
        let reduction = Reduction::new(pending, layers, seq.len, &seq.spans, &seq.plan);
        let mut scored: Vec<Scored<'_>> = self
            .by_layer(&seq.lanes)
            .map(|(l, lanes)| Scored { scene: reduction.scene(self.isa(), l, lanes), scores: Vec::new() })
            .collect();
        reduction.score(&mut scored, self.team());
        let mut kept: Vec<Vec<usize>> = (0..layers.len()).map(|layer| reduction.budgets(layer)).collect();
        pending.keep.method.allot(&scored, pending.keep.budget, &mut kept);
        let scores: Vec<Vec<Vec<f32>>> = scored.into_iter().map(|scored| scored.scores).collect();

        let (tokens, isa) = (seq.len(), self.isa());
        let mut rest = &mut seq.lanes[..];
        let mut work = Vec::with_capacity(layers.len());
        for (g, scores) in layers.iter().zip(scores) {
            let (lanes, others) = rest.split_at_mut(g.kv_heads);
            rest = others;
            work.push(Mutex::new((lanes, scores, Ok((0, Vec::new())))));
        }
        self.team().for_each(work.len(), |layer| {
            let mut work = lock(&work[layer]);
            let (lanes, scores, result) = &mut *work;
            let scored = Scored { scene: reduction.scene(isa, layer, lanes), scores: std::mem::take(scores) };
            let outcomes = reduction.outcome(&scored, &kept[layer]);
            drop(scored);
            let rope = layers[layer].rope.as_deref();
            let mut odd = 0;
            let done = lanes.iter_mut().zip(&outcomes).try_for_each(|(lane, outcome)| {
                let slots = lane.slots(tokens);
                odd += lane.keep(outcome, slots, rope, self.pool())?;
                Ok(())
            });
            *result = done.map(|()| (odd, outcomes.into_iter().map(|outcome| outcome.kept).collect()));
        });
        let mut all = Vec::with_capacity(layers.len());
        for work in work {
            let (odd, kept): (usize, Vec<Vec<u32>>) = work.into_inner().unwrap_or_else(PoisonError::into_inner).2?;
            self.count_odd(odd);
            all.push(kept);
        }
        if let Some(observed) = &mut pending.observed {
            for (layer, heads) in all.iter().enumerate() {
                heads.iter().enumerate().for_each(|(head, kept)| observed.keep(layer, head, kept));
            }
        }
        Ok(())
    }

    fn by_layer<'a>(&'a self, lanes: &'a [Lane]) -> impl Iterator<Item = (usize, &'a [Lane])> {
        let layers = self.config().layers.iter().zip(self.layer_start()).enumerate();
        layers.map(|(layer, (g, &start))| (layer, &lanes[start..start + g.kv_heads]))
    }
}

impl<'a> Reduction<'a> {
    /// Of a sequence that has reached the end of a pass.
    fn new(
        pending: &'a Pending,
        layers: &'a [LayerGeometry],
        tokens: usize,
        spans: &'a [Range<usize>],
        plan: &CachePlan,
    ) -> Reduction<'a> {
        Reduction {
            keep: &pending.keep,
            layers,
            tokens,
            observed: pending.observed.as_ref(),
            spans,
            importance: plan.lanes.iter().flatten().any(|lane| lane.importance),
        }
    }

    /// Scores every layer that is reduced.
    fn score(&self, scored: &mut [Scored<'_>], team: &Team) {
        let each: Vec<Mutex<&mut Scored<'_>>> = scored.iter_mut().map(Mutex::new).collect();
        team.for_each(each.len(), |layer| {
            if self.scores(layer) {
                let mut scored = lock(&each[layer]);
                scored.scores = self.keep.method.scores(&scored.scene);
            }
        });
        drop(each);
        for layer in 0..scored.len() {
            let leader = self.keep.method.leader(layer);
            if leader != layer && self.layers[layer].window.is_none() {
                let alike =
                    self.layers[leader].window.is_none() && self.layers[leader].kv_heads == self.layers[layer].kv_heads;
                scored[layer].scores = match alike {
                    true => scored[leader].scores.clone(),
                    false => self.keep.method.scores(&scored[layer].scene),
                };
            }
        }
    }

    fn scene<'s>(&'s self, isa: Isa, layer: usize, lanes: &'s [Lane]) -> Scene<'s> {
        let geometry = &self.layers[layer];
        Scene { isa, layer, geometry, lanes, tokens: self.tokens, observed: self.observed, spans: self.spans }
    }

    /// Whether a layer is scored by itself.
    fn scores(&self, layer: usize) -> bool {
        self.layers[layer].window.is_none() && self.keep.method.leader(layer) == layer
    }

    /// Tokens that each head of a layer may keep, before scores are known.
    fn budgets(&self, layer: usize) -> Vec<usize> {
        let g = &self.layers[layer];
        let place = |head| Place { layer, layers: self.layers.len(), head };
        match g.window {
            Some(_) => vec![self.tokens; g.kv_heads],
            None => (0..g.kv_heads).map(|head| self.keep.tokens(self.tokens, place(head))).collect(),
        }
    }

    fn outcome(&self, scored: &Scored<'_>, kept: &[usize]) -> Vec<Outcome> {
        let Scored { scene, scores } = scored;
        let whole = |head: usize| (0..scene.slots(head) as u32).collect::<Vec<u32>>();
        let least = self.keep.method.least();
        if scene.geometry.window.is_some() {
            return scene.heads().map(|head| Outcome { kept: whole(head), ..Outcome::default() }).collect();
        }
        let slots: Vec<usize> = scene.heads().map(|head| scene.slots(head)).collect();
        let kept: Vec<usize> = kept.iter().zip(&slots).map(|(&kept, &slots)| kept.max(least).min(slots)).collect();
        let mut chosen = match kept == slots {
            true => scene.heads().map(whole).collect(),
            false => self.keep.method.choose(scene, scores, &kept, self.keep.budget),
        };
        let merged = match &self.keep.merge {
            Some(merge) if chosen.iter().zip(&slots).any(|(chosen, &slots)| chosen.len() < slots) => {
                merge.merge(scene, &mut chosen, scores)
            }
            _ => vec![Vec::new(); chosen.len()],
        };
        let importance = |head: usize, kept: &[u32]| match self.importance {
            true => kept.iter().map(|&slot| scores[head].get(slot as usize).copied().unwrap_or(0.0)).collect(),
            false => Vec::new(),
        };
        let outcome = |(head, (kept, merged)): (usize, (Vec<u32>, Vec<_>))| Outcome {
            importance: importance(head, &kept),
            kept,
            merged,
        };
        chosen.into_iter().zip(merged).enumerate().map(outcome).collect()
    }
}
