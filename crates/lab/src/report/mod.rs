//! What is left of a run: JSON lines for programs, a Markdown table for people.

mod lines;
mod table;

pub use lines::{Lines, Run};
pub use table::table;
