//! **reduce**: what happens to what falls below the line, between steps: a sequence's lanes shrink and their pages are free.

use crate::allot::Budget;
use crate::lane::Lane;
use crate::observe::Observed;
use crate::pool::ledger::Ledger;
use crate::score::{Method, Scene};
use crate::{KvCache, KvError, SequenceKv};
use std::sync::{Arc, Mutex, PoisonError};

/// What a recipe keeps of a context.
#[derive(Clone, Debug)]
pub struct Keep {
    /// How tokens are chosen.
    pub method: Arc<dyn Method>,
    /// How many.
    pub budget: Budget,
}

impl Keep {
    /// Tokens that each head of a layer keeps of a context: all where it is too short for the method, and never less than the
    /// method protects, however small the budget.
    pub fn tokens(&self, context: usize, layer: usize, layers: usize) -> usize {
        let least = self.method.least();
        if context <= least { context } else { self.method.budget(self.budget, context, layer, layers).max(least) }
    }
}

/// When a sequence is reduced, and what is gathered for it.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Tokens of the context.
    pub at: usize,
    pub observed: Option<Observed>,
}

impl Pending {
    /// The same for a branch of the sequence.
    pub fn copy(&self, ledger: &Ledger) -> Result<Pending, KvError> {
        let observed = self.observed.as_ref().map(|observed| observed.copy(ledger)).transpose()?;
        Ok(Pending { at: self.at, observed })
    }
}

impl KvCache {
    /// Announces that the first `tokens` of a sequence are the context that its recipe reduces, before any of them is
    /// computed. No step may reach beyond them ([`SequenceKv::rows_to_reduction`]) until [`KvCache::reduce`] is called at
    /// their end. Until then they stay exact. Recipes that keep everything, and contexts too short for theirs, take no notice.
    ///
    /// # Errors
    /// [`KvError::Misuse`] for a sequence that is not empty; [`KvError::OutOfBudget`] where there is no room for what the
    /// method wants to observe.
    pub fn expect(&self, seq: &mut SequenceKv, tokens: usize) -> Result<(), KvError> {
        let Some(keep) = &seq.plan.keep else { return Ok(()) };
        if !seq.is_empty() {
            return Err(KvError::Misuse(format!("a context announced after {} tokens", seq.len())));
        }
        if tokens <= keep.method.least() {
            return Ok(());
        }
        let rows = keep.method.observes();
        let layers = &self.config().layers;
        let observed = if rows > 0 { Some(Observed::new(rows.min(tokens), layers, self.ledger())?) } else { None };
        seq.pending = Some(Pending { at: tokens, observed });
        seq.lanes.iter_mut().for_each(Lane::hold);
        Ok(())
    }

    /// Reduces a sequence that has reached the end of its context; others stay as they are. Layers with a sliding window
    /// keep what is in it. Returns the share of the context's tokens that stayed, mean of all lanes, where it was reduced.
    ///
    /// # Errors
    /// [`KvError::OutOfBudget`] or [`KvError::OutOfMemory`] where pages that others share leave no room for what stays. The
    /// sequence is of no use then.
    pub fn reduce(&self, seq: &mut SequenceKv) -> Result<Option<f64>, KvError> {
        if seq.pending.as_ref().is_none_or(|pending| pending.at != seq.len()) {
            return Ok(None);
        }
        let (Some(pending), Some(keep)) = (seq.pending.take(), seq.plan.keep.clone()) else { return Ok(None) };
        let layers = &self.config().layers;
        seq.context = pending.at;
        let mut rest = &mut seq.lanes[..];
        let mut each = Vec::with_capacity(layers.len());
        for g in layers {
            let (lanes, others) = rest.split_at_mut(g.kv_heads);
            rest = others;
            each.push(Mutex::new((lanes, Ok(()))));
        }
        self.team().for_each(layers.len(), |layer| {
            let mut each = each[layer].lock().unwrap_or_else(PoisonError::into_inner);
            let (lanes, result) = &mut *each;
            *result = self.reduce_layer(&keep, layer, lanes, &pending);
        });
        for each in each {
            each.into_inner().unwrap_or_else(PoisonError::into_inner).1?;
        }
        let slots: usize = seq.lanes.iter().map(|lane| lane.slots(pending.at)).sum();
        Ok(Some(slots as f64 / (seq.lanes.len() * pending.at) as f64))
    }

    fn reduce_layer(&self, keep: &Keep, layer: usize, lanes: &mut [Lane], pending: &Pending) -> Result<(), KvError> {
        let (layers, tokens) = (&self.config().layers, pending.at);
        let geometry = &layers[layer];
        let kept = keep.tokens(tokens, layer, layers.len());
        let chosen: Vec<Vec<u32>> = if kept >= tokens || geometry.window.is_some() {
            vec![(0..tokens as u32).collect(); lanes.len()]
        } else {
            let observed = pending.observed.as_ref();
            let scene = Scene { isa: self.isa(), layer, geometry, lanes, tokens, observed };
            keep.method.choose(&keep.method.scores(&scene), kept, keep.budget)
        };
        lanes.iter_mut().zip(chosen).try_for_each(|(lane, kept)| lane.keep(&kept, tokens, self.pool()))
    }
}

impl SequenceKv {
    /// Rows that the next step may have at most before the sequence is reduced.
    pub fn rows_to_reduction(&self) -> usize {
        self.pending.as_ref().map_or(usize::MAX, |pending| pending.at - self.len)
    }

    /// Positions of the tokens that one lane holds, ascending.
    pub fn positions(&self, layer: usize, head: usize) -> Vec<usize> {
        let lane = self.lane(layer, head);
        (lane.first() * cachalot_kernels::attention::PAGE_TOKENS..lane.slots(self.len))
            .map(|i| lane.position(i))
            .collect()
    }
}
