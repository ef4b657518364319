//! A session, and how it stands in the metadata of its file.

use std::ops::Range;

use cachalot_model::template::Message;
use serde_json::{Map, Value, json};

use crate::{EditId, Scope};

/// One message of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// `system`, `user`, `assistant`, `tool`; `text` for a prompt that is no conversation.
    pub role: String,
    /// What was said.
    pub text: String,
    /// What else the chat template may look at: tool calls, names.
    pub extra: Map<String, Value>,
    /// Its tokens among those of the session. What the template writes between two turns belongs to the second.
    pub tokens: Range<usize>,
}

/// A named conversation with its tokens. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    /// Its name.
    pub name: String,
    /// The model, by name.
    pub model: String,
    /// How its cache is kept.
    pub recipe: String,
    /// All tokens, in order, those of answers as the model chose them.
    pub tokens: Vec<u32>,
    /// What was said.
    pub turns: Vec<Turn>,
    /// Tools that the conversation was rendered with.
    pub tools: Option<Value>,
    /// Further variables of the chat template.
    pub arguments: Option<Map<String, Value>>,
    /// The edit that its keys and values come after, where these are not what its tokens alone would give.
    pub edit: Option<EditId>,
    /// When it was first saved.
    pub created: u64,
    /// When it was last saved or loaded. The time of its file.
    pub used: u64,
    /// Until when it is to stay in memory.
    pub pinned_until: Option<u64>,
}

impl Turn {
    /// As the chat template wants it.
    pub fn message(&self) -> Message {
        Message { role: self.role.clone(), content: self.text.clone(), extra: self.extra.clone() }
    }

    /// What was said, in these tokens.
    pub fn of(message: &Message, tokens: Range<usize>) -> Turn {
        let Message { role, content, extra } = message.clone();
        Turn { role, text: content, extra, tokens }
    }
}

impl Session {
    /// The conversation; empty where it is a plain prompt.
    pub fn messages(&self) -> Vec<Message> {
        if self.is_text() { Vec::new() } else { self.turns.iter().map(Turn::message).collect() }
    }

    /// What is said where a session is a plain prompt of so many tokens.
    pub fn turns_of_text(text: String, tokens: usize) -> Vec<Turn> {
        vec![Turn::of(&Message::new("text", text), 0..tokens)]
    }

    /// Whether it is a plain prompt and no conversation.
    pub fn is_text(&self) -> bool {
        self.turns.first().is_some_and(|turn| turn.role == "text")
    }

    /// Where its blocks are shared.
    pub fn scope<'a>(&'a self, tenant: &'a str) -> Scope<'a> {
        Scope { kv: Some(&self.recipe), tenant, edit: self.edit }
    }

    /// Turns from messages and the places in the tokens where they end.
    pub fn turns_of(messages: &[Message], ends: &[usize]) -> Vec<Turn> {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        messages.iter().zip(starts.zip(ends)).map(|(message, (from, &to))| Turn::of(message, from..to)).collect()
    }

    /// Goes back to the first `turns` turns; there must be that many.
    pub(super) fn rewind(&mut self, turns: usize) {
        self.turns.truncate(turns);
        self.tokens.truncate(self.turns.last().map_or(0, |turn| turn.tokens.end));
    }

    pub(super) fn to_meta(&self) -> Map<String, Value> {
        let turn = |turn: &Turn| {
            let Turn { role, text, extra, tokens } = turn;
            let mut json = json!({"role": role, "text": text, "tokens": [tokens.start, tokens.end]});
            if !extra.is_empty() {
                json["extra"] = Value::Object(extra.clone());
            }
            json
        };
        let session = json!({
            "name": self.name,
            "created": self.created,
            "turns": self.turns.iter().map(turn).collect::<Vec<_>>(),
            "tools": self.tools,
            "arguments": self.arguments,
            "edit": self.edit.map(|edit| edit.to_string()),
            "tokens": self.tokens,
        });
        Map::from_iter([("session".to_owned(), session)])
    }

    /// `None` where the metadata are not those of a session, or contradict themselves.
    pub(super) fn from_meta(meta: &Map<String, Value>) -> Option<Session> {
        let json = meta.get("session")?;
        let number = |value: &Value| usize::try_from(value.as_u64()?).ok();
        let tokens = json["tokens"].as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok());
        let tokens: Vec<u32> = tokens.collect::<Option<_>>()?;
        let mut end = 0;
        let turn = |json: &Value| {
            let range = number(&json["tokens"][0])?..number(&json["tokens"][1])?;
            if range.start < end || range.end < range.start || range.end > tokens.len() {
                return None;
            }
            end = range.end;
            Some(Turn {
                role: json["role"].as_str()?.to_owned(),
                text: json["text"].as_str()?.to_owned(),
                extra: json["extra"].as_object().cloned().unwrap_or_default(),
                tokens: range,
            })
        };
        let turns = json["turns"].as_array()?.iter().map(turn).collect::<Option<_>>()?;
        Some(Session {
            name: json["name"].as_str()?.to_owned(),
            turns,
            tools: json.get("tools").filter(|tools| !tools.is_null()).cloned(),
            arguments: json["arguments"].as_object().cloned(),
            edit: match json.get("edit") {
                None | Some(Value::Null) => None,
                Some(edit) => Some(edit.as_str()?.parse().ok()?),
            },
            created: json["created"].as_u64()?,
            tokens,
            ..Session::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_come_back_and_contradictions_do_not() {
        let extra = Map::from_iter([("name".to_owned(), json!("x"))]);
        let turn = |role: &str, tokens: Range<usize>| Turn {
            role: role.into(),
            text: "say \"é\"\n".into(),
            extra: extra.clone(),
            tokens,
        };
        let session = Session {
            name: "a".into(),
            tokens: (0..9).collect(),
            turns: vec![turn("user", 0..4), turn("assistant", 5..9)],
            tools: Some(json!([1])),
            created: 7,
            edit: Some(EditId([9; 32])),
            ..Session::default()
        };
        assert_eq!(Session::from_meta(&session.to_meta()), Some(session.clone()));
        for (path, value) in [
            ("/session/turns/1/tokens", json!([3, 9])),
            ("/session/turns/1/tokens", json!([5, 10])),
            ("/session/turns/1/tokens", json!([5])),
            ("/session/tokens/0", json!(-1)),
            ("/session/tokens", json!("x")),
            ("/session/name", json!(null)),
            ("/session/edit", json!("12")),
        ] {
            let mut meta = Value::Object(session.to_meta());
            *meta.pointer_mut(path).unwrap() = value;
            assert_eq!(Session::from_meta(meta.as_object().unwrap()), None, "{path}");
        }
        assert_eq!(Session::from_meta(&Map::new()), None);
    }
}
