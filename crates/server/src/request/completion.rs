//! The body of `POST /v1/completions`.

use serde_json::Value;

use super::common::Common;
use super::fields::{Fields, token_id};
use super::{Limits, MAX_CHOICES, MAX_LOGPROBS, parse_json};
use crate::error::ApiError;

/// Tokens generated when the client names no number; OpenAI's default on this endpoint.
const DEFAULT_MAX_TOKENS: usize = 16;

/// One prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Text to be tokenized.
    Text(String),
    /// Token ids of this model, at least one.
    Tokens(Vec<u32>),
}

/// A checked text completion request.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// What both endpoints share.
    pub common: Common,
    /// At least one prompt; `n` choices are made for each.
    pub prompts: Vec<Prompt>,
    /// The answer begins with the prompt.
    pub echo: bool,
    /// Log-probabilities with that many alternatives per token.
    pub logprobs: Option<usize>,
}

impl CompletionRequest {
    /// Parse a body.
    ///
    /// # Errors
    /// 400, see the module.
    pub fn parse(body: &[u8], limits: &Limits) -> Result<CompletionRequest, ApiError> {
        let value = parse_json(body)?;
        let fields = Fields::of(&value, "")?;
        let mut common = Common::parse(&fields, limits)?;
        if common.session.is_some() {
            let how = "Sessions are gone on with by chats; send 'messages' to /v1/chat/completions.";
            return Err(ApiError::unsupported("kv.session", how));
        }
        common.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS);
        let prompts = prompts(fields.require("prompt")?, limits)?;
        let choices = prompts.len().saturating_mul(common.n);
        if choices > MAX_CHOICES as usize {
            return Err(ApiError::invalid(
                "n",
                format!(
                    "Invalid value for 'n': {} prompts with {} choices each are {choices} answers, at most \
                     {MAX_CHOICES} are allowed in one request.",
                    prompts.len(),
                    common.n
                ),
            ));
        }
        if fields.string("suffix")?.is_some_and(|s| !s.is_empty()) {
            return Err(ApiError::unsupported("suffix", "'suffix' is not supported by this server."));
        }
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let logprobs = fields.count("logprobs", 0, MAX_LOGPROBS)?;
        if echo && logprobs.is_some() {
            // Lists that begin after the prompt would be taken for those of the prompt.
            return Err(ApiError::unsupported(
                "echo",
                "'echo' together with 'logprobs' is not supported: this server has no log-probabilities of prompts.",
            ));
        }
        Ok(CompletionRequest { common, prompts, echo, logprobs })
    }
}

fn prompts(value: &Value, limits: &Limits) -> Result<Vec<Prompt>, ApiError> {
    const EXPECTED: &str = "a string, an array of strings, an array of token ids, or an array of arrays of token ids";
    match value {
        Value::String(_) => Ok(vec![text("prompt", value)?]),
        Value::Array(list) => match list.first() {
            None => Err(ApiError::invalid("prompt", "Invalid value for 'prompt': the list is empty.")),
            Some(Value::Number(_)) => Ok(vec![tokens("prompt", list, limits)?]),
            Some(_) => list
                .iter()
                .enumerate()
                .map(|(i, item)| {
                    let path = format!("prompt[{i}]");
                    match item {
                        Value::Array(ids) => tokens(&path, ids, limits),
                        other => text(&path, other),
                    }
                })
                .collect(),
        },
        other => Err(ApiError::wrong_type("prompt", EXPECTED, other)),
    }
}

fn text(path: &str, value: &Value) -> Result<Prompt, ApiError> {
    match value {
        Value::String(s) if s.is_empty() => {
            Err(ApiError::invalid(path, format!("Invalid value for '{path}': the prompt is empty.")))
        }
        Value::String(s) => Ok(Prompt::Text(s.clone())),
        other => Err(ApiError::wrong_type(path, "a string or an array of token ids", other)),
    }
}

fn tokens(path: &str, ids: &[Value], limits: &Limits) -> Result<Prompt, ApiError> {
    if ids.is_empty() {
        return Err(ApiError::invalid(path, format!("Invalid value for '{path}': the prompt is empty.")));
    }
    ids.iter()
        .enumerate()
        .map(|(i, id)| token_id(&format!("{path}[{i}]"), id, limits.vocab))
        .collect::<Result<_, _>>()
        .map(Prompt::Tokens)
}
