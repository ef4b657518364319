//! An answer to a question.

/// What a recipe answered to one question.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Answer {
    /// Which of the cases of the seed.
    pub index: usize,
    /// Where the fact lies, as a share of the text.
    pub depth: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// What the answer must contain.
    pub expected: Vec<String>,
    /// The answer.
    pub answer: String,
    /// How right it is, in `[0, 1]`, as the task scores it.
    pub score: f64,
    /// Tokens that were computed for it; the others it shares with the question before.
    pub prefill_tokens: usize,
    /// Seconds that they took.
    pub prefill_seconds: f64,
}
