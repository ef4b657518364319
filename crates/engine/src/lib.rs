//! Sequences, continuous batching, sampling and streaming.

pub mod constraint;
mod error;
pub mod request;
pub mod sampling;
pub mod stop;
#[cfg(test)]
mod testing;
pub mod text;

pub use constraint::ConstraintSpec;
pub use error::{EngineError, ErrorKind};
pub use request::{Event, FinishReason, Request, Timings, Usage};
pub use sampling::{Sampling, TokenLogprobs, TopLogprob};

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&'static str>().map(|s| s.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}
