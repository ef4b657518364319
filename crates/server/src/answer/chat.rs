//! Answers of `/v1/chat/completions`.

use cachalot_engine::{FinishReason, TokenLogprobs};
use serde_json::{Value, json};

use super::{Choice, Header, Shape, finish_word, logprobs};
use crate::generate::Totals;

pub(crate) struct ChatShape {
    pub header: Header,
    /// Whether log-probabilities were asked for.
    pub logprobs: bool,
}

impl ChatShape {
    fn chunk(&self, index: usize, delta: Value, logprobs: Value, reason: Value) -> Value {
        self.header.document(
            "chat.completion.chunk",
            vec![json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason})],
        )
    }
}

impl Shape for ChatShape {
    fn opening(&self) -> Vec<Value> {
        (0..self.header.choices)
            .map(|i| self.chunk(i, json!({"role": "assistant", "content": ""}), Value::Null, Value::Null))
            .collect()
    }

    fn token(&mut self, index: usize, text: &str, token: Option<(u32, &TokenLogprobs)>) -> Option<Value> {
        let entry = token.and_then(|(id, l)| logprobs::chat(&*self.header.state.backend, id, l));
        if text.is_empty() && entry.is_none() {
            return None;
        }
        let logprobs = entry.map_or(Value::Null, |e| json!({"content": [e], "refusal": null}));
        Some(self.chunk(index, json!({"content": text}), logprobs, Value::Null))
    }

    fn finished(&self, index: usize, reason: FinishReason) -> Value {
        self.chunk(index, json!({}), Value::Null, json!(finish_word(reason)))
    }

    fn usage(&self, totals: &Totals) -> Value {
        self.header.document_with_usage("chat.completion.chunk", Vec::new(), totals)
    }

    fn report(&self, totals: &Totals) -> Value {
        self.header.document_with_report("chat.completion.chunk", totals)
    }

    fn complete(&self, choices: Vec<Choice>, totals: &Totals) -> Value {
        let backend = &*self.header.state.backend;
        let choices = choices
            .into_iter()
            .enumerate()
            .map(|(i, choice)| {
                let logprobs = self.logprobs.then(|| {
                    let list = choice.tokens.iter().filter_map(|(id, l)| logprobs::chat(backend, *id, l));
                    json!({"content": list.collect::<Vec<_>>(), "refusal": null})
                });
                json!({
                    "index": i,
                    "message": {"role": "assistant", "content": choice.text, "refusal": null},
                    "logprobs": logprobs,
                    "finish_reason": choice.reason.map(finish_word),
                })
            })
            .collect();
        self.header.document_with_usage("chat.completion", choices, totals)
    }

    fn choices(&self) -> usize {
        self.header.choices
    }
}
