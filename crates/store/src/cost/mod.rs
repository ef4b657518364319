//! Load or compute again: what things cost on this machine, and which way is the fastest. No clock in here.
//!
//! - [`fit`]: times as a linear model that follows the machine.
//! - [`model`]: prefill, tiers and codecs as such models.
//! - [`file`]: what was learned, kept over a restart.
//! - [`plan`]: which blocks of a prompt are read, and which are computed meanwhile and afterwards.
//! - [`transfer`]: whether and how keys and values are coded for a journey, or go as text.

pub mod file;
pub mod fit;
pub mod model;
pub mod plan;
pub mod transfer;

pub use file::CostFile;
pub use fit::Fit;
pub use model::CostModel;
pub use plan::{Demand, Plan, Source, decide};

#[cfg(test)]
mod tests;
