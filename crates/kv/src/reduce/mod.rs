//! **reduce**: what happens to what falls below the line, between steps: a sequence's lanes shrink and their pages are free.

pub mod merge;
mod sequence;

use crate::allot::Budget;
use crate::lane::Lane;
use crate::lane::keep::Outcome;
use crate::observe::Observed;
use crate::pool::ledger::Ledger;
use crate::score::{Method, Place, Scene, Scored};
use crate::{KvCache, KvError, LayerGeometry, SequenceKv};
pub use merge::Merge;
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
}

impl Pending {
    /// The same for a branch of the sequence.
    pub fn copy(&self, ledger: &Ledger) -> Result<Pending, KvError> {
        let observed = self.observed.as_ref().map(|observed| observed.copy(ledger)).transpose()?;
        Ok(Pending { at: self.at, context: self.context, keep: self.keep.clone(), observed })
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
    /// called there. The context stays exact until its end. Recipes that keep everything take no notice, nor do contexts too
    /// short for theirs.
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
        let (layers, wish) = (&self.config().layers, keep.wish());
        let more = if after { keep.every } else { 0 };
        let observed = match wish.is_nothing() {
            true => None,
            false => Some(Observed::new(wish, tokens, more, layers, self.ledger())?),
        };
        if keep.when != When::Decode {
            seq.lanes.iter_mut().for_each(Lane::hold);
        }
        seq.pending = Some(Pending { at: tokens, context: tokens, keep, observed });
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
        let (layers, tokens) = (&self.config().layers, seq.len());
        let first = tokens == pending.context;
        let mut stayed = None;
        if !first || keep.when != When::Decode {
            let outcomes = self.outcomes(seq, &pending)?;
            let lanes = layers.iter().flat_map(|g| (0..g.kv_heads).map(move |_| g.rope.as_deref()));
            let work: Vec<_> = seq.lanes.iter_mut().zip(lanes).zip(&outcomes).map(Mutex::new).collect();
            let results: Vec<Mutex<Result<usize, KvError>>> = work.iter().map(|_| Mutex::new(Ok(0))).collect();
            self.team().for_each(work.len(), |i| {
                let mut work = work[i].lock().unwrap_or_else(PoisonError::into_inner);
                let ((lane, rope), outcome) = &mut *work;
                let slots = lane.slots(tokens);
                let done = lane.keep(outcome, slots, *rope, self.pool());
                *results[i].lock().unwrap_or_else(PoisonError::into_inner) = done;
            });
            drop(work);
            let mut odd = 0;
            for result in results {
                odd += result.into_inner().unwrap_or_else(PoisonError::into_inner)?;
            }
            self.count_odd(odd);
            if first {
                seq.lanes.iter_mut().for_each(Lane::consolidate);
            }
            seq.context = if first { tokens } else { seq.context };
            let slots: usize = seq.lanes.iter().map(|lane| lane.slots(tokens)).sum();
            stayed = Some(slots as f64 / (seq.lanes.len() * tokens) as f64);
            if let Some(observed) = &mut pending.observed {
                let mut outcomes = outcomes.iter();
                for (layer, g) in layers.iter().enumerate() {
                    for (head, outcome) in outcomes.by_ref().take(g.kv_heads).enumerate() {
                        observed.keep(layer, head, &outcome.kept);
                    }
                }
            }
        }
        if keep.when != When::Prompt {
            seq.pending = Some(Pending { at: tokens + keep.every, ..pending });
        }
        Ok(stayed)
    }

    /// What becomes of every lane.
    fn outcomes(&self, seq: &SequenceKv, pending: &Pending) -> Result<Vec<Outcome>, KvError> {
        let (layers, keep) = (&self.config().layers, &pending.keep);
        // All scores are held at once: a few bytes for each token.
        let slots: usize = seq.lanes.iter().map(|lane| lane.slots(seq.len())).sum();
        let _held = self.ledger().reserve(crate::Purpose::Scratch, 4 * slots as u64)?;
        let reduction = Reduction {
            keep,
            layers,
            tokens: seq.len(),
            observed: pending.observed.as_ref(),
            spans: &seq.spans,
            importance: seq.plan.lanes.iter().flatten().any(|lane| lane.importance),
        };
        let scene = |layer: usize| {
            let start = self.layer_start()[layer];
            let lanes = &seq.lanes[start..start + layers[layer].kv_heads];
            reduction.scene(self.isa(), layer, lanes)
        };
        let each: Vec<Mutex<Vec<Vec<f32>>>> = layers.iter().map(|_| Mutex::default()).collect();
        self.team().for_each(layers.len(), |layer| {
            if reduction.scores(layer) {
                *each[layer].lock().unwrap_or_else(PoisonError::into_inner) = keep.method.scores(&scene(layer));
            }
        });
        let mut scores: Vec<_> =
            each.into_iter().map(|s| s.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
        for layer in 0..layers.len() {
            let leader = keep.method.leader(layer);
            if leader != layer && layers[layer].window.is_none() {
                scores[layer] =
                    match layers[leader].window.is_none() && layers[leader].kv_heads == layers[layer].kv_heads {
                        true => scores[leader].clone(),
                        false => keep.method.scores(&scene(layer)),
                    };
            }
        }
        let scored: Vec<Scored<'_>> =
            scores.into_iter().enumerate().map(|(layer, scores)| Scored { scene: scene(layer), scores }).collect();
        let mut kept: Vec<Vec<usize>> = (0..layers.len()).map(|layer| reduction.budgets(layer)).collect();
        keep.method.allot(&scored, &mut kept);
        let all: Vec<Mutex<Vec<Outcome>>> = layers.iter().map(|_| Mutex::default()).collect();
        self.team().for_each(layers.len(), |layer| {
            *all[layer].lock().unwrap_or_else(PoisonError::into_inner) =
                reduction.outcome(&scored[layer], &kept[layer]);
        });
        Ok(all.into_iter().flat_map(|o| o.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
    }
}

impl<'a> Reduction<'a> {
    fn scene(&self, isa: cachalot_kernels::Isa, layer: usize, lanes: &'a [Lane]) -> Scene<'a> {
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
