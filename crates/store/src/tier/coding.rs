//! Codecs of a tier: how it writes what it is given.

use crate::StoreError;

/// Writes objects of one tier smaller, or otherwise than they are given. Runs on the threads that read and write, never on the
/// one that asks.
pub trait Coding: Send + Sync {
    /// Tells it from others, also after a restart: what another one wrote is not read but removed.
    fn name(&self) -> &str;

    /// Most bytes that `encode` makes of `len`: reserved before they are written.
    fn most(&self, len: usize) -> usize;

    /// The object's bytes as they are written.
    ///
    /// # Errors
    /// For bytes it does not take; they are not kept then.
    fn encode(&self, bytes: &[u8]) -> Result<Vec<u8>, StoreError>;

    /// The bytes that were given to `encode`. Damage is found by the tier, before.
    ///
    /// # Errors
    /// For anything that `encode` cannot have written.
    fn decode(&self, coded: &[u8]) -> Result<Vec<u8>, StoreError>;
}
