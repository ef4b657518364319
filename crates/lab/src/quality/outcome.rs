//! What a run found, recipe by recipe.

use super::record::{BlockSums, Memory, Record, WindowScore};
use super::{Answer, QualitySettings};
use crate::statistics::{Interval, bootstrap, median, wilson};
use serde::{Deserialize, Serialize};

/// Parts of a window that are also reported on their own.
const DEPTHS: usize = 8;

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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// Questions of one kind, answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnswerScore {
    /// The kind.
    pub task: String,
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

impl Outcome {
    /// Of a recipe's records; `reference` are the reference's own.
    pub(super) fn of(records: &[Record], reference: &[Record], settings: &QualitySettings) -> Outcome {
        let windows: Vec<&WindowScore> = records.iter().filter_map(|record| record.window.as_ref()).collect();
        let rate = |scored: bool| {
            let of = records.iter().map(|record| &record.time).filter(|time| time.scored == scored);
            let (tokens, seconds) = of.fold((0, 0.0), |(tokens, seconds), time| {
                (tokens + time.prefill_tokens, seconds + time.prefill_seconds)
            });
            (tokens > 0).then(|| tokens as f64 / seconds)
        };
        let steps = records.iter().filter(|record| record.window.is_some());
        let steps: Vec<f64> = steps.filter_map(|record| record.time.step_seconds).collect();
        Outcome {
            recipe: records.first().map_or_else(String::new, |record| record.recipe.clone()),
            is_reference: records.first().is_some_and(|record| record.is_reference),
            failure: records.iter().find_map(|record| record.failure.clone()),
            scores: Scores::of(&windows, settings.resamples, settings.seed),
            answers: settings
                .tasks
                .iter()
                .filter_map(|task| AnswerScore::of(task.name(), records, reference))
                .collect(),
            memory: records
                .iter()
                .filter(|record| record.window.is_some())
                .filter_map(|record| record.memory)
                .next_back(),
            speed: Speed {
                scoring: rate(true),
                prefill: rate(false),
                decode: (!steps.is_empty()).then(|| 1.0 / median(&steps)),
            },
        }
    }
}

