//! What is known about a recipe on one task at one length: what reports show and searches decide on.

use crate::quality::Scores;
use crate::statistics::Interval;
use serde::{Deserialize, Serialize};

/// One recipe on one task at one length. Intervals are at 95%; those of differences are paired with the reference's own
/// results on the same items.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The recipe, as it was named.
    pub recipe: String,
    /// Whether it is the full-precision cache that the others are compared with.
    pub is_reference: bool,
    /// The task: `perplexity`, `generation`, `needle` and so on.
    pub task: String,
    /// Tokens of the windows or prompts.
    pub tokens: usize,
    /// Whether the question was known when a context was reduced; `None` where there is no question or nothing reduced.
    pub known: Option<bool>,
    /// Windows or questions that have been measured, and those that the run plans.
    pub items: usize,
    /// See `items`.
    pub planned: usize,
    /// Why the recipe has no (complete) results here.
    pub failure: Option<String>,
    /// Next-token distributions against the reference's.
    pub divergence: Option<Scores>,
    /// Questions and how they were answered.
    pub answers: Option<Answered>,
    /// Greedy generations against the reference's.
    pub generation: Option<Generated>,
    /// Relative error of the attention output, `|o - o'| / |o|` in the mean over tokens, by layer and then query head;
    /// empty where nothing was measured.
    pub heads: Vec<Vec<f64>>,
    /// The cache.
    pub memory: Option<CellMemory>,
    /// Time.
    pub speed: CellSpeed,
    /// Names of the runs that it comes from.
    pub runs: Vec<String>,
}

/// Questions and how they were answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Questions.
    pub questions: usize,
    /// Mean score, as the task's own benchmark scores it, in `[0, 1]`.
    pub score: f64,
    /// Of the score.
    pub interval: Interval,
    /// Mean score less the reference's on the same questions.
    pub difference: f64,
    /// Of the difference, paired.
    pub difference_interval: Interval,
    /// Share of answers equal to the reference's, letter by letter.
    pub same: f64,
    /// Scores by where the fact lies, as a share of the text, ascending: `(depth, mean score, questions)`.
    pub by_depth: Vec<(f64, f64, usize)>,
}

/// Greedy generations against the reference's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// Generations.
    pub count: usize,
    /// Tokens of each, at most.
    pub tokens: usize,
    /// Mean share of a generation before the first token that differs.
    pub agreement: f64,
    /// Of the mean.
    pub agreement_interval: Interval,
    /// Median of the first token that differs; `tokens` where none does.
    pub first_divergence: f64,
    /// Share of generations equal to the reference's to the end.
    pub same: f64,
}

/// The cache of a sequence of the cell's length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CellMemory {
    /// Bytes at the end, by the ledger.
    pub bytes: u64,
    /// Most bytes at any time.
    pub peak_bytes: u64,
    /// The reference's bytes at the end.
    pub reference_bytes: u64,
    /// Bits per key or value of the whole context, everything included; tokens that were let go count as 0 bits.
    pub bits: f64,
    /// Bytes of cache that a decoding step reads.
    pub step_bytes: u64,
}

/// Time, in medians over items, beside the reference's in the same run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CellSpeed {
    /// Seconds to the first token.
    pub ttft: Option<f64>,
    /// Tokens of a prompt per second.
    pub prefill: Option<f64>,
    /// Relative to the reference's.
    pub prefill_ratio: Option<f64>,
    /// Tokens per second, one at a time, at the end of the cell's length.
    pub decode: Option<f64>,
    /// Relative to the reference's.
    pub decode_ratio: Option<f64>,
}
