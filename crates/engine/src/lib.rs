//! Sequences, continuous batching, sampling and streaming.
//!
//! A [`Request`] goes into an [`Engine`] through its [`EngineHandle`]; a [`Generation`] of [`Event`]s comes back. One
//! thread steps: it asks the [`scheduler::Scheduler`] for a batch, the model for logits, and samples.
//!
//! - [`scheduler`]: who is in a step, with how many tokens; a state machine without threads or clock.
//! - [`sampling`]: from logits to a token, reproducibly.
//! - [`constraint`]: JSON schemas, regular expressions and grammars.
//! - [`stop`], [`text`]: from tokens to text that ends where it should.
//! - [`limits`], [`queue`]: what is refused, and when.
//! - [`recipes`]: how requests want their cache kept.
//! - [`replay`]: answers compared with what the exact cache would have said.
//! - [`batching`]: the order of prompts that are all known beforehand.
//! - [`reuse`]: what was computed once stays for those that begin with the same tokens.
//! - [`blend`]: and for those that have stretches of them elsewhere, where that is allowed.
//! - [`session`]: named conversations that survive the process.
//! - [`observe`]: the table of metrics.

pub mod batching;
pub mod beam;
pub mod blend;
pub mod config;
pub mod constraint;
mod deletion;
pub mod engine;
mod error;
pub mod generation;
pub mod limits;
pub mod observe;
pub mod queue;
pub mod recipes;
pub mod replay;
pub mod request;
pub mod reuse;
pub mod sampling;
pub mod scheduler;
pub mod session;
pub mod stop;
#[cfg(test)]
mod testing;
pub mod text;

pub use beam::{Beam, Stopping};
pub use blend::{Blend, EditId, Scope};
pub use config::{EngineConfig, EngineStats};
pub use constraint::ConstraintSpec;
pub use deletion::{Closed, Deletion};
pub use engine::{Engine, EngineHandle};
pub use error::{EngineError, ErrorKind};
pub use generation::Generation;
pub use observe::describe as describe_metrics;
pub use replay::{Divergence, KvReport, ReplayConfig, ReportSpec, Skipped};
pub use request::{Event, FinishReason, Request, Timings, Usage};
pub use reuse::{Explanation, Pinned, ReuseConfig};
pub use sampling::{Sampling, TokenLogprobs, TopLogprob};

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&'static str>().map(|s| s.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}
