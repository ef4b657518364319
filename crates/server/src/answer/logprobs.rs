//! Log-probabilities in both of OpenAI's forms.
//!
//! Tokens without bytes (the one that ends an answer, and other special tokens) are left out, so that the tokens joined
//! are the text. A stop string is not part of the text, but its tokens are listed: they were generated.

use cachalot_engine::TokenLogprobs;
use serde_json::{Map, Value, json};

use crate::backend::Backend;

/// What stands for minus infinity, which JSON cannot say; OpenAI uses the same number.
const NEVER: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { NEVER }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One entry of chat's `logprobs.content`.
pub(crate) fn chat(backend: &dyn Backend, id: u32, logprobs: &TokenLogprobs) -> Option<Value> {
    let entry = |id: u32, logprob: f32| {
        let bytes = backend.token_bytes(id);
        json!({"token": text(&bytes), "logprob": finite(logprob), "bytes": bytes})
    };
    if backend.token_bytes(id).is_empty() {
        return None;
    }
    let mut document = entry(id, logprobs.logprob);
    let top: Vec<Value> = logprobs.top.iter().map(|t| entry(t.id, t.logprob)).collect();
    document.as_object_mut()?.insert("top_logprobs".into(), Value::Array(top));
    Some(document)
}

/// The four parallel lists of the older form.
#[derive(Default)]
pub(crate) struct Lists {
    tokens: Vec<Value>,
    logprobs: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<Value>,
}

impl Lists {
    /// Append one token. `offset` is where it begins in the text, in characters; it is moved to its end.
    pub fn push(&mut self, backend: &dyn Backend, id: u32, logprobs: &TokenLogprobs, offset: &mut usize) {
        let bytes = backend.token_bytes(id);
        if bytes.is_empty() {
            return;
        }
        let token = text(&bytes);
        self.offsets.push(json!(*offset));
        *offset += token.chars().count();
        self.tokens.push(json!(token));
        self.logprobs.push(json!(finite(logprobs.logprob)));
        let mut top = Map::new();
        for t in &logprobs.top {
            // Tokens that read alike share a key; the likelier one comes first and stays.
            top.entry(text(&backend.token_bytes(t.id))).or_insert(json!(finite(t.logprob)));
        }
        self.top.push(Value::Object(top));
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The document.
    pub fn into_value(self) -> Value {
        json!({
            "tokens": self.tokens, "token_logprobs": self.logprobs, "top_logprobs": self.top,
            "text_offset": self.offsets,
        })
    }
}
