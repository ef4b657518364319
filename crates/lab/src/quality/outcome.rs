//! What a run found, recipe by recipe.

use super::{Answer, QualitySettings};
use crate::Candidate;
use crate::measures::{TOP, TokenMeasure};
use crate::statistics::{Interval, bootstrap, median, quantile, wilson};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// Parts of a window that are also reported on their own.
const DEPTHS: usize = 8;

/// Sums over consecutive tokens: how many, and their divergence, agreements of the first, shares of the first five that
/// agree, negative log-likelihood of the reference, and of the recipe.
pub type BlockSums = [f64; 6];

/// Everything about one recipe.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The recipe.
    pub recipe: String,
    /// Whether it is the reference.
    pub is_reference: bool,
    /// Why it has no (complete) results.
    pub failure: Option<String>,
    /// Distributions against the reference's.
    pub scores: Option<Scores>,
    /// Questions, by kind.
    pub answers: Vec<AnswerScore>,
    /// The cache after a window.
    pub memory: Option<Memory>,
    /// Tokens per second.
    pub speed: Speed,
}

/// Next-token distributions against the reference's, over all windows. Intervals are at 95%.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Predictions compared.
    pub tokens: usize,
    /// Mean Kullback-Leibler divergence from the reference, in nats.
    pub kl_mean: f64,
    /// Of the mean.
    pub kl_interval: Interval,
    /// Divergence that 99% of the tokens do not exceed.
    pub kl_p99: f64,
    /// Greatest divergence.
    pub kl_max: f64,
    /// Share of tokens whose most likely token is the reference's.
    pub top1: f64,
    /// Of the share.
    pub top1_interval: Interval,
    /// Mean share of the five most likely tokens that are among the reference's five.
    pub top5: f64,
    /// Of the mean share.
    pub top5_interval: Interval,
    /// Perplexity on the text.
    pub perplexity: f64,
    /// Relative to the reference's.
    pub perplexity_ratio: f64,
    /// Of the ratio, paired.
    pub perplexity_ratio_interval: Interval,
    /// The same text by distance from the start of its window.
    pub by_depth: Vec<DepthScore>,
}

/// A part of all windows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DepthScore {
    /// First position of the part.
    pub from: usize,
    /// One past its last.
    pub to: usize,
    /// As in [`Scores`].
    pub kl_mean: f64,
    /// As in [`Scores`].
    pub top1: f64,
    /// As in [`Scores`].
    pub perplexity_ratio: f64,
}

/// One recipe on one window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WindowScore {
    /// The recipe.
    pub recipe: String,
    /// Which window.
    pub window: usize,
    /// Tokens of each block but the last.
    pub block: usize,
    /// Sums of each block.
    pub blocks: Vec<BlockSums>,
    /// Greatest divergence of a token, in nats.
    pub kl_max: f64,
    /// The token of the window whose prediction diverges most.
    pub kl_max_at: usize,
}

/// Questions of one kind, answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnswerScore {
    /// The kind.
    pub task: &'static str,
    /// Questions.
    pub of: usize,
    /// Answered in full.
    pub right: usize,
    /// Mean score; the share answered in full where a question has one fact.
    pub accuracy: f64,
    /// Of the share answered in full.
    pub interval: Interval,
    /// Answers equal to the reference's, letter by letter.
    pub same_as_reference: usize,
}

/// A cache after a window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Tokens in it.
    pub tokens: usize,
    /// Bytes of pages, by the ledger.
    pub bytes: u64,
    /// Bytes that the cache predicts for so many tokens.
    pub predicted_bytes: u64,
    /// Bits per key or value, with metadata, padding, and what a recipe keeps exact.
    pub bits_per_element: f64,
    /// The same of one more token of a long sequence: what is kept exact at its ends does not count any more.
    pub bits_per_element_long: f64,
}

/// Tokens per second, from steps that took turns with the reference's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Speed {
    /// Windows, with the logits of every token.
    pub scoring: Option<f64>,
    /// Prompts of questions, with the logits of the last token.
    pub prefill: Option<f64>,
    /// Single tokens after a window, by the median step.
    pub decode: Option<f64>,
}

