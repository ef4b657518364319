//! A report as one page that needs nothing else: no network, no fonts, and no script to be read.
//!
//! - `svg`, `scale`, `labels`: what plots are made of; `scatter` and `heads` draw them.
//! - `rows`, `depths`, `grids`, `runs`: the tables, as the template takes them.
//! - `page.html`, `page.css`, `page.js`: the page.

mod depths;
mod error;
mod grids;
mod heads;
mod labels;
mod rows;
mod runs;
mod scale;
mod scatter;
mod svg;

pub use error::ReportError;

use super::fronts::{self, Cost, Front, Quality};
use super::overall::{Overall, recipes};
use super::sheet::Sheet;
use super::summary::{self, Summary};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

/// Steps of the scale of colours, `--h0` and so on in the style sheet.
const LEVELS: usize = 11;

/// The page.
///
/// Everything that comes from outside is escaped, and the page forbids itself (by a content security policy) to load
/// anything or to run another script than its own.
///
/// # Errors
/// [`ReportError`], for which no sheet is known.
pub fn html(sheet: &Sheet) -> Result<String, ReportError> {
    let rows = recipes(&sheet.cells);
    let row_of = |recipe: &str| rows.iter().position(|row| row.recipe == recipe);
    let mut heat = Vec::new();
    for cell in &sheet.cells {
        if let Some(row) = row_of(&cell.recipe) {
            heat.extend(heads::draw(row, cell, &MEDIUM)?);
        }
    }
    // The first is shown first: not the reference, which has no errors.
    heat.sort_by_key(heads::Heads::is_exact);
    let planes = fronts::all(&rows).iter().map(|front| Plane::of(front, &rows)).collect::<Result<Vec<_>, _>>()?;
    let qualities: Vec<_> = Quality::ALL.iter().map(|&(_, key, name)| context! { key, name }).collect();
    let summary = Summary::of(sheet);
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_template("page", include_str!("page.html"))?;
    let page = environment.get_template("page")?.render(context! {
        title => if sheet.title.is_empty() { "Report" } else { sheet.title.as_str() },
        nonce => nonce(sheet),
        style => Value::from_safe_string(include_str!("page.css").to_owned()),
        script => Value::from_safe_string(include_str!("page.js").to_owned()),
        summary => Value::from(Serde(summary.lines())),
        rules => summary::rules(&sheet.reference),
        names => rows.iter().map(|row| row.recipe.clone()).collect::<Vec<_>>(),
        qualities,
        planes => Value::from(Serde(planes)),
        table => Value::from(Serde(rows::table(sheet, &rows))),
        failures => Value::from(Serde(rows::failures(&rows))),
        depths => Value::from(Serde(depths::tasks(sheet, &row_of))),
        heads => Value::from(Serde(heat)),
        grids => Value::from(Serde(grids::grids(sheet, &rows))),
        runs => Value::from(Serde(runs::runs(sheet))),
        levels => (0..LEVELS).collect::<Vec<_>>(),
    })?;
    Ok(page)
}

/// The anchor of a recipe's row in the table. Names come from outside, numbers do not.
fn recipe_anchor(row: usize) -> String {
    format!("recipe-{row}")
}

/// The anchor of a run.
fn run_anchor(run: usize) -> String {
    format!("run-{run}")
}

/// A word that scripts and styles of the page carry, and that nobody who wrote a name in it can have known.
fn nonce(sheet: &Sheet) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(sheet.title.as_bytes());
    for cell in &sheet.cells {
        // What is no JSON adds nothing.
        hasher.update(&serde_json::to_vec(cell).unwrap_or_default());
    }
    for (_, run) in &sheet.runs {
        hasher.update(run.id().as_bytes());
    }
    for info in &sheet.recipes {
        hasher.update(format!("{info:?}").as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// How large a plot is, in its own pixels.
struct Size {
    width: u32,
    height: u32,
    /// Room for the numbers and name of the axis on the left.
    left: u32,
    /// And below.
    bottom: u32,
    font: f64,
    /// Numbers along the axes, at most.
    ticks: (usize, usize),
    /// How far from its mark a name may stand.
    reach: i32,
}

const WIDE: Size = Size { width: 920, height: 520, left: 76, bottom: 48, font: 13.0, ticks: (10, 9), reach: 58 };
const NARROW: Size = Size { width: 340, height: 380, left: 62, bottom: 44, font: 11.0, ticks: (5, 7), reach: 14 };
/// For heat maps: narrow enough to be read on a phone, where it shrinks.
const MEDIUM: Size = Size { width: 460, height: 0, left: 48, bottom: 36, font: 14.0, ticks: (0, 0), reach: 0 };

impl Size {
    /// About what a name takes in the fonts that browsers choose.
    fn width_of(&self, text: &str) -> i32 {
        (text.chars().count() as f64 * self.font * 0.58).ceil() as i32 + 2
    }
}

/// A plane of quality and cost, as the template takes it.
#[derive(Serialize)]
struct Plane {
    key: &'static str,
    quality: &'static str,
    cost: &'static str,
    title: &'static str,
    /// What there is to see, in words.
    description: String,
    /// Width, height and elements, on a wide page and on a narrow one.
    plots: Vec<(u32, u32, String)>,
}

impl Plane {
    fn of(front: &Front, rows: &[Overall]) -> Result<Plane, ReportError> {
        let mut plots = Vec::new();
        for size in [&WIDE, &NARROW] {
            plots.push((size.width, size.height, scatter::draw(front, rows, size)?));
        }
        plots.retain(|plot| !plot.2.is_empty());
        let on = |mark: &&fronts::Mark| mark.standing.is_some_and(|standing| standing.is_front());
        let names: Vec<&str> = front.marks.iter().filter(on).map(|mark| rows[mark.row].recipe.as_str()).collect();
        let partial = front.marks.iter().filter(|mark| mark.standing.is_none()).count();
        let mut description =
            format!("{} recipes. On the front by their estimates: {}.", front.marks.len(), names.join(", "));
        if partial > 0 {
            description += &format!(" {partial} lack cells that others have and are not compared.");
        }
        let quality = Quality::ALL.iter().find(|(quality, ..)| *quality == front.quality).map_or("", |found| found.1);
        let cost = if front.cost == Cost::Bytes { "bytes" } else { "speed" };
        Ok(Plane { key: front.key, quality, cost, title: front.title, description, plots })
    }
}
