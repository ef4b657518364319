//! What one recipe came to on one item: the line that results are made of.

use super::answer::Answer;
use crate::measures::{TOP, TokenMeasure};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Sums over consecutive tokens: how many, and their divergence, agreements of the first, shares of the first five that
/// agree, negative log-likelihood of the reference, and of the recipe.
pub type BlockSums = [f64; 6];

/// Which item of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ItemName {
    /// The kind: `perplexity`, `generation`, `attention`, or a task of questions.
    pub task: String,
    /// Tokens of its window or prompts.
    pub tokens: usize,
    /// Whether the question was known when a context was reduced; `None` where there is no question.
    pub known: Option<bool>,
    /// Which of its kind.
    pub index: usize,
}

/// One recipe on one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The recipe.
    pub recipe: String,
    /// Whether it is the reference.
    pub is_reference: bool,
    /// The item.
    #[serde(flatten)]
    pub item: ItemName,
    /// Why there is nothing else.
    pub failure: Option<String>,
    /// Next-token distributions of a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowScore>,
    /// Questions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Answer>,
    /// A greedy generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Relative errors of the attention output, by layer and query head.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<Vec<f64>>,
    /// The cache at the end.
    pub memory: Option<Memory>,
    /// Time.
    pub time: Time,
}

impl Record {
    /// Nothing measured yet.
    pub fn new(recipe: &str, is_reference: bool, item: &ItemName) -> Record {
        Record {
            recipe: recipe.to_owned(),
            is_reference,
            item: item.clone(),
            failure: None,
            window: None,
            answers: Vec::new(),
            generation: None,
            heads: Vec::new(),
            memory: None,
            time: Time::default(),
        }
    }

    pub(super) fn failed(&mut self, reason: &str) {
        self.failure.get_or_insert_with(|| reason.to_owned());
    }
}

/// One recipe on one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowScore {
    /// Tokens of each block but the last.
    pub block: usize,
    /// Sums of each block.
    pub blocks: Vec<BlockSums>,
    /// Greatest divergences of tokens, descending, in nats: enough of them for the 99th percentile of all windows.
    pub tail: Vec<f64>,
    /// The token of the window whose prediction diverges most.
    pub kl_max_at: usize,
}

/// Digits of a divergence that are kept in [`WindowScore::tail`].
const DIGITS: i32 = 6;

impl WindowScore {
    /// `tail` divergences are kept.
    pub(super) fn of(tokens: &[TokenMeasure], block: usize, tail: usize) -> WindowScore {
        let worst = tokens.iter().enumerate().max_by(|a, b| a.1.kl.total_cmp(&b.1.kl));
        let mut largest: Vec<f64> = tokens.iter().map(|token| token.kl).collect();
        largest.sort_by(|a, b| b.total_cmp(a));
        largest.truncate(tail);
        WindowScore {
            block,
            blocks: tokens.chunks(block).map(sums).collect(),
            tail: largest.into_iter().map(|kl| rounded(kl, DIGITS)).collect(),
            kl_max_at: worst.map_or(0, |(at, _)| at + 1),
        }
    }

    /// Predictions compared.
    pub fn tokens(&self) -> usize {
        self.blocks.iter().map(|block| block[0] as usize).sum()
    }
}

/// To so many significant digits: results are read by people too, and files of them are long.
fn rounded(value: f64, digits: i32) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(digits - 1 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

fn sums(tokens: &[TokenMeasure]) -> BlockSums {
    let mut sums = [0.0; 6];
    for token in tokens {
        let (top1, top5) = (f64::from(u8::from(token.same_top1)), f64::from(token.shared_top5) / TOP as f64);
        let of = [1.0, token.kl, top1, top5, token.reference_nll, token.nll];
        sums.iter_mut().zip(of).for_each(|(sum, value)| *sum += value);
    }
    sums
}

/// A greedy generation beside the reference's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Tokens that the reference generated.
    pub tokens: usize,
    /// Tokens before the first that differs.
    pub agreed: usize,
}

/// A cache at the end of an item.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Tokens in it.
    pub tokens: usize,
    /// Bytes of pages, by the ledger.
    pub bytes: u64,
    /// Bytes that the cache predicts for so many tokens.
    pub predicted_bytes: u64,
    /// Most bytes on the way, of pages and of what was observed.
    pub peak_bytes: u64,
    /// Bits per key or value, with metadata, padding, and what a recipe keeps exact.
    pub bits_per_element: f64,
    /// The same of one more token of a long sequence: what is kept exact at its ends does not count any more.
    pub bits_per_element_long: f64,
}

/// What took how long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Tokens of prompts or windows.
    pub prefill_tokens: usize,
    /// Seconds that they took.
    pub prefill_seconds: f64,
    /// Whether these had the logits of every token.
    pub scored: bool,
    /// Seconds to the first token, of every prompt that was read from its beginning.
    pub first: Vec<f64>,
    /// Seconds of single tokens: the median, and how many.
    pub step_seconds: Option<f64>,
    /// See `step_seconds`.
    pub steps: usize,
}

impl Time {
    pub(super) fn prefill(&mut self, tokens: usize, time: Duration) {
        self.prefill_tokens += tokens;
        self.prefill_seconds += time.as_secs_f64();
    }

    pub(super) fn steps(&mut self, seconds: &[f64]) {
        self.steps = seconds.len();
        self.step_seconds = (!seconds.is_empty()).then(|| crate::statistics::median(seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_digits_stay() {
        for (value, short) in [(0.0, 0.0), (1.23456789e-9, 1.23457e-9), (123.456789, 123.457), (1.0, 1.0)] {
            assert!((rounded(value, 6) - short).abs() <= short * 1e-12, "{value}");
        }
    }

    #[test]
    fn windows_keep_sums_and_their_worst() {
        let token = |kl, same_top1| TokenMeasure { kl, nll: 2.0, reference_nll: 1.0, same_top1, shared_top5: 4 };
        let tokens = [token(0.1, true), token(0.5, false), token(0.2, true)];
        let window = WindowScore::of(&tokens, 2, 2);
        assert_eq!(window.blocks, [[2.0, 0.6, 1.0, 1.6, 2.0, 4.0], [1.0, 0.2, 1.0, 0.8, 1.0, 2.0]]);
        assert_eq!((window.tail, window.kl_max_at), (vec![0.5, 0.2], 2));
    }
}