impl WindowScore {
    pub(super) fn of(recipe: &str, window: usize, tokens: &[TokenMeasure], settings: &QualitySettings) -> WindowScore {
        let worst = tokens.iter().enumerate().max_by(|a, b| a.1.kl.total_cmp(&b.1.kl));
        WindowScore {
            recipe: recipe.to_owned(),
            window,
            block: settings.block,
            blocks: tokens.chunks(settings.block).map(sums).collect(),
            kl_max: worst.map_or(0.0, |(_, token)| token.kl),
            kl_max_at: worst.map_or(0, |(at, _)| at + 1),
        }
    }
}

impl Scores {
    /// Of the tokens of each window. `None` without tokens.
    fn of(windows: &[Vec<TokenMeasure>], settings: &QualitySettings) -> Option<Scores> {
        let blocks: Vec<BlockSums> = windows.iter().flat_map(|w| w.chunks(settings.block)).map(sums).collect();
        let divergences: Vec<f64> = windows.iter().flatten().map(|token| token.kl).collect();
        let total = add(&blocks);
        let interval = |of: fn(&BlockSums) -> f64| bootstrap(&blocks, settings.resamples, settings.seed, of);
        (!divergences.is_empty()).then(|| Scores {
            tokens: divergences.len(),
            kl_mean: kl_mean(&total),
            kl_interval: interval(kl_mean),
            kl_p99: quantile(&divergences, 0.99),
            kl_max: divergences.iter().copied().fold(0.0, f64::max),
            top1: top1(&total),
            top1_interval: interval(top1),
            top5: top5(&total),
            top5_interval: interval(top5),
            perplexity: (total[5] / total[0]).exp(),
            perplexity_ratio: perplexity_ratio(&total),
            perplexity_ratio_interval: interval(perplexity_ratio),
            by_depth: by_depth(windows),
        })
    }
}

fn by_depth(windows: &[Vec<TokenMeasure>]) -> Vec<DepthScore> {
    let longest = windows.iter().map(Vec::len).max().unwrap_or(0);
    let each = longest.div_ceil(DEPTHS).max(1);
    let part = |from: usize| {
        let to = (from + each).min(longest);
        let of: Vec<BlockSums> = windows.iter().map(|w| sums(w.get(from..to).unwrap_or_default())).collect();
        let total = add(&of);
        // Position 0 has no prediction.
        let (kl_mean, top1, perplexity_ratio) = (kl_mean(&total), top1(&total), perplexity_ratio(&total));
        DepthScore { from: from + 1, to: to + 1, kl_mean, top1, perplexity_ratio }
    };
    (0..longest).step_by(each).map(part).collect()
}

fn sums(tokens: &[TokenMeasure]) -> BlockSums {
    let of = |token: &TokenMeasure| {
        let (top1, top5) = (f64::from(u8::from(token.same_top1)), f64::from(token.shared_top5) / TOP as f64);
        [1.0, token.kl, top1, top5, token.reference_nll, token.nll]
    };
    add(&tokens.iter().map(of).collect::<Vec<_>>())
}

fn add(blocks: &[BlockSums]) -> BlockSums {
    std::array::from_fn(|i| blocks.iter().map(|block| block[i]).sum())
}

fn kl_mean(sums: &BlockSums) -> f64 {
    sums[1] / sums[0]
}

fn top1(sums: &BlockSums) -> f64 {
    sums[2] / sums[0]
}

fn top5(sums: &BlockSums) -> f64 {
    sums[3] / sums[0]
}

fn perplexity_ratio(sums: &BlockSums) -> f64 {
    ((sums[5] - sums[4]) / sums[0]).exp()
}

/// What one recipe has come to so far.
pub(super) struct Collected {
    pub candidate: Arc<dyn Candidate>,
    windows: Vec<Vec<TokenMeasure>>,
    memory: Option<Memory>,
    scoring: (usize, Duration),
    decoding: Vec<f64>,
    answers: Vec<Answer>,
    failure: Option<String>,
}

impl Collected {
    pub fn new(candidate: &Arc<dyn Candidate>) -> Collected {
        Collected {
            candidate: candidate.clone(),
            windows: Vec::new(),
            memory: None,
            scoring: (0, Duration::ZERO),
            decoding: Vec::new(),
            answers: Vec::new(),
            failure: None,
        }
    }

    /// Adds the time of a scoring step, if it counts.
    pub fn scoring(&mut self, counts: bool, tokens: usize, time: Duration) {
        if counts {
            self.scoring.0 += tokens;
            self.scoring.1 += time;
        }
    }

