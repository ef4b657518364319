//! One row per recipe, over all its cells.

use super::estimate::{Estimate, Part, Verdict, mean};
use super::sheet::{columns, in_order};
use crate::cell::Cell;
use crate::quality::Scores;
use crate::statistics::Interval;
use std::collections::BTreeSet;

/// What is known about a recipe over all its cells.
///
/// Cells that failed are counted and in no mean. Where a recipe lacks cells that others have, its means have
/// `cells < of` and do not compare with theirs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overall {
    /// The recipe.
    pub recipe: String,
    /// Whether it is what the others are compared with; its differences are none by definition.
    pub is_reference: bool,
    /// Windows and questions measured, and those planned, over all cells.
    pub items: usize,
    /// See `items`.
    pub planned: usize,
    /// Mean score over tasks and lengths, in `[0, 1]`: the mean of cell means (see [`Estimate`]).
    pub score: Option<Estimate>,
    /// The same of the paired difference from the reference's scores.
    pub difference: Option<Estimate>,
    /// The same over cells where the question was known when the context was reduced.
    pub difference_known: Option<Estimate>,
    /// The same over cells where it was not.
    pub difference_unknown: Option<Estimate>,
    /// Mean Kullback-Leibler divergence in nats, of the `perplexity` cell at the greatest length that any recipe has;
    /// absent where this recipe has none there.
    pub kl: Option<Estimate>,
    /// Perplexity relative to the reference's, of the same cell.
    pub perplexity_ratio: Option<Estimate>,
    /// Bytes of the cache at the end, relative to the reference's: mean of cells.
    pub bytes_share: Option<f64>,
    /// Bits per key or value: mean of cells.
    pub bits: Option<f64>,
    /// Tokens per second while decoding, relative to the reference's: geometric mean of cells.
    pub decode_ratio: Option<f64>,
    /// Tokens of a prompt per second, relative to the reference's: geometric mean of cells.
    pub prefill_ratio: Option<f64>,
    /// Mean share of a greedy generation before the first token that differs from the reference's: mean of cell means.
    pub agreement: Option<Estimate>,
    /// Cells, and why some have no results.
    pub cells: usize,
    /// See `cells`.
    pub failures: Vec<Failed>,
    /// Names of the runs it comes from.
    pub runs: Vec<String>,
}

/// A cell without (complete) results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The task, the length and whether the question was known, in words.
    pub at: String,
    /// Why.
    pub reason: String,
}

impl Overall {
    /// What may be said of its answers.
    pub fn verdict(&self) -> Option<Verdict> {
        self.difference.map(|d| Verdict::of(d.interval, d.items, 0.0, true))
    }

    /// What may be said of its perplexity.
    pub fn perplexity_verdict(&self) -> Option<Verdict> {
        self.perplexity_ratio.map(|r| perplexity_verdict(r.value, r.interval))
    }
}

/// What may be said of a perplexity relative to the reference's: an interval without width comes of a single block.
pub fn perplexity_verdict(ratio: f64, interval: Interval) -> Verdict {
    let items = if interval.low == interval.high && ratio == interval.low { 0 } else { usize::MAX };
    Verdict::of(interval, items, 1.0, false)
}

/// One row per recipe, in the order in which they come.
pub fn recipes(cells: &[Cell]) -> Vec<Overall> {
    let all = Kinds {
        answered: lengths(cells, |cell| cell.answers.is_some()),
        generated: lengths(cells, |cell| cell.generation.is_some()),
        longest: cells.iter().filter(|cell| divergence(cell).is_some()).map(|cell| cell.tokens).max(),
    };
    let names = in_order(cells.iter().map(|cell| cell.recipe.as_str()));
    let own = |name: &str| cells.iter().filter(|cell| cell.recipe == name).collect::<Vec<_>>();
    names.into_iter().map(|name| overall(name, &own(name), &all)).collect()
}

/// What there is to be had of each kind.
struct Kinds {
    answered: usize,
    generated: usize,
    longest: Option<usize>,
}

