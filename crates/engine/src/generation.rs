//! A request as its client sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::sync::mpsc::UnboundedReceiver;

use crate::{EngineError, Event};

/// The events of one request. Dropping it cancels the request.
///
/// The channel is not bounded, so that one slow reader never holds up a batch. It stays small even so: a request has
/// at most one event for each of its tokens, and `max_tokens` or the context bounds those.
pub struct Generation {
    events: UnboundedReceiver<Event>,
    cancelled: Arc<AtomicBool>,
    done: bool,
}

impl Generation {
    pub(crate) fn new(events: UnboundedReceiver<Event>, cancelled: Arc<AtomicBool>) -> Generation {
        Generation { events, cancelled, done: false }
    }

    /// The next event; `None` after [`Event::Done`]. If the engine ends before the request does, there is an
    /// [`EngineError::Stopped`] instead of the rest.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// [`Generation::next`] for streams.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.done {
            return Poll::Ready(None);
        }
        self.events.poll_recv(context).map(|event| Some(self.noted(event)))
    }

    /// [`Generation::next`] for threads that may block. Not for asynchronous code: tokio panics there.
    pub fn next_blocking(&mut self) -> Option<Event> {
        if self.done {
            return None;
        }
        let event = self.events.blocking_recv();
        Some(self.noted(event))
    }

    /// No further tokens are wanted. The events up to [`Event::Done`] still come, with
    /// [`crate::FinishReason::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    fn noted(&mut self, event: Option<Event>) -> Event {
        self.done = matches!(event, None | Some(Event::Done(_)));
        event.unwrap_or(Event::Error(EngineError::Stopped))
    }
}
