//! Scores by where a fact lies in the text and how long the text is.

use super::{LEVELS, recipe_anchor};
use crate::cell::Cell;
use crate::report::sheet::{Sheet, in_order};
use crate::report::show;
use serde::Serialize;

/// A task with depths.
#[derive(Serialize)]
pub struct Task {
    name: String,
    maps: Vec<Map>,
}

/// A recipe's scores, depths by lengths.
#[derive(Serialize)]
struct Map {
    anchor: String,
    name: String,
    /// Whether the question was known, where that makes a difference, and the questions behind a field.
    note: String,
    lengths: Vec<String>,
    /// Depths, and a field for each length.
    rows: Vec<(String, Vec<Field>)>,
}

/// The level of colour and the score, if there is one.
type Field = Option<(usize, String)>;

/// The tasks of a sheet that have depths.
pub fn tasks(sheet: &Sheet, row_of: &dyn Fn(&str) -> Option<usize>) -> Vec<Task> {
    let has_depths = |cell: &&Cell| by_depth(cell).is_some_and(|depths| !depths.is_empty());
    let cells: Vec<&Cell> = sheet.cells.iter().filter(has_depths).collect();
    let names = in_order(cells.iter().map(|cell| cell.task.as_str()));
    let task = |name: &&str| {
        let own: Vec<&Cell> = cells.iter().copied().filter(|cell| cell.task == *name).collect();
        let mut lengths: Vec<usize> = own.iter().map(|cell| cell.tokens).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let recipes = in_order(own.iter().map(|cell| cell.recipe.as_str()));
        let maps = recipes.iter().flat_map(|recipe| {
            let own = |known| own.iter().copied().filter(move |cell| cell.recipe == *recipe && cell.known == known);
            let of = |known| own(known).collect::<Vec<_>>();
            [None, Some(true), Some(false)].map(|known| map(recipe, known, &of(known), &lengths, row_of(recipe)?))
        });
        Task { name: (*name).to_owned(), maps: maps.flatten().collect() }
    };
    names.iter().map(task).collect()
}

fn map(recipe: &str, known: Option<bool>, cells: &[&Cell], lengths: &[usize], row: usize) -> Option<Map> {
    let entries = || cells.iter().filter_map(|cell| by_depth(cell)).flatten();
    let mut depths: Vec<f64> = entries().map(|entry| entry.0).collect();
    depths.sort_by(f64::total_cmp);
    depths.dedup();
    let (fewest, most) = (entries().map(|entry| entry.2).min()?, entries().map(|entry| entry.2).max()?);
    let each =
        if fewest == most { format!("{most} questions each") } else { format!("{fewest} to {most} questions each") };
    let score = |tokens: usize, depth: f64| {
        let cell = cells.iter().find(|cell| cell.tokens == tokens)?;
        let (_, score, _) = by_depth(cell)?.iter().find(|entry| entry.0 == depth)?;
        let level = (score.clamp(0.0, 1.0) * (LEVELS - 1) as f64).round() as usize;
        Some((level, format!("{:.0}", 100.0 * score)))
    };
    let rows = depths
        .iter()
        .map(|&depth| (format!("{:.0}%", 100.0 * depth), lengths.iter().map(|&tokens| score(tokens, depth)).collect()));
    Some(Map {
        anchor: recipe_anchor(row),
        name: recipe.to_owned(),
        note: match known {
            None => each,
            Some(true) => format!("question known, {each}"),
            Some(false) => format!("not known, {each}"),
        },
        lengths: lengths.iter().map(|&tokens| short(tokens)).collect(),
        rows: rows.collect(),
    })
}

fn by_depth(cell: &Cell) -> Option<&[(f64, f64, usize)]> {
    cell.answers.as_ref().map(|answers| answers.by_depth.as_slice())
}

/// `4k` for 4,096; other numbers that are no multiples stay as they are.
fn short(tokens: usize) -> String {
    if tokens >= 1024 && tokens.is_multiple_of(1024) { format!("{}k", tokens / 1024) } else { show::count(tokens) }
}
