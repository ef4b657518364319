//! What others may know of a sequence's reductions.

use crate::SequenceKv;
use crate::observe::Gather;
use cachalot_kernels::attention::PAGE_TOKENS;

impl SequenceKv {
    /// Marks stretches of the context, ascending and apart, that methods may treat by themselves.
    pub fn with_spans(self, spans: &[std::ops::Range<usize>]) -> SequenceKv {
        SequenceKv { spans: spans.to_vec(), ..self }
    }

    /// Values that one lane holds, `[slots][head_dim]`, for tests.
    #[doc(hidden)]
    pub fn values(&self, layer: usize, head: usize) -> Vec<f32> {
        let lane = self.lane(layer, head);
        lane.values(lane.slots(self.len))
    }

    /// Rows that the next step may have at most before the sequence is reduced.
    pub fn rows_to_reduction(&self) -> usize {
        match self.mended() {
            Some(rows) => rows.len(),
            None => self.pending.as_ref().map_or(usize::MAX, |pending| pending.at - self.len),
        }
    }

    /// Positions of the tokens that one lane holds, ascending.
    pub fn positions(&self, layer: usize, head: usize) -> Vec<usize> {
        let lane = self.lane(layer, head);
        (lane.first() * PAGE_TOKENS..lane.slots(self.len)).map(|i| lane.position(i)).collect()
    }

    /// Tokens that each slot of a lane stands for, where a reduction merged some with their exact weight: all add up to the
    /// tokens of the sequence.
    pub fn weights(&self, layer: usize, head: usize) -> Vec<f32> {
        let lane = self.lane(layer, head);
        (0..lane.slots(self.len)).map(|slot| lane.extra_of(slot).exp()).collect()
    }

    /// Whether the recipe's method wants the norms of hidden states ([`SequenceKv::saw_hidden`]).
    pub fn wants_hidden(&self) -> bool {
        let observed = self.pending.as_ref().and_then(|pending| pending.observed.as_ref());
        observed.is_some_and(crate::observe::Observed::wants_hidden)
    }

    /// Norms of the hidden states that go into a layer for the rows of a step, before that layer attends.
    pub fn saw_hidden(&mut self, layer: usize, norms: &[f32]) {
        if let Some(observed) = self.pending.as_mut().and_then(|pending| pending.observed.as_mut()) {
            observed.push_hidden(layer, norms);
        }
    }

    /// What is gathered for every token, if anything.
    pub(crate) fn gathers(&self) -> Option<Gather> {
        let gather = self.pending.as_ref()?.observed.as_ref()?.gathers()?;
        // Only while a part of the context is read again.
        (gather != Gather::Repeated || self.repeats().is_some()).then_some(gather)
    }

    /// End of the context; of a sequence that will not be reduced any more, what it has.
    pub(crate) fn context_end(&self) -> usize {
        self.pending.as_ref().map_or(self.len, |pending| pending.context)
    }
}