fn overall(name: &str, cells: &[&Cell], all: &Kinds) -> Overall {
    let good: Vec<&Cell> = cells.iter().copied().filter(|cell| cell.failure.is_none()).collect();
    let answers = |known: Option<bool>, of: usize, what: &dyn Fn(&crate::cell::Answered) -> (f64, Interval)| {
        let cells = good.iter().filter(|cell| known.is_none() || cell.known == known);
        let parts = cells.filter_map(|cell| {
            let (value, interval) = what(cell.answers.as_ref()?);
            Some(part(cell, value, interval, cell.answers.as_ref()?.questions))
        });
        mean(&parts.collect::<Vec<_>>(), of)
    };
    let difference = |a: &crate::cell::Answered| (a.difference, a.difference_interval);
    let known = |known| answers(Some(known), all.answered, &difference);
    let longest: Vec<(&Cell, &Scores)> = good
        .iter()
        .filter(|cell| Some(cell.tokens) == all.longest)
        .filter_map(|cell| Some((*cell, divergence(cell)?)))
        .collect();
    let of_longest = |what: &dyn Fn(&Scores) -> (f64, Interval)| {
        let part = |(cell, d): &(&'_ Cell, &Scores)| (what(d), cell.tokens, d.tokens);
        let parts: Vec<_> = longest.iter().map(part).collect();
        let parts = parts.iter().map(|&((value, interval), tokens, items)| Part {
            task: "perplexity",
            tokens,
            value,
            interval,
            items,
        });
        mean(&parts.collect::<Vec<_>>(), 1)
    };
    let generations = good.iter().filter_map(|cell| {
        let g = cell.generation.as_ref()?;
        Some(part(cell, g.agreement, g.agreement_interval, g.count))
    });
    let memory = good.iter().filter_map(|cell| cell.memory);
    let shares = memory.clone().filter(|m| m.reference_bytes > 0).map(|m| m.bytes as f64 / m.reference_bytes as f64);
    let mut row = Overall {
        recipe: name.to_owned(),
        is_reference: cells.iter().any(|cell| cell.is_reference),
        items: cells.iter().map(|cell| cell.items).sum(),
        planned: cells.iter().map(|cell| cell.planned).sum(),
        score: answers(None, all.answered, &|a| (a.score, a.interval)),
        difference: answers(None, all.answered, &difference),
        difference_known: known(true),
        difference_unknown: known(false),
        kl: of_longest(&|d| (d.kl_mean, d.kl_interval)),
        perplexity_ratio: of_longest(&|d| (d.perplexity_ratio, d.perplexity_ratio_interval)),
        bytes_share: arithmetic(shares),
        bits: arithmetic(memory.map(|m| m.bits)),
        decode_ratio: geometric(good.iter().filter_map(|cell| cell.speed.decode_ratio)),
        prefill_ratio: geometric(good.iter().filter_map(|cell| cell.speed.prefill_ratio)),
        agreement: mean(&generations.collect::<Vec<_>>(), all.generated),
        cells: cells.len(),
        failures: cells.iter().filter_map(|cell| failed(cell)).collect(),
        runs: in_order(cells.iter().flat_map(|cell| &cell.runs).map(String::as_str))
            .iter()
            .map(|&r| r.into())
            .collect(),
    };
    if row.is_reference {
        by_definition(&mut row, all);
    }
    row
}

/// The reference does not differ from itself, whether that was written down or not.
fn by_definition(row: &mut Overall, all: &Kinds) {
    let exactly = |value: f64, of: usize| {
        let interval = Interval { low: value, high: value };
        (of > 0).then_some(Estimate { value, interval, items: 0, cells: of, of })
    };
    row.difference = exactly(0.0, all.answered);
    (row.difference_known, row.difference_unknown) = (None, None);
    let longest = usize::from(all.longest.is_some());
    row.kl = exactly(0.0, longest);
    row.perplexity_ratio = exactly(1.0, longest);
    row.agreement = exactly(1.0, all.generated);
    row.bytes_share = Some(1.0);
    row.decode_ratio = row.decode_ratio.map(|_| 1.0);
    row.prefill_ratio = row.prefill_ratio.map(|_| 1.0);
}

fn part(cell: &Cell, value: f64, interval: Interval, items: usize) -> Part<'_> {
    Part { task: &cell.task, tokens: cell.tokens, value, interval, items }
}

fn divergence(cell: &Cell) -> Option<&Scores> {
    cell.divergence.as_ref().filter(|_| cell.task == "perplexity")
}

fn failed(cell: &Cell) -> Option<Failed> {
    let at = super::sheet::column(cell).name();
    cell.failure.as_ref().map(|reason| Failed { at, reason: reason.clone() })
}

/// Tasks at lengths, the question known or not.
fn lengths(cells: &[Cell], keep: impl Fn(&Cell) -> bool) -> usize {
    columns(cells, keep).iter().map(|column| (column.task, column.tokens)).collect::<BTreeSet<_>>().len()
}

fn arithmetic(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn geometric(values: impl Iterator<Item = f64>) -> Option<f64> {
    arithmetic(values.filter(|value| *value > 0.0).map(f64::ln)).map(f64::exp)
}
