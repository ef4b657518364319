//! RULER (Hsieh et al., 2024): files that its scripts write, `{"input", "outputs", "answer_prefix", ...}`. Make them
//! without a model's template (`base`); the model's own comes around them here.

use super::fields::Fields;
use crate::tasks::{Form, Posed, Question, Scoring};

/// Tokens of an answer by the beginning of a dataset's name, as in RULER.
const ANSWER_TOKENS: [(&str, usize); 5] = [("niah", 128), ("vt", 30), ("cwe", 120), ("fwe", 50), ("qa", 32)];

pub(super) fn read(dataset: &str, fields: &Fields) -> Result<Posed, String> {
    let input = fields.text("input")?.trim_end();
    // The question is the last line. What is written in one line cannot be told apart, nor is a line that has most of
    // the text a question.
    let (text, question) = match input.rsplit_once('\n') {
        Some((text, question)) if question.len() < text.len() && !text.trim().is_empty() => (text, question),
        _ => ("", input),
    };
    if input.is_empty() {
        return Err("`input` is empty".into());
    }
    let expected = fields.texts("outputs")?;
    if expected.is_empty() {
        return Err("has no `outputs`".into());
    }
    let answer_tokens = ANSWER_TOKENS.into_iter().find(|(name, _)| dataset.starts_with(name));
    let question = Question {
        text: question.to_owned(),
        prefix: fields.text_or("answer_prefix", "")?.trim_end().to_owned(),
        answer: format!(" {}", expected.join(", ")),
        expected,
        scoring: if dataset.starts_with("qa") { Scoring::MatchPart } else { Scoring::MatchAll },
        answer_tokens: answer_tokens.map_or(128, |(_, tokens)| tokens),
        depth: None,
    };
    Ok(Posed { text: text.into(), questions: vec![question], form: Form::Chat { join: "\n" }, ..Posed::default() })
}
