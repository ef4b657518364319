//! A text and what is asked of it, before they are a prompt.

use super::Scoring;
use cachalot_model::template::Message;

/// A text and the questions that are asked of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Posed {
    /// Messages before, where a file has whole conversations.
    pub history: Vec<Message>,
    /// What the text is about and what will be asked of it.
    pub introduction: String,
    /// The text, with the facts in it.
    pub text: String,
    /// What asks.
    pub questions: Vec<Question>,
    /// How to answer, for models that follow instructions.
    pub instruction: String,
    /// How it becomes a prompt.
    pub form: Form,
}

/// A question and what the answer must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The question.
    pub text: String,
    /// How the answer begins, as in RULER: a small model goes on where it would not begin.
    pub prefix: String,
    /// The right answer, after `prefix`, as it stands in the conversation when the next question is asked.
    pub answer: String,
    /// What the answer must contain or be.
    pub expected: Vec<String>,
    /// How answers are scored.
    pub scoring: Scoring,
    /// Most tokens of the answer.
    pub answer_tokens: usize,
    /// Where the answer lies, as a share of the text.
    pub depth: Option<f64>,
}

/// How a text and a question become a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// In the chat template with the instruction; as `Question:` and `Answer:` where the model has none.
    #[default]
    Asked,
    /// Word by word as they are, in the chat template where the model has one. Between text and question stands `join`.
    Chat {
        /// What separates text and question.
        join: &'static str,
    },
    /// Word by word as they are, as a text that the answer continues, whatever the model has.
    Plain {
        /// What separates text and question.
        join: &'static str,
    },
}

impl Question {
    /// A question without a prefix whose answer must contain all that is expected, and lies at a depth.
    pub fn new(text: String, expected: Vec<String>, depth: f64) -> Question {
        let answer = expected.join(", ");
        let (prefix, depth) = (String::new(), Some(depth));
        Question { text, prefix, answer, expected, scoring: Scoring::MatchAll, answer_tokens: 0, depth }
    }

    /// With the words before the answer, which a blank separates from it.
    pub fn prefix(self, prefix: String) -> Question {
        Question { answer: format!(" {}", self.answer), prefix, ..self }
    }
}
