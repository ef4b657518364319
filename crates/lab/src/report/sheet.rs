//! What a report is made of.

use super::Run;
use crate::cell::Cell;

/// Everything that a report shows. Reports depend on nothing else, the clock included.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    /// Heading of the report.
    pub title: String,
    /// Runs by name ([`Run::id`]), to which [`Cell::runs`] refer.
    pub runs: Vec<(String, Run)>,
    /// Name of the full-precision cache that the others are compared with.
    pub reference: String,
    /// What is known about the recipes besides results; recipes written inline may be missing.
    pub recipes: Vec<RecipeInfo>,
    /// The results, in the order in which recipes are to appear.
    pub cells: Vec<Cell>,
}

/// A recipe in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecipeInfo {
    /// Name, as in [`Cell::recipe`].
    pub name: String,
    /// The paper it comes from; may be empty.
    pub paper: String,
    /// What it does, in a line.
    pub line: String,
    /// Kind of method: the verbs that it makes a choice for.
    pub family: String,
    /// What it cannot do without: `nothing`, `profile`.
    pub needs: String,
}

/// A task at a length: a column of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Column<'a> {
    /// See [`Cell::task`].
    pub task: &'a str,
    /// See [`Cell::tokens`].
    pub tokens: usize,
    /// See [`Cell::known`].
    pub known: Option<bool>,
}

impl Column<'_> {
    /// In words.
    pub fn name(&self) -> String {
        let known = match self.known {
            None => "",
            Some(true) => ", question known",
            Some(false) => ", question not known",
        };
        format!("{}, {} tokens{known}", self.task, super::show::count(self.tokens))
    }
}

/// The column of a cell.
pub fn column(cell: &Cell) -> Column<'_> {
    Column { task: &cell.task, tokens: cell.tokens, known: cell.known }
}

/// The columns of those cells that `keep` accepts: tasks in order of appearance, then by length.
pub fn columns(cells: &[Cell], keep: impl Fn(&Cell) -> bool) -> Vec<Column<'_>> {
    let tasks = in_order(cells.iter().map(|cell| cell.task.as_str()));
    let mut columns: Vec<Column<'_>> = cells.iter().filter(|cell| keep(cell)).map(column).collect();
    columns.sort_by_key(|c| (tasks.iter().position(|task| *task == c.task), c.tokens, c.known));
    columns.dedup();
    columns
}

/// The different values, each where it came first.
pub fn in_order<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = std::collections::HashSet::new();
    values.filter(|value| seen.insert(*value)).collect()
}
