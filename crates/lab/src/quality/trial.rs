//! One recipe at work: its cache, its sequence, and how long its steps take.

use crate::recipe::Recipe;
use crate::{LabError, Subject};
use cachalot_kv::{KvCache, Segment, SequenceKv};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A recipe with a cache and one sequence. After the first failure it does nothing any more.
pub(super) struct Trial<'a> {
    subject: &'a Subject<'a>,
    recipe: Arc<dyn Recipe>,
    running: Option<(KvCache, SequenceKv)>,
    failure: Option<String>,
}

/// Logits of the rows that were asked for, and the time of the step.
pub(super) struct Step {
    pub logits: Vec<f32>,
    pub time: Duration,
}

impl<'a> Trial<'a> {
    /// An empty sequence with room for `tokens`.
    pub fn new(subject: &'a Subject<'a>, recipe: &Arc<dyn Recipe>, tokens: usize) -> Trial<'a> {
        let recipe = recipe.clone();
        let opened = recipe.cache(subject, 0).and_then(|sized| {
            // One page of each lane beyond, for formats that hold the page being written beside the finished one.
            let budget = sized.bytes_for_tokens(tokens) + sized.bytes_for_tokens(1);
            let cache = recipe.cache(subject, budget)?;
            let sequence = recipe.sequence(&cache);
            Ok((cache, sequence))
        });
        match opened {
            Ok(running) => Trial { subject, recipe, running: Some(running), failure: None },
            Err(error) => Trial { subject, recipe, running: None, failure: Some(error.to_string()) },
        }
    }

    /// Appends tokens; `None` where the recipe has failed, now or before.
    pub fn step(&mut self, tokens: &[u32], logits_rows: &[usize]) -> Option<Step> {
        let (cache, seq) = self.running.as_mut()?;
        let start = Instant::now();
        let reserved = cache.reserve(seq, tokens.len()).map_err(|e| e.to_string());
        let logits = reserved.and_then(|()| {
            let segments = &mut [Segment { seq, rows: tokens.len() }];
            self.subject.decoder.forward(cache, segments, tokens, logits_rows).map_err(|e| e.to_string())
        });
        match logits {
            Ok(logits) => {
                cache.settle(seq);
                Some(Step { logits, time: start.elapsed() })
            }
            Err(reason) => {
                self.fail(reason);
                None
            }
        }
    }

    /// Begins an empty sequence.
    pub fn restart(&mut self) {
        if let Some((cache, seq)) = &mut self.running {
            *seq = self.recipe.sequence(cache);
        }
    }

    /// Ends the trial; the first reason stays.
    pub fn fail(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
        self.running = None;
    }

    /// Why it ended, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The failure as an error of the whole run, for the reference.
    pub fn must_run(&self) -> Result<(), LabError> {
        match &self.failure {
            None => Ok(()),
            Some(reason) => Err(LabError::Reference { name: self.recipe.name().into(), reason: reason.clone() }),
        }
    }

    /// Bytes of pages: by the cache's ledger now, and as the cache predicts for the sequence's length.
    pub fn bytes(&self) -> Option<(u64, u64)> {
        let (cache, seq) = self.running.as_ref()?;
        Some((cache.ledger().used(), cache.bytes_for_tokens(seq.len())))
    }
}
