//! Numbers behind the formats: deterministic randomness, elementary functions, small dense linear algebra, clustering.
//!
//! Everything here is sums, products, quotients and square roots in a fixed order: the same seed gives the same bits on
//! every machine, whatever its mathematical library.

pub mod dense;
pub mod elementary;
pub mod kmeans;
pub mod lloyd;
pub mod rng;
#[cfg(test)]
pub(crate) mod sample;

pub use rng::Rng;