impl Scores {
    /// Of windows; `None` without predictions.
    pub fn of(windows: &[&WindowScore], resamples: usize, seed: u64) -> Option<Scores> {
        let blocks: Vec<BlockSums> = windows.iter().flat_map(|window| window.blocks.iter().copied()).collect();
        let total = add(&blocks);
        let interval = |of: fn(&BlockSums) -> f64| bootstrap(&blocks, resamples, seed, of);
        (total[0] > 0.0).then(|| Scores {
            tokens: total[0] as usize,
            kl_mean: kl_mean(&total),
            kl_interval: interval(kl_mean),
            kl_p99: upper(windows.iter().flat_map(|window| &window.tail).copied().collect(), total[0] as usize, 0.99),
            kl_max: windows.iter().filter_map(|window| window.tail.first()).copied().fold(0.0, f64::max),
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

/// The quantile `q` of `count` values, of which only the largest are there.
fn upper(mut largest: Vec<f64>, count: usize, q: f64) -> f64 {
    largest.sort_by(|a, b| b.total_cmp(a));
    // Counted from the greatest, as [`crate::statistics::quantile`] counts from the least.
    let at = (1.0 - q) * count.saturating_sub(1) as f64;
    let (above, share) = (at.floor() as usize, at.fract());
    match (largest.get(above), largest.get(above + 1)) {
        (Some(&high), Some(&low)) => high + share * (low - high),
        _ => largest.last().copied().unwrap_or(f64::NAN),
    }
}

/// In whole blocks.
fn by_depth(windows: &[&WindowScore]) -> Vec<DepthScore> {
    let longest = windows.iter().map(|window| window.blocks.len()).max().unwrap_or(0);
    let block = windows.first().map_or(1, |window| window.block);
    let tokens = windows.iter().map(|window| window.tokens()).max().unwrap_or(0);
    let each = longest.div_ceil(DEPTHS).max(1);
    let part = |from: usize| {
        let to = (from + each).min(longest);
        let of =
            windows.iter().flat_map(|window| window.blocks.get(from..to.min(window.blocks.len())).unwrap_or_default());
        let total = add(&of.copied().collect::<Vec<_>>());
        // Position 0 has no prediction.
        let (from, to) = (from * block + 1, (to * block).min(tokens) + 1);
        DepthScore {
            from,
            to,
            kl_mean: kl_mean(&total),
            top1: top1(&total),
            perplexity_ratio: perplexity_ratio(&total),
        }
    };
    (0..longest).step_by(each).map(part).collect()
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

impl AnswerScore {
    /// How one kind of question went; `None` where there was none.
    fn of(task: &str, records: &[Record], reference: &[Record]) -> Option<AnswerScore> {
        let answers = |records: &[Record]| -> Vec<Answer> {
            records.iter().filter(|record| record.item.task == task).flat_map(|record| record.answers.clone()).collect()
        };
        let (own, others) = (answers(records), answers(reference));
        let right = own.iter().filter(|answer| answer.score == 1.0).count();
        let same =
            |answer: &&Answer| others.iter().any(|other| other.index == answer.index && other.answer == answer.answer);
        (!own.is_empty()).then(|| AnswerScore {
            task: task.to_owned(),
            of: own.len(),
            right,
            accuracy: own.iter().map(|answer| answer.score).sum::<f64>() / own.len() as f64,
            interval: wilson(right, own.len()),
            same_as_reference: own.iter().filter(same).count(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::measures::TokenMeasure;
    use crate::statistics::quantile;
    use proptest::prelude::*;

    fn token(kl: f64, nll: f64, same_top1: bool, shared_top5: u8) -> TokenMeasure {
        TokenMeasure { kl, nll, reference_nll: 1.0, same_top1, shared_top5 }
    }

    #[test]
    fn scores_by_hand() {
        let windows = [
            vec![token(0.0, 1.0, true, 5), token(0.2, 1.5, false, 4)],
            vec![token(0.1, 0.5, true, 5), token(0.5, 2.0, true, 1)],
        ];
        let windows = windows.map(|tokens| WindowScore::of(&tokens, 1, 2));
        let scores = Scores::of(&windows.each_ref(), 200, 1).unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        assert_eq!(scores.tokens, 4);
        close(scores.kl_mean, 0.2);
        close(scores.kl_max, 0.5);
        close(scores.kl_p99, 0.2 + 0.97 * 0.3);
        close(scores.top1, 0.75);
        close(scores.top5, 0.75);
        close(scores.perplexity, 1.25f64.exp());
        close(scores.perplexity_ratio, 0.25f64.exp());
        assert!(scores.kl_interval.low < 0.1 && scores.kl_interval.high > 0.3);
        assert_eq!(scores.by_depth.len(), 2);
        close(scores.by_depth[1].kl_mean, 0.35);
        assert_eq!((scores.by_depth[1].from, scores.by_depth[1].to), (2, 3));
        assert!(Scores::of(&[], 200, 1).is_none());
    }

    proptest! {
        #[test]
        fn percentiles_need_only_the_largest(values in prop::collection::vec(0.0f64..1.0, 1..400), cut in 1usize..4) {
            let windows: Vec<Vec<f64>> = values.chunks(values.len().div_ceil(cut)).map(<[f64]>::to_vec).collect();
            let tail = values.len() / 100 + 2;
            let largest = windows.into_iter().flat_map(|mut window| {
                window.sort_by(|a, b| b.total_cmp(a));
                window.truncate(tail);
                window
            });
            let found = upper(largest.collect(), values.len(), 0.99);
            prop_assert!((found - quantile(&values, 0.99)).abs() < 1e-12);
        }
    }
}
