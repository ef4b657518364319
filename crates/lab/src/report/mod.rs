//! What is left of a run: JSON lines for programs, tables and pages for people.
//!
//! - [`Lines`]: the JSON lines.
//! - [`table()`]: outcomes of one run as a Markdown table.
//! - [`Sheet`]: what a report is made of, shown by [`html()`], [`markdown()`] and [`csv()`].
//! - [`recipes`]: one row per recipe over all its cells; [`Estimate`] has the rules for means, [`Verdict`] those for
//!   differences, [`Standing`] those for Pareto fronts.

mod cells;
mod csv;
mod estimate;
mod fronts;
mod html;
mod lines;
mod markdown;
mod overall;
mod pareto;
mod sheet;
mod show;
mod summary;
mod table;

pub use csv::{csv, depths_csv, heads_csv};
pub use estimate::{Estimate, FEWEST, Verdict};
pub use html::{ReportError, html};
pub use lines::{Lines, Run};
pub use markdown::markdown;
pub use overall::{Failed, Overall, recipes};
pub use pareto::{Point, Standing, standings};
pub use sheet::{RecipeInfo, Sheet};
pub use table::table;