    pub fn decoded(&mut self, time: Duration) {
        self.decoding.push(time.as_secs_f64());
    }

    /// Adds a window, and what the cache held after it.
    pub fn window(&mut self, tokens: Vec<TokenMeasure>, memory: Option<Memory>) {
        self.memory = memory;
        self.windows.push(tokens);
    }

    pub fn answered(&mut self, answer: Answer) {
        self.answers.push(answer);
    }

    pub fn failed(&mut self, reason: Option<&str>) {
        if let Some(reason) = reason {
            self.failure.get_or_insert_with(|| reason.to_owned());
        }
    }

    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub fn answers(&self) -> Vec<Answer> {
        self.answers.clone()
    }

    pub fn outcome(self, settings: &QualitySettings, is_reference: bool, reference: &[Answer]) -> Outcome {
        let rate = |(tokens, time): (usize, Duration)| (tokens > 0).then(|| tokens as f64 / time.as_secs_f64());
        let asked = self.answers.iter().fold((0, Duration::ZERO), |(tokens, time), answer| {
            (tokens + answer.prefill_tokens, time + Duration::from_secs_f64(answer.prefill_seconds))
        });
        Outcome {
            recipe: self.candidate.name().to_owned(),
            is_reference,
            scores: Scores::of(&self.windows, settings),
            answers: settings.tasks.iter().filter_map(|task| answered(task.name(), &self.answers, reference)).collect(),
            memory: self.memory,
            speed: Speed {
                scoring: rate(self.scoring),
                prefill: rate(asked),
                decode: (!self.decoding.is_empty()).then(|| 1.0 / median(&self.decoding)),
            },
            failure: self.failure,
        }
    }
}

/// How one kind of question went; `None` where there was none.
fn answered(task: &'static str, answers: &[Answer], reference: &[Answer]) -> Option<AnswerScore> {
    let own: Vec<&Answer> = answers.iter().filter(|answer| answer.task == task).collect();
    let right = own.iter().filter(|answer| answer.score == 1.0).count();
    let others = reference.iter().filter(|answer| answer.task == task);
    (!own.is_empty()).then(|| AnswerScore {
        task,
        of: own.len(),
        right,
        accuracy: own.iter().map(|answer| answer.score).sum::<f64>() / own.len() as f64,
        interval: wilson(right, own.len()),
        same_as_reference: own.iter().zip(others).filter(|(answer, other)| answer.answer == other.answer).count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(kl: f64, nll: f64, same_top1: bool, shared_top5: u8) -> TokenMeasure {
        TokenMeasure { kl, nll, reference_nll: 1.0, same_top1, shared_top5 }
    }

    #[test]
    fn scores_by_hand() {
        let settings =
            QualitySettings { block: 2, ..QualitySettings::new(crate::candidate::resolve("f16", &[]).unwrap(), 0) };
        let windows = vec![
            vec![token(0.0, 1.0, true, 5), token(0.2, 1.5, false, 4)],
            vec![token(0.1, 0.5, true, 5), token(0.5, 2.0, true, 1)],
        ];
        let scores = Scores::of(&windows, &settings).unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        assert_eq!(scores.tokens, 4);
        close(scores.kl_mean, 0.2);
        close(scores.kl_max, 0.5);
        close(scores.kl_p99, 0.2 + 0.97 * 0.3);
        close(scores.top1, 0.75);
        close(scores.top5, 0.75);
        close(scores.perplexity, 1.25f64.exp());
        close(scores.perplexity_ratio, 0.25f64.exp());
        // Two blocks with mean divergences 0.1 and 0.3.
        close(scores.kl_interval.low, 0.1);
        close(scores.kl_interval.high, 0.3);
        assert_eq!(scores.by_depth.len(), 2);
        close(scores.by_depth[1].kl_mean, 0.35);
        assert_eq!((scores.by_depth[1].from, scores.by_depth[1].to), (2, 3));
        assert!(Scores::of(&[], &settings).is_none());
        let window = WindowScore::of("r", 1, &windows[1], &settings);
        assert_eq!(window.blocks, [[2.0, 0.6, 2.0, 1.2, 2.0, 2.5]]);
        assert_eq!(window.kl_max_at, 2);
    }
}
