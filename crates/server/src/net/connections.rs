//! The open connections, and whose turn it is to go when there are too many.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use metrics::gauge;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A connection idle for less than this is not closed in favour of a new one: it may be about to speak.
const PATIENCE: Duration = Duration::from_secs(1);

/// All open connections, at most `max`.
pub(crate) struct Connections {
    max: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    slots: BTreeMap<u64, Arc<ConnectionState>>,
}

/// What one connection is doing.
pub(crate) struct ConnectionState {
    activity: Mutex<Activity>,
    evict: Notify,
}

struct Activity {
    answering: usize,
    idle_since: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    pub fn new(max: usize) -> Connections {
        Connections { max: max.max(1), open: Mutex::default() }
    }

    pub fn len(&self) -> usize {
        lock(&self.open).slots.len()
    }

    /// A place for a new connection. When all are taken, the one that has been idle longest loses its place; when none
    /// has been idle for a while, there is no place.
    pub fn admit(self: &Arc<Self>) -> Option<Slot> {
        let mut open = lock(&self.open);
        if open.slots.len() >= self.max {
            let now = Instant::now();
            let idle = |s: &ConnectionState| {
                let activity = lock(&s.activity);
                (activity.answering == 0 && now - activity.idle_since >= PATIENCE).then_some(activity.idle_since)
            };
            let longest = open.slots.iter().filter_map(|(k, s)| idle(s).map(|since| (since, *k))).min()?;
            if let Some(state) = open.slots.remove(&longest.1) {
                state.evict.notify_one();
            }
        }
        let key = open.next;
        open.next += 1;
        let activity = Mutex::new(Activity { answering: 0, idle_since: Instant::now() });
        let state = Arc::new(ConnectionState { activity, evict: Notify::new() });
        open.slots.insert(key, Arc::clone(&state));
        gauge!("cachalot_http_connections").set(open.slots.len() as f64);
        Some(Slot { key, state, connections: Arc::clone(self) })
    }
}

/// A connection's place; given back when dropped.
pub(crate) struct Slot {
    key: u64,
    state: Arc<ConnectionState>,
    connections: Arc<Connections>,
}

impl Slot {
    pub fn state(&self) -> Arc<ConnectionState> {
        Arc::clone(&self.state)
    }

    /// Waits until the place is needed for somebody else.
    pub async fn evicted(&self) {
        self.state.evict.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = lock(&self.connections.open);
        open.slots.remove(&self.key);
        gauge!("cachalot_http_connections").set(open.slots.len() as f64);
    }
}

/// Marks a connection as busy from the arrival of a request until its answer is sent.
pub(crate) struct Answering(Arc<ConnectionState>);

impl Answering {
    pub fn begin(state: &Arc<ConnectionState>) -> Answering {
        lock(&state.activity).answering += 1;
        Answering(Arc::clone(state))
    }

    /// The same body; the mark goes with it.
    pub fn until_sent(self, body: Body) -> Marked {
        Marked { body, _answering: self }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut activity = lock(&self.0.activity);
        activity.answering -= 1;
        activity.idle_since = Instant::now();
    }
}

/// A response body that carries its connection's mark.
pub(crate) struct Marked {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Marked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_makes_room_and_a_busy_one_never_does() {
        let connections = Arc::new(Connections::new(2));
        let first = connections.admit().unwrap();
        let second = connections.admit().unwrap();
        // Both have only just come.
        assert!(connections.admit().is_none());
        let busy = Answering::begin(&first.state());
        tokio::time::advance(PATIENCE).await;
        let third = connections.admit().expect("the second is idle");
        assert!(second.evicted().now_or_never().is_some());
        assert!(first.evicted().now_or_never().is_none());
        // The evicted one ends later and must not take the place of its successor with it.
        drop(second);
        assert_eq!(connections.len(), 2);
        let also_busy = Answering::begin(&third.state());
        tokio::time::advance(PATIENCE * 2).await;
        assert!(connections.admit().is_none());
        drop(busy);
        assert!(connections.admit().is_none(), "idle, but only just");
        tokio::time::advance(PATIENCE).await;
        assert!(connections.admit().is_some());
        drop(also_busy);
    }
}
