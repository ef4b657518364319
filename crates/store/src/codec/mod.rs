//! How pages are written at rest and in flight.

pub mod cachegen;
mod entropy;
mod layout;
mod lossless;
mod names;
mod zstd;

pub use cachegen::{CacheGen, Learner, Profile};
pub use lossless::Lossless;
pub use names::{UnknownCodec, named};
pub use zstd::Zstd;

use crate::StoreError;

/// Writes pages smaller than the pool holds them, and reads them back.
///
/// A page comes with its header; `decode` gives the whole page again, with a header whose checksum is right for its bytes.
pub trait Codec: Send + Sync {
    /// As users name it, and as files do.
    fn name(&self) -> String;

    /// Whether `decode` gives the same bytes. What others give belongs to a domain of its own.
    fn is_lossless(&self) -> bool;

    /// Appends a page to `out`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for bytes that are no page.
    fn encode(&self, page: &[u8], out: &mut Vec<u8>) -> Result<(), StoreError>;

    /// The page of `len` bytes that was written as `coded`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for anything that `encode` cannot have written. Never panics, never gives more than `len` bytes.
    fn decode(&self, coded: &[u8], len: usize) -> Result<Vec<u8>, StoreError>;
}

/// Pages as they are.
pub struct Plain;

impl Codec for Plain {
    fn name(&self) -> String {
        "none".to_owned()
    }

    fn is_lossless(&self) -> bool {
        true
    }

    fn encode(&self, page: &[u8], out: &mut Vec<u8>) -> Result<(), StoreError> {
        out.extend_from_slice(page);
        Ok(())
    }

    fn decode(&self, coded: &[u8], len: usize) -> Result<Vec<u8>, StoreError> {
        match coded.len() == len {
            true => Ok(coded.to_vec()),
            false => {
                let what = format!("{} bytes for a page of {len}", coded.len());
                Err(StoreError::Corrupt { place: "page".to_owned(), what })
            }
        }
    }
}
