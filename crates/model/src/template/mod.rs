//! Chat templates: messages to a prompt, as the model's authors wrote it down in Jinja.
//!
//! What a user writes must not be able to end a turn or begin another. A template only joins strings, so after
//! rendering nobody can tell `<|im_end|>` of the template from `<|im_end|>` of a message. [`ChatTemplate::encode`]
//! therefore renders a second time when a message spells a control token, with a private-use character put behind the
//! first character of each such place. The template sees the same text as before as far as trimming, splitting and
//! comparing go; the marks show which places of the prompt came from outside; there, and only there, control tokens are
//! not recognised. The rest of the prompt is tokenized as one text, so ids equal those of the reference.

mod python;
mod source;

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Rest;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde_json::{Map, Value as Json};

use crate::ModelError;
use crate::gguf::Metadata;
use crate::tokenizer::Tokenizer;
use source::Sources;

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// The text; empty where a message has only tool calls.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub content: String,
    /// Everything else a template may look at: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`.
    #[serde(flatten)]
    pub extra: Map<String, Json>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    Ok(<Option<String> as serde::Deserialize>::deserialize(d)?.unwrap_or_default())
}

impl Message {
    /// A message with a role and a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into(), extra: Map::new() }
    }
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedPrompt {
    /// The prompt.
    pub text: String,
    /// Byte offsets in `text`, ascending, at which no control token may be recognised because the characters there came
    /// from a message. Empty when made by [`ChatTemplate::render`].
    pub literal: Vec<usize>,
}

/// A model's chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    /// `bos_token`, `eos_token` and the like, as the template may print them.
    tokens: Vec<(&'static str, String)>,
    has_tool_template: bool,
}

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

impl ChatTemplate {
    /// The template of a Hugging Face folder; `None` if it has none.
    ///
    /// # Errors
    /// A file that cannot be read, or a template that is not Jinja.
    pub fn from_hf(dir: &std::path::Path, tokenizer: &Tokenizer) -> Result<Option<Self>, ModelError> {
        Self::from_sources(Sources::from_hf(dir)?, tokenizer)
    }

    /// The template in the metadata of a GGUF file; `None` if it has none.
    ///
    /// # Errors
    /// A key of the wrong type, or a template that is not Jinja.
    pub fn from_gguf(meta: &Metadata, tokenizer: &Tokenizer) -> Result<Option<Self>, ModelError> {
        Self::from_sources(Sources::from_gguf(meta)?, tokenizer)
    }

