//! Blocks at rest and in flight: what they are called, how they are written, where they lie.
//!
//! - [`key`]: who a block belongs to and what it is called, 256 bits over every field that changes its bytes.
//! - [`block`]: the pages of all lanes for one span of tokens.
//! - [`codec`]: how a page is written at rest.
//! - [`file`]: the KV file, and one block as bytes.

pub mod block;
pub mod codec;
pub mod error;
pub mod file;
pub mod key;

pub use block::{Block, Form, Page};
pub use codec::Codec;
pub use error::StoreError;
pub use key::{BlockKey, Domain, Identity};
