//! Prompts that are computed before another can be put together from them: the contexts of one whose parts are read side by
//! side. The sequence that needs them computes them itself, one after the other, as prompts like any other; so they are shared,
//! waited for, evicted and kept below the pool as these are, and where one of them is lost again the prompt is computed whole.

use std::collections::VecDeque;

use super::Scheduler;
use super::sequence::{Sequence, insert};
use crate::reuse::Thread;

/// What a sequence will go on with, and what it computes before.
pub(super) struct Errand {
    tokens: Vec<u32>,
    prompt: usize,
    thread: Thread,
    left: VecDeque<Vec<u32>>,
}

impl Sequence {
    /// Goes to the next prompt that is wanted, or to its own. Its cache is not that one's.
    fn next_errand(&mut self) {
        let Some(errand) = &mut self.errand else { return };
        match errand.left.pop_front() {
            Some(tokens) => {
                (self.prompt, self.tokens, self.thread) = (tokens.len(), tokens, errand.thread.errand());
            }
            None => self.end_errand(),
        }
    }

    /// Goes back to its own prompt.
    pub fn end_errand(&mut self) {
        if let Some(errand) = self.errand.take() {
            (self.tokens, self.prompt, self.thread) = (errand.tokens, errand.prompt, errand.thread);
        }
    }
}

impl Scheduler {
    /// Lets a sequence that has computed nothing yet compute first what it is put together from.
    pub(super) fn begin_errand(&mut self, index: usize) {
        let Some(sequence) = self.running.get_mut(index).filter(|sequence| super::shared::is_new(sequence)) else {
            return;
        };
        if sequence.errand.is_some() || sequence.thread.prepared {
            return;
        }
        sequence.thread.prepared = true;
        let Some(kv) = &sequence.kv else { return };
        let missing = self.reuse.missing(&self.cache, kv, &sequence.thread, &sequence.tokens[..sequence.prompt]);
        if missing.is_empty() {
            return;
        }
        let thread = sequence.thread.errand();
        let errand = Errand {
            tokens: std::mem::take(&mut sequence.tokens),
            prompt: sequence.prompt,
            thread: std::mem::replace(&mut sequence.thread, thread),
            left: missing.into(),
        };
        sequence.errand = Some(Box::new(errand));
        sequence.next_errand();
    }

    /// After a step of a sequence that computes for itself what it will be put together from.
    pub(super) fn go_on_with_errand(&mut self, mut sequence: Sequence) {
        if sequence.pending() > 0 {
            return insert(&mut self.running, sequence);
        }
        let (tokens, prompt) = (std::mem::take(&mut sequence.tokens), sequence.prompt);
        let kv = sequence.kv.take();
        self.retire(kv, &mut sequence.thread, &tokens, prompt);
        sequence.next_errand();
        match self.cache.create_with(&sequence.plan) {
            Ok(kv) => sequence.kv = Some(kv.with_spans(&sequence.spans)),
            // The plan was good a moment ago; it will be asked for again where the sequence enters.
            Err(_) => {
                sequence.end_errand();
                return insert(&mut self.waiting, sequence);
            }
        }
        insert(&mut self.running, sequence);
    }
}
