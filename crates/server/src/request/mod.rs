//! Request bodies, parsed into typed values. Nothing behind this module sees JSON that was not checked.
//!
//! Rules, the same for every endpoint: invalid JSON is a 400 that says where; a wrong type or a number outside its range
//! is a 400 whose `param` is the field's path; `null` counts as absent; unknown fields are ignored.

mod chat;
mod common;
mod completion;
mod fields;
mod format;
mod kv;

pub use chat::{ChatMessage, ChatRequest, Conversation};
pub use common::{Common, SamplingFields};
pub use completion::{CompletionRequest, Prompt};
pub use fields::Fields;
pub use format::OutputFormat;
pub(crate) use kv::reuse;

use crate::error::ApiError;
use serde_json::Value;

/// Largest `n`, and largest `n` times the number of prompts of one request.
pub const MAX_CHOICES: u32 = 128;
/// Largest number of alternatives per token that `logprobs` may ask for.
pub const MAX_LOGPROBS: u32 = 20;
/// Largest number of stop strings.
pub const MAX_STOPS: usize = 16;
/// Longest stop string in bytes: the engine holds back that much text while it compares.
pub const MAX_STOP_BYTES: usize = 1024;

/// What the parsers must know about the model that is served.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Number of token ids.
    pub vocab: usize,
    /// The KV recipe the server runs with, which may have a name that only the server knows.
    pub kv_recipe: String,
}

/// Parse a body as JSON.
///
/// # Errors
/// 400 with line and column.
pub fn parse_json(body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Err(ApiError::bad_request("invalid_json", "The request body is empty; send a JSON object."));
    }
    serde_json::from_slice(body)
        .map_err(|e| ApiError::bad_request("invalid_json", format!("The request body is not valid JSON: {e}.")))
}
