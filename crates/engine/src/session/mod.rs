//! Named sessions: conversations whose keys and values survive the process.
//!
//! A session is a KV file in a folder of its tenant ([`Shelf`]), with the conversation in the file's metadata
//! ([`Session`]), and a few files behind it that have what it was before (`segments`). [`Sessions`] ties the files to an engine: it saves what the engine's index holds, brings it back, says
//! truthfully how much of it a request would not compute again, and holds pinned sessions in memory (`pins`).
//!
//! Saved is what is exact. A recipe that reduces its context shares nothing from there on, so its sessions have the whole
//! blocks of the prompt as they were before; the rest is computed again.

mod branch;
mod error;
mod kept;
mod layers;
mod locks;
mod meta;
mod name;
mod pins;
mod restore;
mod segments;
mod shelf;
mod splice;
mod store;
mod turns;
mod wipe;

pub use error::SessionError;
pub use kept::{Kept, Listed};
pub use locks::Guard;
pub use meta::{Session, Turn};
pub use name::SessionName;
pub use restore::Restored;
pub use shelf::{Shelf, Written};
pub use splice::{Spliced, splice};
pub use store::{Saved, SessionConfig, Sessions};
pub use turns::{MAX_MESSAGES, encode, ends};

#[cfg(test)]
mod tests;
