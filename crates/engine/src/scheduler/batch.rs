//! One step: the rows the model is asked to compute.

use std::time::Duration;

use cachalot_kv::{KvCache, Segment, SequenceKv};
use cachalot_model::Decoder;

use super::sequence::Ticket;
use crate::EngineError;

pub(super) struct Part {
    pub ticket: Ticket,
    /// Taken from the sequence for the time of the step. Space for `rows` is reserved.
    pub kv: SequenceKv,
    pub rows: usize,
    /// Whether the step returns logits for it.
    pub logits: bool,
}

/// Rows of a replay.
pub(super) struct ReplayPart {
    /// Whose answer is replayed.
    pub request: u64,
    /// As [`Part::kv`].
    pub kv: Option<SequenceKv>,
    pub rows: usize,
    /// Rows that the step returns logits for.
    pub logits: usize,
}

/// What one step computes. It owns the caches of its sequences until [`super::Scheduler::commit`] takes them back.
pub struct Batch {
    pub(super) parts: Vec<Part>,
    /// After all parts.
    pub(super) replays: Vec<ReplayPart>,
    /// When it was planned.
    pub(super) planned: Duration,
    tokens: Vec<u32>,
    logits_rows: Vec<usize>,
}

impl Batch {
    pub(super) fn new(planned: Duration) -> Batch {
        Batch { parts: Vec::new(), replays: Vec::new(), planned, tokens: Vec::new(), logits_rows: Vec::new() }
    }

    pub(super) fn push(&mut self, ticket: Ticket, kv: SequenceKv, tokens: &[u32], logits: bool) {
        self.tokens.extend_from_slice(tokens);
        if logits {
            self.logits_rows.push(self.tokens.len() - 1);
        }
        self.parts.push(Part { ticket, kv, rows: tokens.len(), logits });
    }

    /// Rows of a replay, behind those of all requests; `wanted` are those whose logits are, counted from the first.
    pub(super) fn push_replay(&mut self, request: u64, kv: SequenceKv, tokens: &[u32], wanted: &[usize]) {
        self.logits_rows.extend(wanted.iter().map(|row| self.tokens.len() + row));
        self.tokens.extend_from_slice(tokens);
        self.replays.push(ReplayPart { request, kv: Some(kv), rows: tokens.len(), logits: wanted.len() });
    }

    /// Rows (tokens) of this step.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Sequences of this step.
    pub fn sequences(&self) -> usize {
        self.parts.len() + self.replays.len()
    }

    pub(super) fn logits_rows(&self) -> usize {
        self.logits_rows.len()
    }

    /// Runs the model. The logits are `[logits_rows][vocab]`.
    ///
    /// # Errors
    /// [`EngineError::Model`]; the caches of the batch are then in no defined state, and `commit` drops them.
    pub fn forward(&mut self, decoder: &dyn Decoder, cache: &KvCache) -> Result<Vec<f32>, EngineError> {
        let mut segments: Vec<Segment<'_>> =
            self.parts.iter_mut().map(|part| Segment { seq: &mut part.kv, rows: part.rows }).collect();
        let replays = self.replays.iter_mut().filter_map(|part| part.kv.as_mut().map(|kv| (kv, part.rows)));
        segments.extend(replays.map(|(seq, rows)| Segment { seq, rows }));
        let logits = decoder.forward(cache, &mut segments, &self.tokens, &self.logits_rows);
        logits.map_err(|error| EngineError::Model(error.to_string()))
    }
}