    /// A template from its text.
    ///
    /// # Errors
    /// [`ModelError::Template`] with the line if the text is not Jinja.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self, ModelError> {
        Self::compile(Sources(vec![(DEFAULT.into(), source.into())]), tokenizer)
    }

    fn from_sources(sources: Sources, tokenizer: &Tokenizer) -> Result<Option<Self>, ModelError> {
        if sources.get(DEFAULT).is_none() {
            return Ok(None);
        }
        Self::compile(sources, tokenizer).map(Some)
    }

    fn compile(sources: Sources, tokenizer: &Tokenizer) -> Result<Self, ModelError> {
        let mut env = environment()?;
        for (name, text) in &sources.0 {
            env.add_template_owned(name.clone(), plain_jinja(text)).map_err(|e| refused(&e))?;
        }
        let token = |id: Option<u32>| Some(String::from_utf8_lossy(tokenizer.token_spelling(id?)).into_owned());
        let ids = [
            ("bos_token", tokenizer.bos()),
            ("eos_token", tokenizer.main_eos()),
            ("pad_token", tokenizer.pad()),
            ("unk_token", tokenizer.unk()),
        ];
        Ok(ChatTemplate {
            env,
            source: sources.get(DEFAULT).unwrap_or_default().to_owned(),
            tokens: ids.into_iter().filter_map(|(name, id)| Some((name, token(id)?))).collect(),
            has_tool_template: sources.get(TOOL_USE).is_some(),
        })
    }

    /// Sets the clock behind `strftime_now`; the system's otherwise. Dates are in UTC.
    pub fn with_clock(mut self, now: fn() -> SystemTime) -> Self {
        add_clock(&mut self.env, now);
        self
    }

    /// The template's text, as it came with the model.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The template of a model that must have one.
    ///
    /// # Errors
    /// [`ModelError::Template`] that says what to do without.
    pub fn require(template: Option<&Self>) -> Result<&Self, ModelError> {
        template.ok_or_else(|| ModelError::Template {
            reason: "this model has none, so it cannot chat; use plain completion instead \
                     (`cachalot run -p TEXT` without --chat, or POST /v1/completions)"
                .into(),
        })
    }

    /// Renders a conversation. `add_generation_prompt` ends it with the beginning of the assistant's turn; `tools` is the
    /// request's list of tools; `extra` are further variables (`enable_thinking`).
    ///
    /// Do not tokenize the result with control tokens recognised if any of it came from outside:
    /// [`encode`](Self::encode) is for that.
    ///
    /// # Errors
    /// [`ModelError::Template`] with the template's line, also when the template itself refuses the conversation;
    /// [`ModelError::Prompt`] if there are no messages.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        tools: Option<&Json>,
        extra: Option<&Map<String, Json>>,
    ) -> Result<RenderedPrompt, ModelError> {
        let text = self.run(messages, add_generation_prompt, tools, extra, &mut str::to_owned)?;
        Ok(RenderedPrompt { text, literal: Vec::new() })
    }

    /// As [`render`](Self::render), and finds the places that came from outside and spell control tokens of `tokenizer`.
    ///
    /// # Errors
    /// As [`render`](Self::render); [`ModelError::Prompt`] if such places cannot be told from the template's own.
    pub fn prepare(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
        tools: Option<&Json>,
        extra: Option<&Map<String, Json>>,
    ) -> Result<RenderedPrompt, ModelError> {
        let mut suspicious = false;
        let mut used = std::collections::HashSet::new();
        let plain = self.run(messages, add_generation_prompt, tools, extra, &mut |text| {
            suspicious |= !tokenizer.control_starts(text).is_empty();
            used.extend(text.chars().filter(|c| ('\u{E000}'..='\u{F8FF}').contains(c)));
            text.to_owned()
        })?;
        if !suspicious {
            return Ok(RenderedPrompt { text: plain, literal: Vec::new() });
        }
        let all_taken = || ModelError::Prompt {
            reason: "it spells control tokens and uses every private-use character (U+E000 to U+F8FF), \
                     so the two cannot be told apart; remove one of them"
                .into(),
        };
        let taken = |c: char| used.contains(&c) || self.source.contains(c);
        let mark = tokenizer.free_mark(taken).ok_or_else(all_taken)?;
        let marked = self.run(messages, add_generation_prompt, tools, extra, &mut |text| {
            put_marks(text, &tokenizer.control_starts(text), mark)
        })?;
        if marked.contains(&format!("\\u{:04x}", mark as u32)) {
            return Err(ModelError::Prompt {
                reason: "a message spells a control token of the model and the chat template escapes it; \
                         leave the token out"
                    .into(),
            });
        }
        let prompt = take_marks(&marked, mark);
        if prompt.text != plain {
            // The template reads control tokens in messages. It did not see them, so they are plain text all the same.
            tracing::debug!("the chat template treats control tokens in messages; they were hidden from it");
        }
        Ok(prompt)
    }

    /// Token ids of a conversation. Control tokens are recognised where the template wrote them and never in text that
    /// came from `messages`, `tools` or `extra`. Adds nothing: a beginning-of-sequence token is the template's business.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare) and [`Tokenizer::encode`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
        tools: Option<&Json>,
        extra: Option<&Map<String, Json>>,
    ) -> Result<Vec<u32>, ModelError> {
        let prompt = self.prepare(tokenizer, messages, add_generation_prompt, tools, extra)?;
        tokenizer.encode_with_literals(&prompt.text, &prompt.literal)
    }

    /// Renders with every string from outside passed through `each`.
    fn run(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        tools: Option<&Json>,
        extra: Option<&Map<String, Json>>,
        each: &mut dyn FnMut(&str) -> String,
    ) -> Result<String, ModelError> {
        if messages.is_empty() {
            return Err(ModelError::Prompt { reason: "there are no messages; send at least one".into() });
        }
        let mut list = Vec::with_capacity(messages.len());
        for message in messages {
            let mut pairs = vec![
                (Value::from("role"), Value::from(each(&message.role))),
                (Value::from("content"), Value::from(each(&message.content))),
            ];
            for (key, value) in &message.extra {
                pairs.push((Value::from(each(key)), to_value(value, each)));
            }
            list.push(Value::from_pairs(pairs));
        }
        let mut context = vec![
            (Value::from("messages"), list.into_iter().collect()),
            (Value::from("add_generation_prompt"), Value::from(add_generation_prompt)),
            (Value::from("tools"), tools.map_or(Value::from(()), |t| to_value(t, each))),
            (Value::from("documents"), Value::from(())),
        ];
        context.extend(self.tokens.iter().map(|(name, text)| (Value::from(*name), Value::from(text.as_str()))));
        for (key, value) in extra.into_iter().flatten() {
            context.push((Value::from(key.as_str()), to_value(value, each)));
        }
        let with_tools = self.has_tool_template && tools.is_some_and(|t| t.as_array().is_some_and(|a| !a.is_empty()));
        let template = self.env.get_template(if with_tools { TOOL_USE } else { DEFAULT }).map_err(|e| refused(&e))?;
        template.render(Value::from_pairs(context)).map_err(|e| refused(&e))
    }
}

