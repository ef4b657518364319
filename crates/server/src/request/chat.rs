//! The body of `POST /v1/chat/completions`.

use serde_json::{Map, Value};

use super::common::Common;
use super::fields::Fields;
use super::{Limits, MAX_LOGPROBS, parse_json};
use crate::error::{ApiError, shorten};

/// One turn of the conversation, its content flattened to text.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant` or `tool`; OpenAI's `developer` arrives as `system`.
    pub role: String,
    /// Text; the parts of a content array joined as they stand. Empty for an assistant turn of tool calls only.
    pub content: String,
    /// Name of the speaker.
    pub name: Option<String>,
    /// Tool calls of an assistant turn, as the client sent them.
    pub tool_calls: Option<Value>,
    /// The call that a `tool` turn answers.
    pub tool_call_id: Option<String>,
}

/// What the chat template turns into a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// At least one turn.
    pub messages: Vec<ChatMessage>,
    /// Tool definitions; `None` when there are none or `tool_choice` is `none`.
    pub tools: Option<Value>,
    /// Texts of the parts that the client marked with `"cache": "chunk"`, in order.
    pub chunks: Vec<String>,
    /// Further variables of the template, such as `enable_thinking`: the field `chat_template_kwargs`.
    pub arguments: Option<Map<String, Value>>,
}

/// A checked chat request.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// What both endpoints share.
    pub common: Common,
    /// The prompt to be.
    pub chat: Conversation,
    /// Log-probabilities with that many alternatives per token.
    pub logprobs: Option<usize>,
}

impl ChatRequest {
    /// Parse a body.
    ///
    /// # Errors
    /// 400, see the module.
    pub fn parse(body: &[u8], limits: &Limits) -> Result<ChatRequest, ApiError> {
        let value = parse_json(body)?;
        let fields = Fields::of(&value, "")?;
        let mut common = Common::parse(&fields, limits)?;
        // The newer name of the same limit wins.
        if let Some(most) = fields.count("max_completion_tokens", 1, i32::MAX as u32)? {
            common.max_tokens = Some(most);
        }
        let mut chunks = Vec::new();
        let chat = Conversation {
            messages: messages(&fields, &mut chunks)?,
            chunks,
            tools: tools(&fields)?,
            arguments: match fields.get("chat_template_kwargs") {
                None => None,
                Some(Value::Object(map)) => Some(map.clone()),
                Some(other) => return Err(ApiError::wrong_type("chat_template_kwargs", "an object", other)),
            },
        };
        Ok(ChatRequest { common, chat, logprobs: logprobs(&fields)? })
    }
}

fn messages(fields: &Fields<'_>, chunks: &mut Vec<String>) -> Result<Vec<ChatMessage>, ApiError> {
    match fields.require("messages")? {
        Value::Array(list) if list.is_empty() => Err(ApiError::invalid(
            "messages",
            "Invalid value for 'messages': the list is empty; send at least one message.",
        )),
        Value::Array(list) => {
            list.iter().enumerate().map(|(i, m)| message(&format!("messages[{i}]"), m, chunks)).collect()
        }
        other => Err(ApiError::wrong_type("messages", "an array of messages", other)),
    }
}

fn message(path: &str, value: &Value, chunks: &mut Vec<String>) -> Result<ChatMessage, ApiError> {
    let fields = Fields::of(value, path)?;
    fields.require("role")?;
    let role = match fields.word("role", &["system", "developer", "user", "assistant", "tool", "function"])? {
        Some("developer") | None => "system",
        Some("function") => "tool",
        Some(role) => role,
    };
    let tool_calls = match fields.get("tool_calls") {
        Some(list @ Value::Array(_)) if role == "assistant" => Some(list.clone()),
        Some(Value::Array(_)) | None => None,
        Some(other) => return Err(ApiError::wrong_type(fields.path("tool_calls"), "an array", other)),
    };
    let content = match fields.get("content") {
        None if tool_calls.is_some() => String::new(),
        None => return Err(ApiError::missing(fields.path("content"))),
        Some(value) => content(&fields.path("content"), value, chunks)?,
    };
    Ok(ChatMessage {
        role: role.to_string(),
        content,
        name: fields.string("name")?.map(str::to_string),
        tool_calls,
        tool_call_id: fields.string("tool_call_id")?.map(str::to_string),
    })
}

fn content(path: &str, value: &Value, chunks: &mut Vec<String>) -> Result<String, ApiError> {
    let parts = match value {
        Value::String(s) => return Ok(s.clone()),
        Value::Array(parts) => parts,
        other => return Err(ApiError::wrong_type(path, "a string or an array of text parts", other)),
    };
    let mut text = String::new();
    for (i, part) in parts.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let part = Fields::of(part, &path)?;
        part.require("type")?;
        match part.string("type")? {
            Some("text" | "input_text" | "output_text") => {
                part.require("text")?;
                let own = part.string("text")?.unwrap_or_default();
                text.push_str(own);
                if part.word("cache", &["chunk"])?.is_some() {
                    chunks.push(own.to_owned());
                }
            }
            other => {
                return Err(ApiError::unsupported(
                    part.path("type"),
                    format!(
                        "Content parts of type '{}' are not supported by this model; send parts of type 'text'.",
                        shorten(other.unwrap_or_default())
                    ),
                ));
            }
        }
    }
    Ok(text)
}

fn tools(fields: &Fields<'_>) -> Result<Option<Value>, ApiError> {
    let tools = match fields.get("tools") {
        None => None,
        Some(Value::Array(list)) if list.is_empty() => None,
        Some(value @ Value::Array(list)) => {
            for (i, tool) in list.iter().enumerate() {
                let path = format!("tools[{i}]");
                let tool = Fields::of(tool, &path)?;
                tool.require("type")?;
                tool.word("type", &["function"])?;
                let path = tool.path("function");
                let function = Fields::of(tool.require("function")?, &path)?;
                function.require("name")?;
                function.string("name")?;
            }
            Some(value.clone())
        }
        Some(other) => return Err(ApiError::wrong_type("tools", "an array of tools", other)),
    };
    match fields.get("tool_choice") {
        None => Ok(tools),
        Some(Value::String(s)) if s == "auto" => Ok(tools),
        Some(Value::String(s)) if s == "none" => Ok(None),
        // Accepting these would promise a call that nothing enforces.
        Some(Value::String(s)) => Err(ApiError::unsupported(
            "tool_choice",
            format!("tool_choice '{}' is not supported by this server; send 'auto' or 'none'.", shorten(s)),
        )),
        Some(Value::Object(_)) => Err(ApiError::unsupported(
            "tool_choice",
            "Forcing one tool is not supported by this server; send 'auto' or 'none'.",
        )),
        Some(other) => Err(ApiError::wrong_type("tool_choice", "a string", other)),
    }
}

fn logprobs(fields: &Fields<'_>) -> Result<Option<usize>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    match fields.count("top_logprobs", 0, MAX_LOGPROBS)? {
        Some(top) if wanted => Ok(Some(top)),
        None if wanted => Ok(Some(0)),
        Some(top) if top > 0 => {
            Err(ApiError::invalid("top_logprobs", "'top_logprobs' is only allowed when 'logprobs' is true."))
        }
        _ => Ok(None),
    }
}
