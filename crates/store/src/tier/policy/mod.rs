//! Which object goes when a tier is full. Pure state machines that know keys and sizes.
//!
//! A tier has one of them for every tenant, so that what one tenant reads, stores or scans cannot change the order of another's.
//! Neither method looks at the clock: time is in the order of calls. Pins, which do end by the clock, are the shelf's.

mod lru;
mod s3fifo;

pub use lru::Lru;
pub use s3fifo::S3Fifo;

use crate::BlockKey;

/// The order in which objects of one tenant go.
pub trait Policy: Send {
    /// An object came.
    fn insert(&mut self, key: BlockKey, bytes: u64);

    /// It was wanted.
    fn touch(&mut self, key: &BlockKey);

    /// It is gone for another reason than being chosen.
    fn remove(&mut self, key: &BlockKey);

    /// Chooses one of those that may go, and lets it go.
    fn evict(&mut self, may_go: &mut dyn FnMut(&BlockKey) -> bool) -> Option<BlockKey>;
}

/// A [`Policy`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PolicyKind {
    /// [`Lru`].
    Lru,
    /// [`S3Fifo`].
    #[default]
    S3Fifo,
}

impl PolicyKind {
    /// An empty one.
    pub fn build(self) -> Box<dyn Policy> {
        match self {
            PolicyKind::Lru => Box::new(Lru::default()),
            PolicyKind::S3Fifo => Box::new(S3Fifo::default()),
        }
    }
}