/// Jinja as transformers sets it up.
fn environment() -> Result<Environment<'static>, ModelError> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| refused(&e))?);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_formatter(|out, _, value| {
        let written = match value.as_str() {
            Some(text) => out.write_str(text),
            None => out.write_str(&python::to_str(value)),
        };
        written.map_err(Error::from)
    });
    env.add_filter("tojson", python::tojson);
    env.add_filter("string", |value: Value| python::to_str(&value));
    env.add_function("raise_exception", |message: Rest<Value>| -> Result<Value, Error> {
        let text = message.first().map(python::to_str).unwrap_or_default();
        Err(Error::new(ErrorKind::InvalidOperation, text))
    });
    add_clock(&mut env, SystemTime::now);
    Ok(env)
}

fn add_clock(env: &mut Environment<'static>, now: fn() -> SystemTime) {
    env.add_function("strftime_now", move |format: &str| python::strftime(format, now()));
}

/// Replaces the one statement that transformers adds to Jinja: `{% generation %}` only marks text for training.
fn plain_jinja(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(len) = rest[open..].find("%}") else { break };
        let (before, tag) = (&rest[..open], &rest[open..open + len + 2]);
        let word = tag.trim_start_matches(['{', '%', '-', '+']).trim_end_matches(['}', '%', '-', '+']).trim();
        out.push_str(before);
        match word {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[open + len + 2..];
    }
    out.push_str(rest);
    out
}

/// A template error in one line: what, where, and what lies behind it.
fn refused(e: &Error) -> ModelError {
    let mut reason = match (e.detail(), e.kind()) {
        (Some(detail), ErrorKind::InvalidOperation) => detail.to_owned(),
        (Some(detail), kind) => format!("{kind}: {detail}"),
        (None, kind) => kind.to_string(),
    };
    if let Some(line) = e.line() {
        reason.push_str(&format!(" (line {line} of the template)"));
    }
    let mut cause = std::error::Error::source(e);
    while let Some(c) = cause {
        reason.push_str(&format!(": {c}"));
        cause = c.source();
    }
    ModelError::Template { reason }
}

fn to_value(json: &Json, each: &mut dyn FnMut(&str) -> String) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            _ => Value::from(n.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::from(each(text)),
        Json::Array(list) => list.iter().map(|v| to_value(v, each)).collect(),
        Json::Object(map) => {
            let pairs: Vec<(Value, Value)> =
                map.iter().map(|(k, v)| (Value::from(each(k)), to_value(v, each))).collect();
            Value::from_pairs(pairs)
        }
    }
}

/// Puts `mark` behind the character that begins at each of `starts`.
fn put_marks(text: &str, starts: &[usize], mark: char) -> String {
    let mut out = String::with_capacity(text.len() + 3 * starts.len());
    let mut starts = starts.iter().peekable();
    for (at, c) in text.char_indices() {
        out.push(c);
        if starts.next_if_eq(&&at).is_some() {
            out.push(mark);
        }
    }
    out
}

/// Takes the marks out again and tells where the characters before them begin.
fn take_marks(marked: &str, mark: char) -> RenderedPrompt {
    let mut text = String::with_capacity(marked.len());
    let mut literal = Vec::new();
    let mut last = 0;
    for c in marked.chars() {
        if c == mark {
            if literal.last() != Some(&last) {
                literal.push(last);
            }
        } else {
            last = text.len();
            text.push(c);
        }
    }
    RenderedPrompt { text, literal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_marks_are_taken_as_blocks() {
        let source = "a {%- generation -%} b {% endgeneration %}{% if generation %}c{% endif %}";
        let expected = "a {%- if true -%} b {% endif %}{% if generation %}c{% endif %}";
        assert_eq!(plain_jinja(source), expected);
        assert_eq!(plain_jinja("{% open"), "{% open");
    }

    #[test]
    fn marks_come_out_where_they_went_in() {
        let marked = put_marks("é<s><s", &[2, 5], '\u{E000}');
        assert_eq!(marked, "é<\u{E000}s><\u{E000}s");
        assert_eq!(take_marks(&marked, '\u{E000}'), RenderedPrompt { text: "é<s><s".into(), literal: vec![2, 5] });
    }
}
