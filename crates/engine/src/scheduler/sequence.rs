//! One choice of one request, on its way through the batches.

use std::sync::Arc;
use std::time::Duration;

use cachalot_kv::{CachePlan, SequenceKv};

use super::errand::Errand;
use crate::constraint::Constraint;
use crate::replay::Record;
use crate::reuse::Thread;
use crate::sampling::Sampler;
use crate::text::TextOutput;

/// The order of arrival: earlier requests first, then the choices of one request. Lower tickets go first in everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket {
    pub request: u64,
    pub choice: usize,
}

pub(super) struct Sequence {
    pub ticket: Ticket,
    /// Prompt, then what was generated. The cache holds a prefix of it.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// How its cache is kept.
    pub plan: Arc<CachePlan>,
    /// See [`crate::Request::spans`].
    pub spans: Arc<[std::ops::Range<usize>]>,
    /// Absent before the first step, while set aside for want of memory, and while a batch has it.
    pub kv: Option<SequenceKv>,
    /// Those after its last token, while its context is looked at once more before it is reduced.
    pub logits: Option<Vec<f32>>,
    pub sampler: Sampler,
    pub output: TextOutput,
    pub constraint: Option<Constraint>,
    /// What is kept of its steps, to be compared later.
    pub record: Option<Record>,
    /// Further choices that begin where this one's prompt ends.
    pub forks: usize,
    pub last_token: Option<Duration>,
    /// What it shares with others.
    pub thread: Thread,
    /// What it goes on with when its tokens, which are another prompt's now, are computed.
    pub errand: Option<Box<Errand>>,
}

impl Sequence {
    /// Tokens that are in the cache.
    pub fn computed(&self) -> usize {
        self.kv.as_ref().map_or(0, SequenceKv::len)
    }

    /// Rows that are still to be computed: of a pass over its context, or tokens that are not yet in the cache; at least one
    /// between steps.
    pub fn pending(&self) -> usize {
        match self.kv.as_ref().map_or(0, SequenceKv::pass_rows) {
            0 => self.tokens.len().saturating_sub(self.computed()),
            rows => rows,
        }
    }

    /// Tokens generated so far.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt
    }
}

/// Inserts by ticket, lowest first.
pub(super) fn insert(list: &mut std::collections::VecDeque<Sequence>, sequence: Sequence) {
    let place = list.partition_point(|other| other.ticket < sequence.ticket);
    list.insert(place, sequence);
}
