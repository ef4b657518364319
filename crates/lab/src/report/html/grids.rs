//! Tables of recipes by tasks and lengths.

use super::recipe_anchor;
use super::rows::class;
use crate::report::cells::KINDS;
use crate::report::estimate::Verdict;
use crate::report::overall::Overall;
use crate::report::sheet::{Column, Sheet, column, columns};
use crate::report::show::NONE;
use serde::Serialize;

/// A table: its heading, its columns and rows.
#[derive(Serialize)]
pub struct Grid {
    title: &'static str,
    columns: Vec<String>,
    /// Anchor and name of the recipe, and the fields.
    rows: Vec<(String, String, Vec<Field>)>,
}

#[derive(Serialize)]
struct Field {
    sort: Option<f64>,
    text: String,
    details: String,
    class: &'static str,
    verdict: &'static str,
}

/// The tables that have anything in them.
pub fn grids(sheet: &Sheet, rows: &[Overall]) -> Vec<Grid> {
    let grid = |(title, kind): &(&'static str, fn(&crate::cell::Cell) -> Option<crate::report::cells::Shown>)| {
        let columns = columns(&sheet.cells, |cell| kind(cell).is_some());
        let field = |recipe: &str, of: &Column<'_>| {
            let cell = sheet.cells.iter().find(|cell| cell.recipe == recipe && column(cell) == *of);
            match cell.map(|cell| (cell, kind(cell))) {
                Some((cell, _)) if cell.failure.is_some() => {
                    let details = cell.failure.clone().unwrap_or_default();
                    Field { sort: None, text: "failed".into(), details, class: "failed", verdict: "" }
                }
                Some((_, Some(shown))) => Field {
                    sort: Some(shown.value),
                    text: shown.text,
                    details: shown.details,
                    class: class(shown.verdict),
                    verdict: shown.verdict.map_or("", Verdict::name),
                },
                _ => Field { sort: None, text: NONE.into(), details: String::new(), class: "", verdict: "" },
            }
        };
        let row = |(i, row): (usize, &Overall)| {
            let fields = columns.iter().map(|of| field(&row.recipe, of)).collect();
            (recipe_anchor(i), row.recipe.clone(), fields)
        };
        let names = columns.iter().map(Column::name).collect();
        (!columns.is_empty()).then(|| Grid { title, columns: names, rows: rows.iter().enumerate().map(row).collect() })
    };
    KINDS.iter().filter_map(grid).collect()
}
