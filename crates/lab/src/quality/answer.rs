//! An answer to a question.

/// What a recipe answered to one question.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Answer {
    /// Which of the cases of the seed.
    pub index: usize,
    /// Which question about its text, where those before it and their right answers stand in the prompt; else 0.
    #[serde(default)]
    pub turn: usize,
    /// What a file calls it, or the number of its line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where the fact lies, as a share of the text, where it has one place.
    pub depth: Option<f64>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Whether the middle of its text was left out for it to fit.
    #[serde(default)]
    pub cut: bool,
    /// What the answer must contain or be; nothing where nobody knows.
    pub expected: Vec<String>,
    /// The metric of the score.
    #[serde(default)]
    pub scoring: String,
    /// The answer.
    pub answer: String,
    /// How right it is, in `[0, 1]`, by the metric; 0 where nothing is expected.
    pub score: f64,
    /// Tokens that were computed for it; the others it shares with the question before.
    pub prefill_tokens: usize,
    /// Seconds that they took.
    pub prefill_seconds: f64,
}
