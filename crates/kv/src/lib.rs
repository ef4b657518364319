//! The key-value cache: lanes of pages in a byte-budgeted pool, the ledger that knows every byte, and attention over
//! them.
//!
//! The model hands over queries, keys and values **before** rotary position; the cache rotates, stores and attends
//! ([`KvCache::attend`]). Everything a sequence holds is given back when its [`SequenceKv`] is dropped.
//!
//! - [`pool`]: where page bytes live; the [`Ledger`] that is asked before any is taken.
//! - [`page`]: page states as types: writable, sealed, shared.
//! - [`lane`], [`sequence`]: the pages of one KV head of one layer, and of all of them.
//! - [`rope`]: rotary position.
//! - [`encode`]: how keys and values are written; [`plan`]: which lane is written how.
//! - [`recipe`]: methods by name; [`profile`]: what calibration learned about a model.
//! - [`attend`]: how they are read.
//! - [`share`]: what sequences with a common beginning have in common.
//! - [`mend`]: contexts put together from stretches of others.
//! - [`score`], `allot`, [`reduce`]: what is kept of a context, how much of it, and how the rest goes.
//! - [`cache`]: all of it behind one type.

pub mod allot;
pub mod anchor;
pub mod attend;
pub mod cache;
pub mod config;
pub mod encode;
pub mod error;
pub mod lane;
pub mod mend;
pub mod observe;
pub mod page;
pub mod parallel;
pub mod plan;
pub mod pool;
mod products;
pub mod profile;
pub mod recipe;
pub mod record;
pub mod reduce;
pub mod rope;
pub mod score;
pub mod sequence;
pub mod share;

pub use cachalot_kernels::attention::Element;
pub use cache::{KvCache, Segment};
pub use config::{CacheConfig, LayerGeometry, Output};
pub use encode::KvFormat;
pub use error::KvError;
pub use plan::{Body, CachePlan, LanePlan};
pub use pool::ledger::{Ledger, Purpose};
pub use profile::Profile;
pub use recipe::{Recipe, RecipeError, Registry};
pub use record::Recorder;
pub use rope::Rope;
pub use sequence::SequenceKv;
pub use share::SharedBlock;
