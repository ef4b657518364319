//! Actions on their way to threads. Their number is bounded by what the machine has in its account, not here.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::tier::machine::Action;

/// Two lines: what somebody waits for goes before what nobody does.
#[derive(Default)]
pub struct Queue {
    lines: Mutex<Lines>,
    filled: Condvar,
}

#[derive(Default)]
struct Lines {
    urgent: VecDeque<Action>,
    calm: VecDeque<Action>,
    closed: bool,
}

impl Queue {
    /// Adds one.
    pub fn push(&self, action: Action, urgent: bool) {
        let mut lines = self.lock();
        if urgent {
            lines.urgent.push_back(action)
        } else {
            lines.calm.push_back(action)
        }
        drop(lines);
        // Not every thread takes calm ones; a single one that is woken might be such.
        self.filled.notify_all();
    }

    /// The next, and as many writes that follow it as may go together; `None` when it is closed.
    pub fn take(&self, calm: bool, together: usize) -> Option<Vec<Action>> {
        let mut lines = self.lock();
        loop {
            if lines.closed {
                return None;
            }
            let line = if lines.urgent.is_empty() && calm { &mut lines.calm } else { &mut lines.urgent };
            if let Some(first) = line.pop_front() {
                let mut taken = vec![first];
                while taken.len() < together
                    && matches!(taken.last(), Some(Action::Write { .. }))
                    && let Some(next) = line.pop_front_if(|next| matches!(next, Action::Write { .. }))
                {
                    taken.push(next);
                }
                return Some(taken);
            }
            lines = self.filled.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the threads that take from it; what nobody took yet is let go.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
