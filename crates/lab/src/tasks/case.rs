//! A question as a model gets it.

use super::Scoring;

/// A prompt, what the answer must be, and how it is scored.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Name of the source.
    pub task: String,
    /// Which of the source's cases.
    pub index: usize,
    /// Which question about its text, where the ones before and their right answers stand in the prompt; else 0.
    pub turn: usize,
    /// What a file calls it, or the number of its line.
    pub id: Option<String>,
    /// Where the answer lies, as a share of the text; `None` where it is spread over the text or nobody knows.
    pub depth: Option<f64>,
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// Those before the first question about the text, which can be reduced without knowing it. 0 where context and
    /// question cannot be told apart: the question is then always known.
    pub context: usize,
    /// Whether the middle of the text was left out for the prompt to fit.
    pub cut: bool,
    /// What the answer must contain or be, as `scoring` has it. Empty where nobody knows: such answers can only be
    /// compared with those of the reference.
    pub expected: Vec<String>,
    /// How answers are scored.
    pub scoring: Scoring,
    /// Most tokens of the answer.
    pub answer_tokens: usize,
}

impl Case {
    /// Tokens that both prompts begin with, and after which both go on.
    pub fn common(&self, other: &Case) -> usize {
        common(&self.prompt, &other.prompt)
    }

    /// From 0 to 1. 0 where nothing is expected.
    pub fn score(&self, answer: &str) -> f64 {
        self.scoring.score(answer, &self.expected)
    }
}

/// Tokens that both begin with, and after which both go on.
pub(super) fn common(one: &[u32], other: &[u32]) -> usize {
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    same.min(one.len().min(other.len()).saturating_sub(1))
}
