//! From records to cells.

use crate::cell::{Answered, Cell, CellMemory, CellSpeed, Generated};
use crate::quality::{Answer, ItemName, Record, Scores, WindowScore};
use crate::statistics::{median, paired, wilson_mean};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Draws for intervals, and their seed.
const RESAMPLES: usize = 1000;
const SEED: u64 = 1;

/// A column of results: task, tokens, whether the question is known.
type Column = (String, usize, Option<bool>);

fn column(item: &ItemName) -> Column {
    (item.task.clone(), item.tokens, item.known)
}

/// What the cells of a run are made of.
pub struct Collection<'a> {
    /// Records, each with the name of its run.
    pub records: &'a [(String, Record)],
    /// Recipes in the order in which they are to appear; the reference first.
    pub recipes: &'a [String],
    /// Those that keep less than everything of a context. For the others it is all the same whether a question is known.
    pub keeps: &'a HashSet<String>,
    /// Items that are planned.
    pub planned: &'a [ItemName],
}

/// Every recipe on every task and length that there is anything of, or that is planned.
pub fn cells(of: &Collection<'_>) -> Vec<Cell> {
    let mut by: HashMap<(String, Column), Vec<&(String, Record)>> = HashMap::new();
    for entry in of.records {
        by.entry((entry.1.recipe.clone(), column(&entry.1.item))).or_default().push(entry);
    }
    for records in by.values_mut() {
        records.sort_by_key(|(_, record)| record.item.index);
        records.dedup_by_key(|(_, record)| record.item.index);
    }
    let mut columns: Vec<(Column, usize)> = Vec::new();
    for item in of.planned.iter().chain(of.records.iter().map(|(_, record)| &record.item)) {
        let column = column(item);
        match columns.iter_mut().find(|(known, _)| *known == column) {
            Some((_, items)) => *items = (*items).max(item.index + 1),
            None => columns.push((column, item.index + 1)),
        }
    }
    let mut cells = Vec::new();
    for (column, planned) in &columns {
        let find = |recipe: &str| {
            // A question that is known changes nothing where nothing is reduced.
            let same = column.2 == Some(true) && !of.keeps.contains(recipe);
            let known = if same { Some(false) } else { column.2 };
            let there = by.get(&(recipe.to_owned(), column.clone()));
            let there = there.or_else(|| by.get(&(recipe.to_owned(), (column.0.clone(), column.1, known))));
            there.map_or(&[][..], Vec::as_slice)
        };
        let reference: Vec<&Record> =
            of.recipes.first().map_or(&[][..], |name| find(name)).iter().map(|e| &e.1).collect();
        for (i, recipe) in of.recipes.iter().enumerate() {
            let own = find(recipe);
            if own.is_empty() && i > 0 && reference.is_empty() {
                continue;
            }
            cells.push(cell(recipe, i == 0, column, *planned, own, &reference));
        }
    }
    cells
}

fn cell(
    recipe: &str,
    is_reference: bool,
    column: &Column,
    planned: usize,
    own: &[&(String, Record)],
    reference: &[&Record],
) -> Cell {
    let records: Vec<&Record> = own.iter().map(|entry| &entry.1).collect();
    let mut runs: Vec<String> = own.iter().map(|entry| entry.0.clone()).collect();
    runs.sort();
    runs.dedup();
    Cell {
        recipe: recipe.to_owned(),
        is_reference,
        task: column.0.clone(),
        tokens: column.1,
        known: column.2,
        items: records.iter().filter(|record| record.failure.is_none()).count(),
        planned,
        failure: records.iter().find_map(|record| record.failure.clone()),
        divergence: divergence(&records),
        answers: answered(&records, reference),
        generation: generated(&records),
        heads: heads(&records),
        memory: memory(&records, reference),
        speed: speed(&records, reference),
        runs,
    }
}

fn divergence(records: &[&Record]) -> Option<Scores> {
    let windows: Vec<&WindowScore> = records.iter().filter_map(|record| record.window.as_ref()).collect();
    Scores::of(&windows, RESAMPLES, SEED)
}

