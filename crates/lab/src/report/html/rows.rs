//! The table of all recipes.

use super::{recipe_anchor, run_anchor};
use crate::report::estimate::{Estimate, Verdict};
use crate::report::fronts;
use crate::report::overall::Overall;
use crate::report::sheet::{RecipeInfo, Sheet};
use crate::report::show::{self, NONE};
use serde::Serialize;

/// Heads and rows.
#[derive(Serialize)]
pub struct Table {
    /// Heading, and what stands beneath it.
    pub heads: Vec<(&'static str, &'static str)>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// A recipe.
#[derive(Serialize)]
pub struct Row {
    anchor: String,
    name: String,
    is_reference: bool,
    cells: Vec<Field>,
    failed: usize,
    /// Runs: what is shown, and the anchor where the sheet has the run.
    runs: Vec<(String, Option<String>)>,
    /// What it does.
    line: String,
    /// Its paper, kind and needs.
    about: Vec<(&'static str, String)>,
}

/// A field of the table.
#[derive(Serialize, Default)]
pub struct Field {
    /// To sort by; what has none goes to the end.
    pub sort: Option<f64>,
    /// The number.
    pub text: String,
    /// What belongs to it, each on a line of its own.
    pub notes: Vec<String>,
    /// A verdict as a class: `better`, `worse`, `same`.
    pub class: &'static str,
    /// A verdict for those who do not see its sign; empty where the text says it.
    pub verdict: &'static str,
}

/// The table of a sheet.
pub fn table(sheet: &Sheet, rows: &[Overall]) -> Table {
    // Two columns that few sheets can fill.
    let has_known = rows.iter().any(|row| row.difference_known.is_some());
    let has_unknown = rows.iter().any(|row| row.difference_unknown.is_some());
    let mut heads = vec![("Score difference", "points, mean of tasks")];
    heads.extend([
        ("KL", "nats, longest perplexity cell"),
        ("Perplexity", "of the same cell"),
        ("Bytes", "share of the reference's"),
        ("Bits", "per key or value"),
        ("Decode", "speed, of the reference's"),
        ("Prefill", "speed, of the reference's"),
        ("Agreement", "of greedy generations"),
    ]);
    if has_known && has_unknown {
        heads.extend([("Question known", "score difference"), ("Not known", "score difference")]);
    }
    heads.extend([("Front", "of how many planes"), ("Measured", "windows and questions"), ("Failed", "cells")]);
    let fronts = fronts::all(rows);
    let on = |i: usize| {
        let marks = fronts.iter().flat_map(|front| &front.marks).filter(|mark| mark.row == i);
        marks.filter(|mark| mark.standing.is_some_and(|standing| standing.is_front())).count()
    };
    let of = fronts.iter().filter(|front| !front.marks.is_empty()).count();
    let info = |recipe: &str| sheet.recipes.iter().find(|info| info.name == recipe);
    let row = |(i, row): (usize, &Overall)| {
        let mut cells = vec![difference(row, &row.difference)];
        cells.extend([
            estimate(&row.kl, show::digits, None),
            estimate(&row.perplexity_ratio, show::change, row.perplexity_verdict().filter(|_| !row.is_reference)),
            number(row.bytes_share, show::percent),
            number(row.bits, show::digits),
            number(row.decode_ratio, show::times),
            number(row.prefill_ratio, show::times),
            estimate(&row.agreement, show::percent, None),
        ]);
        if has_known && has_unknown {
            cells.extend([difference(row, &row.difference_known), difference(row, &row.difference_unknown)]);
        }
        cells.extend([
            Field { sort: Some(on(i) as f64), text: format!("{} of {of}", on(i)), ..Field::default() },
            measured(row),
            Field { sort: Some(row.failures.len() as f64), text: failed(row), ..Field::default() },
        ]);
        Row {
            anchor: recipe_anchor(i),
            name: row.recipe.clone(),
            is_reference: row.is_reference,
            cells,
            failed: row.failures.len(),
            runs: row.runs.iter().map(|run| (run.clone(), anchor(sheet, run))).collect(),
            line: info(&row.recipe).map(|info| info.line.clone()).unwrap_or_default(),
            about: info(&row.recipe).map(about).unwrap_or_default(),
        }
    };
    Table { heads, rows: rows.iter().enumerate().map(row).collect() }
}

/// Cells that failed for the same reason.
#[derive(Serialize)]
pub struct Failures<'a> {
    anchor: String,
    name: &'a str,
    /// Tasks and lengths.
    at: Vec<&'a str>,
    reason: &'a str,
}

/// Failures by recipe and reason.
pub fn failures(rows: &[Overall]) -> Vec<Failures<'_>> {
    let mut failures: Vec<Failures<'_>> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let first = failures.len();
        for failed in &row.failures {
            match failures[first..].iter_mut().find(|same| same.reason == failed.reason) {
                Some(same) => same.at.push(&failed.at),
                None => failures.push(Failures {
                    anchor: recipe_anchor(i),
                    name: &row.recipe,
                    at: vec![&failed.at],
                    reason: &failed.reason,
                }),
            }
        }
    }
    failures
}

fn anchor(sheet: &Sheet, run: &str) -> Option<String> {
    sheet.runs.iter().position(|(id, _)| id == run).map(run_anchor)
}

fn about(info: &RecipeInfo) -> Vec<(&'static str, String)> {
    let entries = [("paper", &info.paper), ("kind", &info.family), ("needs", &info.needs)];
    entries.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, value.clone())).collect()
}

fn difference(row: &Overall, difference: &Option<Estimate>) -> Field {
    let verdict = difference.map(|d| Verdict::of(d.interval, d.items, 0.0, true)).filter(|_| !row.is_reference);
    estimate(difference, show::points, verdict)
}

/// A number with its interval; one that is within noise of the reference says so before anything else.
fn estimate(value: &Option<Estimate>, show: fn(f64) -> String, verdict: Option<Verdict>) -> Field {
    let Some(value) = value else { return none() };
    let (number, interval) = (show(value.value), show::interval(value.interval, show));
    let (text, note) = match verdict {
        Some(Verdict::NotSeen) => (Verdict::NotSeen.name().to_owned(), format!("{number} {interval}")),
        // The interval of the reference has no width.
        _ if value.items == 0 => (number, String::new()),
        _ => (number, interval),
    };
    let lacks = if value.is_complete() { String::new() } else { format!("{} of {} cells", value.cells, value.of) };
    let notes = [note, lacks].into_iter().filter(|note| !note.is_empty()).collect();
    let said = verdict.filter(|verdict| *verdict != Verdict::NotSeen).map_or("", Verdict::name);
    Field { sort: Some(value.value), text, notes, class: class(verdict), verdict: said }
}

/// The class of a verdict.
pub fn class(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Better) => "better",
        Some(Verdict::Worse) => "worse",
        Some(Verdict::NotSeen) => "same",
        None => "",
    }
}

fn number(value: Option<f64>, show: fn(f64) -> String) -> Field {
    value.map_or_else(none, |value| Field { sort: Some(value), text: show(value), ..Field::default() })
}

fn none() -> Field {
    Field { text: NONE.into(), ..Field::default() }
}

fn measured(row: &Overall) -> Field {
    let share = row.items as f64 / row.planned.max(1) as f64;
    Field { sort: Some(share), text: format!("{} of {}", row.items, row.planned), ..Field::default() }
}

fn failed(row: &Overall) -> String {
    if row.failures.is_empty() { "0".into() } else { format!("{} of {}", row.failures.len(), row.cells) }
}
