//! A user's own prompts and chats.
//!
//! `{"prompt": "..."}` is a text that the answer continues, `{"messages": [{"role": "user", "content": "..."}]}` a
//! chat. Besides: `context`, a text before the prompt or the last message; what is right, `answer` (one), `answers`
//! (any of them will do) or `expected` (all of them); `max_tokens` of the answer; `id`.

use super::fields::Fields;
use crate::tasks::{Form, Posed, Question, Scoring};
use cachalot_model::template::Message;
use serde_json::Value;

/// Tokens of an answer where the line does not say.
const ANSWER_TOKENS: usize = 64;

const JOIN: &str = "\n\n";

pub(super) fn read(_: &str, fields: &Fields) -> Result<Posed, String> {
    let (history, text, form) = match (fields.get("prompt"), fields.get("messages")) {
        (Some(_), Some(_)) => return Err("has both `prompt` and `messages`; keep one".into()),
        (None, None) => return Err("has neither `prompt` nor `messages`".into()),
        (Some(_), None) => (Vec::new(), fields.text("prompt")?.to_owned(), Form::Plain { join: JOIN }),
        (None, Some(_)) => {
            let (history, last) = messages(fields.list("messages")?)?;
            (history, last, Form::Chat { join: JOIN })
        }
    };
    if text.trim().is_empty() {
        return Err("its prompt is empty".into());
    }
    let names: Vec<&str> =
        ["answer", "answers", "expected"].into_iter().filter(|name| fields.get(name).is_some()).collect();
    let (expected, scoring) = match names[..] {
        [] => (Vec::new(), Scoring::MatchAll),
        ["expected"] => (fields.texts("expected")?, Scoring::MatchAll),
        [name] => (fields.texts(name)?, Scoring::MatchPart),
        _ => return Err(format!("has several of `answer`, `answers` and `expected`: {}; keep one", names.join(", "))),
    };
    let answer_tokens = match fields.get("max_tokens") {
        None => ANSWER_TOKENS,
        Some(value) => value
            .as_u64()
            .filter(|tokens| (1..=1 << 20).contains(tokens))
            .map(|tokens| tokens as usize)
            .ok_or("`max_tokens` is not a number from 1 to 1048576")?,
    };
    let question = Question {
        answer: expected.first().cloned().unwrap_or_default(),
        text,
        prefix: String::new(),
        expected,
        scoring,
        answer_tokens,
        depth: None,
    };
    let context = fields.text_or("context", "")?.to_owned();
    Ok(Posed { history, text: context, questions: vec![question], form, ..Posed::default() })
}

/// All but the last, and what the last says.
fn messages(list: &[Value]) -> Result<(Vec<Message>, String), String> {
    let mut messages = Vec::with_capacity(list.len());
    for (at, value) in list.iter().enumerate() {
        let message = serde_json::from_value::<Message>(value.clone());
        messages.push(message.map_err(|e| format!("message {} is none: {e}", at + 1))?);
    }
    match messages.pop() {
        Some(last) if last.role == "user" => Ok((messages, last.content)),
        Some(last) => Err(format!("its last message is of `{}`; it must be of `user`", last.role)),
        None => Err("has no messages".into()),
    }
}
