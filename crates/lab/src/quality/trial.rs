//! One recipe at work: its cache, its sequence, and how long its steps take.

use super::record::Memory;
use crate::{Candidate, LabError, Subject};
use cachalot_kv::{KvCache, Segment, SequenceKv};
use cachalot_model::passes;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A recipe with a cache and one sequence. After the first failure it does nothing any more.
pub(super) struct Trial<'a> {
    subject: &'a Subject<'a>,
    candidate: Arc<dyn Candidate>,
    running: Option<(KvCache, SequenceKv)>,
    /// Tokens of the sequence so far, as far as something may want them again.
    read: Vec<u32>,
    /// Tokens of a step.
    chunk: usize,
    failure: Option<String>,
}

/// Logits of the rows that were asked for, and the time of the step.
pub(super) struct Step {
    pub logits: Vec<f32>,
    pub time: Duration,
}

impl<'a> Trial<'a> {
    /// An empty sequence with room for `tokens`, in steps of at most `chunk`.
    pub fn new(subject: &'a Subject<'a>, candidate: &Arc<dyn Candidate>, tokens: usize, chunk: usize) -> Trial<'a> {
        let candidate = candidate.clone();
        let opened = room(subject, &candidate, tokens, chunk).map(|cache| {
            let sequence = cache.create();
            (cache, sequence)
        });
        match opened {
            Ok(running) => Trial { subject, candidate, running: Some(running), read: Vec::new(), chunk, failure: None },
            Err(error) => {
                Trial { subject, candidate, running: None, read: Vec::new(), chunk, failure: Some(error.to_string()) }
            }
        }
    }

    /// Appends tokens; `None` where the recipe has failed, now or before.
    pub fn step(&mut self, tokens: &[u32], logits_rows: &[usize]) -> Option<Step> {
        let (cache, seq) = self.running.as_mut()?;
        let start = Instant::now();
        let (mut logits, mut done) = (Vec::new(), 0);
        while done < tokens.len() {
            // A sequence that is reduced on the way is read up to there.
            let next = done..tokens.len().min(done.saturating_add(seq.rows_to_reduction()));
            let wanted: Vec<usize> =
                logits_rows.iter().filter(|row| next.contains(row)).map(|row| row - next.start).collect();
            self.read.extend_from_slice(&tokens[next.clone()]);
            match read(self.subject, cache, seq, &tokens[next.clone()], &wanted, &self.read, self.chunk) {
                Ok(more) => logits.extend(more),
                Err(reason) => {
                    self.fail(reason);
                    return None;
                }
            }
            done = next.end;
        }
        Some(Step { logits, time: start.elapsed() })
    }

    /// Appends tokens in steps of the trial's length, with the logits of the last one where they are `wanted`; tells how many
    /// more are done after each step. `None` where the recipe has failed.
    ///
    /// # Errors
    /// What `advance` says.
    pub fn read(
        &mut self,
        tokens: &[u32],
        wanted: bool,
        mut advance: impl FnMut(usize) -> Result<(), LabError>,
    ) -> Result<Option<Step>, LabError> {
        let mut all = Some(Step { logits: Vec::new(), time: Duration::ZERO });
        let mut left = tokens.len();
        for tokens in tokens.chunks(self.chunk) {
            left -= tokens.len();
            let rows: &[usize] = if wanted && left == 0 { &[tokens.len() - 1] } else { &[] };
            let step = self.step(tokens, rows);
            all = all.zip(step).map(|(all, step)| Step { logits: step.logits, time: all.time + step.time });
            advance(tokens.len())?;
        }
        Ok(all)
    }

    /// Begins an empty sequence.
    pub fn restart(&mut self) {
        if let Some((cache, seq)) = &mut self.running {
            *seq = cache.create();
            self.read.clear();
        }
    }

    /// Whether it keeps less than everything.
    pub fn keeps(&self) -> bool {
        self.running.as_ref().is_some_and(|(cache, _)| cache.config().plan.keep.is_some())
    }

    /// Announces that the sequence, which is empty, begins with a context of so many tokens.
    pub fn expect(&mut self, tokens: usize) {
        let Some((cache, seq)) = &mut self.running else { return };
        if let Err(error) = cache.expect(seq, tokens) {
            self.fail(error.to_string());
        }
    }

    /// Goes on with a copy of the sequence, and returns the sequence as it is now for [`Trial::back_to`].
    pub fn branch(&mut self) -> Option<SequenceKv> {
        let (cache, seq) = self.running.as_mut()?;
        match cache.fork(seq) {
            Ok(copy) => Some(std::mem::replace(seq, copy)),
            Err(error) => {
                self.fail(error.to_string());
                None
            }
        }
    }

    /// Goes on with an earlier sequence.
    pub fn back_to(&mut self, trunk: SequenceKv) {
        if let Some((_, seq)) = &mut self.running {
            self.read.truncate(trunk.len());
            *seq = trunk;
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
            Some(reason) => Err(LabError::Reference { name: self.candidate.name().into(), reason: reason.clone() }),
        }
    }

    /// What the cache holds now: by its ledger, and as it predicts for the sequence's length.
    pub fn memory(&self) -> Option<Memory> {
        let (cache, seq) = self.running.as_ref()?;
        let bytes = cache.ledger().used();
        let each = self.subject.layers.iter().map(|layer| 2 * layer.kv_heads * layer.head_dim).sum::<usize>();
        Some(Memory {
            tokens: seq.len(),
            bytes,
            predicted_bytes: cache.bytes_of(seq),
            peak_bytes: cache.ledger().peak(),
            bits_per_element: 8.0 * bytes as f64 / self.subject.elements(seq.len()).max(1) as f64,
            bits_per_element_long: 8.0 * cache.bytes_per_token() / each.max(1) as f64,
        })
    }
}

/// A cache with room for a sequence of `tokens` and for a branch of it: twice what it takes, for what a branch shares with its
/// trunk is not there twice.
pub(super) fn room(
    subject: &Subject<'_>,
    candidate: &Arc<dyn Candidate>,
    tokens: usize,
    chunk: usize,
) -> Result<KvCache, LabError> {
    let sized = candidate.cache(subject, 0)?;
    candidate.cache(subject, 2 * sized.peak_bytes(&sized.config().plan, tokens, chunk))
}

/// One step of the model, and what is due after it.
fn read(
    subject: &Subject<'_>,
    cache: &KvCache,
    seq: &mut SequenceKv,
    tokens: &[u32],
    logits_rows: &[usize],
    context: &[u32],
    chunk: usize,
) -> Result<Vec<f32>, String> {
    cache.reserve(seq, tokens.len()).map_err(|e| e.to_string())?;
    // Rows of a context that does not go through all layers yet have their logits later.
    let later = !logits_rows.is_empty() && !seq.answers(tokens.len());
    let logits_rows = if later { &[] } else { logits_rows };
    let segments = &mut [Segment { seq, rows: tokens.len() }];
    let mut logits = subject.decoder.forward(cache, segments, tokens, logits_rows).map_err(|e| e.to_string())?;
    cache.settle(seq);
    cache.reduce(seq).map_err(|e| e.to_string())?;
    if let Some(last) =
        passes::finish_context(subject.decoder, cache, seq, context, chunk).map_err(|e| e.to_string())?
        && later
    {
        logits = last;
    }
    Ok(logits)
}
