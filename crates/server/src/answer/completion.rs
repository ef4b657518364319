//! Answers of `/v1/completions`.

use cachalot_engine::{FinishReason, TokenLogprobs};
use serde_json::{Value, json};

use super::{Choice, Header, Shape, finish_word, logprobs::Lists};
use crate::generate::Totals;

pub(crate) struct CompletionShape {
    pub header: Header,
    /// Whether log-probabilities were asked for.
    pub logprobs: bool,
    /// Text before each choice's own: its prompt with `echo`, nothing otherwise.
    pub before: Vec<String>,
    /// Where the next token of each choice begins, in characters.
    pub offsets: Vec<usize>,
}

impl CompletionShape {
    /// `echo` holds the text of each prompt, and `n` choices belong to each; it is `None` if no echo was asked for.
    pub fn new(header: Header, logprobs: bool, echo: Option<Vec<String>>, n: usize) -> CompletionShape {
        let before: Vec<String> = match echo {
            Some(texts) => texts.into_iter().flat_map(|t| std::iter::repeat_n(t, n)).collect(),
            None => vec![String::new(); header.choices],
        };
        let offsets = before.iter().map(|t| t.chars().count()).collect();
        CompletionShape { header, logprobs, before, offsets }
    }

    fn chunk(&self, index: usize, text: &str, logprobs: Value, reason: Value) -> Value {
        self.header.document(
            "text_completion",
            vec![json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason})],
        )
    }
}

impl Shape for CompletionShape {
    fn opening(&self) -> Vec<Value> {
        let echoed = self.before.iter().enumerate().filter(|(_, text)| !text.is_empty());
        echoed.map(|(i, text)| self.chunk(i, text, Value::Null, Value::Null)).collect()
    }

    fn token(&mut self, index: usize, text: &str, token: Option<(u32, &TokenLogprobs)>) -> Option<Value> {
        let mut lists = Lists::default();
        if let (Some((id, l)), Some(offset)) = (token, self.offsets.get_mut(index)) {
            lists.push(&*self.header.state.backend, id, l, offset);
        }
        if text.is_empty() && lists.is_empty() {
            return None;
        }
        let logprobs = if lists.is_empty() { Value::Null } else { lists.into_value() };
        Some(self.chunk(index, text, logprobs, Value::Null))
    }

    fn finished(&self, index: usize, reason: FinishReason) -> Value {
        self.chunk(index, "", Value::Null, json!(finish_word(reason)))
    }

    fn usage(&self, totals: &Totals) -> Value {
        self.header.document_with_usage("text_completion", Vec::new(), totals)
    }

    fn report(&self, totals: &Totals) -> Value {
        self.header.document_with_report("text_completion", totals)
    }

    fn complete(&self, choices: Vec<Choice>, totals: &Totals) -> Value {
        let backend = &*self.header.state.backend;
        let choices = choices
            .into_iter()
            .enumerate()
            .map(|(i, choice)| {
                let logprobs = self.logprobs.then(|| {
                    let mut lists = Lists::default();
                    let mut offset = self.offsets.get(i).copied().unwrap_or_default();
                    for (id, l) in &choice.tokens {
                        lists.push(backend, *id, l, &mut offset);
                    }
                    lists.into_value()
                });
                json!({
                    "index": i,
                    "text": self.before.get(i).map(String::as_str).unwrap_or_default().to_string() + &choice.text,
                    "logprobs": logprobs,
                    "finish_reason": choice.reason.map(finish_word),
                })
            })
            .collect();
        self.header.document_with_usage("text_completion", choices, totals)
    }

    fn choices(&self) -> usize {
        self.header.choices
    }
}
