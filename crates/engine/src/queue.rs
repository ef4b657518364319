//! Places in the queue: nobody waits without one, so the queue cannot grow beyond its limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::EngineError;

/// The waiting room of one engine; clones are the same room.
#[derive(Clone)]
pub struct Queue {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

impl Queue {
    /// A room for `limit` requests.
    pub fn new(limit: usize) -> Queue {
        Queue { taken: Arc::default(), limit }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`].
    pub fn enter(&self) -> Result<Place, EngineError> {
        let taken = self.taken.fetch_update(Relaxed, Relaxed, |taken| (taken < self.limit).then_some(taken + 1));
        match taken {
            Ok(_) => Ok(Place(self.taken.clone())),
            Err(queued) => Err(EngineError::QueueFull { queued, limit: self.limit }),
        }
    }

    /// Places taken.
    pub fn len(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A place in the queue, given back when dropped.
pub struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let queue = Queue::new(2);
        let (a, _b) = (queue.enter().unwrap(), queue.enter().unwrap());
        assert_eq!(queue.enter().err(), Some(EngineError::QueueFull { queued: 2, limit: 2 }));
        drop(a);
        assert_eq!(queue.len(), 1);
        assert!(queue.enter().is_ok());
    }
}
