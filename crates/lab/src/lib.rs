//! The laboratory: what does a KV cache setting cost in answers, memory and speed?
//!
//! [`quality::measure`] runs recipes and a full-precision reference in lock step over the same tokens and reports
//! everything from that one run.
//!
//! - [`candidate`]: names to caches.
//! - [`cell`]: what is known about a recipe on one task at one length.
//! - [`measures`]: two next-token distributions compared.
//! - [`statistics`]: quantiles, proportions, bootstrap intervals, all seeded.
//! - [`tasks`]: questions generated from a seed at any length.
//! - [`text`]: files to windows of tokens.
//! - [`quality`]: the run.
//! - [`report`]: JSON lines with everything needed to repeat it, and pages and tables made of them.

pub mod candidate;
pub mod cell;
pub mod error;
pub mod measures;
pub mod quality;
pub mod report;
pub mod statistics;
pub mod subject;
pub mod tasks;
pub mod text;

pub use candidate::Candidate;
pub use error::LabError;
pub use subject::Subject;
pub use text::Text;
