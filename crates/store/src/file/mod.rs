//! The KV file, and one block as bytes: `docs/kv-file.md` is the format.
//!
//! - [`record`]: one block as bytes, which is also what tiers and transfers keep; [`head`]: what stands before its pages.

mod bytes;
pub mod error;
pub mod head;
pub mod record;

pub use error::{Damage, FileError};
pub use head::{Entry, Head};

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u16 = 1;
