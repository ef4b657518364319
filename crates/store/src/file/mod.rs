//! The KV file, and one block as bytes: `docs/kv-file.md` is the format.
//!
//! - [`record`]: one block as bytes, which is also what tiers and transfers keep; [`head`]: what stands before its
//!   pages.
//! - [`identity`]: whose blocks a file holds and what is known of their model.
//! - [`writer`], [`reader`]: whole files.
//! - [`complete`]: which pages a sequence needs to go on.
//! - `open`, `frame`, `index`, `scan`: what lies around the records, and how they are found without it.

mod bytes;
pub mod complete;
pub mod error;
mod frame;
pub mod head;
pub mod identity;
mod index;
mod open;
pub mod reader;
pub mod record;
mod scan;
mod source;
pub mod writer;

pub use complete::{Layer, Missing};
pub use error::{Damage, FileError};
pub use head::{Entry, Head};
pub use identity::{About, FileIdentity};
pub use reader::{BlockInfo, KvFile};
pub use writer::KvFileWriter;

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u16 = 1;
