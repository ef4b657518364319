//! Lines of the input, each a request or what is wrong with it.

use cachalot_server::request::{ChatRequest, Common, CompletionRequest, Limits, Prompt};
use cachalot_server::{ApiError, Backend, EngineBackend};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Tokens of an answer to a simple prompt whose line does not say, as `cachalot run` has it.
const SIMPLE_TOKENS: usize = 256;

/// One line of the input.
pub struct Line {
    /// Counted from one.
    pub number: usize,
    /// What the answer is to be called.
    pub custom_id: Option<String>,
    pub asked: Result<Asked, Refusal>,
}

/// A request that can be answered.
pub struct Asked {
    /// A turn of a chat, or a text that goes on.
    pub chat: bool,
    pub prompt: Vec<u32>,
    pub common: Common,
}

/// Why a line is not answered.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub param: Option<String>,
}

impl Refusal {
    fn new(message: impl Into<String>) -> Refusal {
        Refusal { code: "invalid_line".into(), message: message.into(), param: None }
    }

    fn unsupported(param: &str) -> Refusal {
        ApiError::unsupported(param, format!("'{param}' has no place in a batch; leave it out.")).into()
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Refusal {
        Refusal { code: error.code.unwrap_or(error.kind).into(), message: error.message, param: error.param }
    }
}

/// A refused line, for a person.
pub fn words(line: &Line, error: &Refusal) -> String {
    let id = line.custom_id.as_ref().map_or(String::new(), |id| format!(" ({id})"));
    format!("line {}{id}: {}", line.number, error.message)
}

/// Reads lines for one model.
pub struct Reader<'a> {
    backend: &'a EngineBackend,
    limits: Limits,
    max_tokens: Option<usize>,
}

impl<'a> Reader<'a> {
    /// `max_tokens` is for lines that do not say.
    pub fn new(backend: &'a EngineBackend, max_tokens: Option<usize>) -> Reader<'a> {
        let info = backend.info();
        let limits = Limits { vocab: info.vocab, kv_recipe: info.kv_recipe.clone() };
        Reader { backend, limits, max_tokens }
    }

    /// All lines but empty ones.
    pub fn lines(&self, bytes: &[u8]) -> Vec<Line> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let bar = crate::load::bar("reading");
        bar.set_length(bytes.len() as u64);
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut lines = Vec::new();
        for (i, text) in bytes.split(|&byte| byte == b'\n').enumerate() {
            bar.inc(text.len() as u64 + 1);
            if text.trim_ascii().is_empty() {
                continue;
            }
            let (custom_id, mut asked) = self.line(text);
            if let Some(id) = &custom_id
                && let Some(first) = known.insert(id.clone(), i + 1)
            {
                asked = Err(Refusal::new(format!("the id `{id}` is that of line {first}; give every line its own")));
            }
            lines.push(Line { number: i + 1, custom_id, asked });
        }
        bar.finish_and_clear();
        lines
    }

    fn line(&self, text: &[u8]) -> (Option<String>, Result<Asked, Refusal>) {
        let object = match serde_json::from_slice(text) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return (None, Err(Refusal::new("a request is a JSON object"))),
            Err(error) => return (None, Err(Refusal::new(format!("not valid JSON: {error}")))),
        };
        let id = match object.get("custom_id").or(object.get("id")) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(id)) => Ok(Some(id.clone())),
            Some(Value::Number(id)) => Ok(Some(id.to_string())),
            Some(_) => Err(Refusal::new("the id is neither a string nor a number")),
        };
        match id {
            Ok(id) => (id, self.asked(object)),
            Err(error) => (None, Err(error)),
        }
    }

    fn asked(&self, mut object: Map<String, Value>) -> Result<Asked, Refusal> {
        let Some(body) = object.remove("body") else {
            let chat = match (object.contains_key("messages"), object.contains_key("prompt")) {
                (true, false) => true,
                (false, true) => false,
                _ => return Err(Refusal::new("a request has either `body`, `messages` or `prompt`")),
            };
            return self.body(Value::Object(object), chat, SIMPLE_TOKENS);
        };
        if let Some(method) = object.get("method").filter(|method| *method != "POST") {
            return Err(Refusal::new(format!("the method is POST, not {method}")));
        }
        let chat = match object.get("url").and_then(Value::as_str) {
            Some("/v1/chat/completions") => true,
            Some("/v1/completions") => false,
            _ => return Err(Refusal::new("`url` must be /v1/chat/completions or /v1/completions")),
        };
        // What the API says of text completions.
        self.body(body, chat, 16)
    }

    /// A body of the HTTP API. `tokens` are generated after a text where neither it nor the command says how many.
    fn body(&self, body: Value, chat: bool, tokens: usize) -> Result<Asked, Refusal> {
        let says = ["max_tokens", "max_completion_tokens"];
        let says = says.iter().any(|name| body.get(name).is_some_and(|value| !value.is_null()));
        let text = body.to_string();
        let (mut common, prompt, logprobs) = if chat {
            let ChatRequest { common, chat, logprobs } = ChatRequest::parse(text.as_bytes(), &self.limits)?;
            let prompt = self.backend.encode_chat(&chat).map_err(|reason| {
                ApiError::invalid("messages", format!("The messages cannot be given to this model: {reason}."))
            })?;
            (common, prompt, logprobs)
        } else {
            let mut request = CompletionRequest::parse(text.as_bytes(), &self.limits)?;
            if request.echo {
                return Err(Refusal::unsupported("echo"));
            }
            let prompt = match (request.prompts.pop(), request.prompts.len()) {
                (Some(Prompt::Tokens(ids)), 0) => ids,
                (Some(Prompt::Text(text)), 0) => self.backend.encode_text(&text).map_err(|reason| {
                    ApiError::invalid("prompt", format!("The prompt cannot be given to this model: {reason}."))
                })?,
                _ => return Err(ApiError::invalid("prompt", "A line of a batch has one prompt.").into()),
            };
            (request.common, prompt, request.logprobs)
        };
        let refused =
            [("stream", common.stream), ("logprobs", logprobs.is_some()), ("kv.report", common.report.is_some())];
        if let Some((field, _)) = refused.into_iter().find(|(_, present)| *present) {
            return Err(Refusal::unsupported(field));
        }
        if !says {
            common.max_tokens = self.max_tokens.or((!chat).then_some(tokens));
        }
        Ok(Asked { chat, prompt, common })
    }
}