fn answered(records: &[&Record], reference: &[&Record]) -> Option<Answered> {
    // What nobody knows the answer to has no score.
    let own = records.iter().flat_map(|record| &record.answers).filter(|answer| !answer.expected.is_empty());
    let own: Vec<&Answer> = own.collect();
    let others: HashMap<usize, &Answer> =
        reference.iter().flat_map(|record| &record.answers).map(|answer| (answer.index, answer)).collect();
    if own.is_empty() {
        return None;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let scores: Vec<f64> = own.iter().map(|answer| answer.score).collect();
    let pairs: Vec<(&&Answer, &&Answer)> =
        own.iter().filter_map(|answer| others.get(&answer.index).map(|other| (answer, other))).collect();
    let differences: Vec<f64> = pairs.iter().map(|(own, other)| own.score - other.score).collect();
    let same: Vec<f64> = pairs.iter().map(|(own, other)| f64::from(u8::from(own.answer == other.answer))).collect();
    let mut depths: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for answer in &own {
        if let Some(depth) = answer.depth {
            depths.entry((depth * 1e9) as u64).or_default().push(answer.score);
        }
    }
    let by_depth = depths.into_iter().map(|(depth, scores)| (depth as f64 / 1e9, mean(&scores), scores.len()));
    Some(Answered {
        questions: own.len(),
        score: mean(&scores),
        interval: wilson_mean(scores.iter().sum(), scores.len()),
        difference: mean(&differences),
        difference_interval: paired(&differences),
        same: mean(&same),
        by_depth: by_depth.collect(),
    })
}

fn generated(records: &[&Record]) -> Option<Generated> {
    let own: Vec<_> = records.iter().filter_map(|record| record.generation.as_ref()).collect();
    let shares: Vec<f64> = own.iter().map(|own| own.agreed as f64 / own.tokens.max(1) as f64).collect();
    let total: f64 = shares.iter().sum();
    (!own.is_empty()).then(|| Generated {
        count: own.len(),
        tokens: own.iter().map(|own| own.tokens).max().unwrap_or(0),
        agreement: total / own.len() as f64,
        agreement_interval: wilson_mean(total, own.len()),
        first_divergence: median(&own.iter().map(|own| own.agreed as f64).collect::<Vec<_>>()),
        same: own.iter().filter(|own| own.agreed == own.tokens).count() as f64 / own.len() as f64,
    })
}

/// Means over items.
fn heads(records: &[&Record]) -> Vec<Vec<f64>> {
    let own: Vec<&Vec<Vec<f64>>> =
        records.iter().map(|record| &record.heads).filter(|heads| !heads.is_empty()).collect();
    let Some((first, others)) = own.split_first() else { return Vec::new() };
    let mut sums: Vec<Vec<f64>> = first.to_vec();
    for layers in others {
        sums.iter_mut().flatten().zip(layers.iter().flatten()).for_each(|(sum, value)| *sum += value);
    }
    sums.iter_mut().flatten().for_each(|sum| *sum /= own.len() as f64);
    sums
}

fn memory(records: &[&Record], reference: &[&Record]) -> Option<CellMemory> {
    let own: Vec<_> = records.iter().filter_map(|record| record.memory).collect();
    let mean = |values: Vec<u64>| if values.is_empty() { 0 } else { values.iter().sum::<u64>() / values.len() as u64 };
    let held = mean(own.iter().map(|memory| memory.bytes).collect());
    (!own.is_empty()).then(|| CellMemory {
        bytes: held,
        peak_bytes: own.iter().map(|memory| memory.peak_bytes).max().unwrap_or(0),
        reference_bytes: mean(reference.iter().filter_map(|record| record.memory).map(|memory| memory.bytes).collect()),
        bits: own.iter().map(|memory| memory.bits_per_element).sum::<f64>() / own.len() as f64,
        // Every page is read at every step.
        step_bytes: held,
    })
}

fn speed(records: &[&Record], reference: &[&Record]) -> CellSpeed {
    let middle = |values: Vec<f64>| (!values.is_empty()).then(|| median(&values));
    let prefill = |records: &[&Record]| {
        let times = records.iter().map(|record| &record.time).filter(|time| time.prefill_tokens > 0);
        middle(times.map(|time| time.prefill_tokens as f64 / time.prefill_seconds.max(1e-9)).collect())
    };
    let decode = |records: &[&Record]| middle(records.iter().filter_map(|record| record.time.step_seconds).collect());
    let ratio = |own: Option<f64>, other: Option<f64>| own.zip(other).map(|(own, other)| own / other);
    let (own, other) = (decode(records).map(f64::recip), decode(reference).map(f64::recip));
    CellSpeed {
        ttft: middle(records.iter().flat_map(|record| record.time.first.iter().copied()).collect()),
        prefill: prefill(records),
        prefill_ratio: ratio(prefill(records), prefill(reference)),
        decode: own,
        decode_ratio: ratio(own, other),
    }
}
