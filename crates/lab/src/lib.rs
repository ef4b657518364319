//! The laboratory: what does a KV cache setting cost in answers, memory and speed?
//!
//! [`quality::measure`] runs recipes and a full-precision reference in lock step over the same tokens and reports
//! everything from that one run; [`sweep`] does so for many tasks and lengths, in a folder that can be continued in.
//!
//! - [`candidate`]: names to caches.
//! - [`data`]: questions from files.
//! - [`measures`]: two next-token distributions compared.
//! - [`statistics`]: quantiles, proportions, bootstrap intervals, all seeded.
//! - [`tasks`]: questions generated from a seed at any length.
//! - [`text`]: files to windows of tokens.
//! - [`quality`]: items and their records.
//! - [`sweep`]: recipes by tasks by lengths.
//! - [`collect`]: records to cells, [`cell`]: what is known about a recipe on one task at one length.
//! - [`tune`]: a quality budget in, a recipe out.
//! - [`report`]: JSON lines with everything needed to repeat it, and what people read.

pub mod candidate;
pub mod cell;
pub mod collect;
pub mod data;
pub mod error;
mod made_up;
pub mod measures;
pub mod quality;
pub mod report;
pub mod statistics;
pub mod subject;
pub mod sweep;
pub mod tasks;
pub mod text;
pub mod tune;

pub use candidate::Candidate;
pub use error::LabError;
pub use subject::Subject;
pub use text::Text;
