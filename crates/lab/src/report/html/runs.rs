//! Runs: everything needed to repeat them.

use super::run_anchor;
use crate::report::sheet::Sheet;
use crate::report::{show, summary};
use serde::Serialize;

/// A run.
#[derive(Serialize)]
pub struct Run {
    anchor: String,
    id: String,
    command: String,
    started: String,
    /// Headings, and names and values beneath them.
    parts: Vec<(&'static str, Vec<(String, String)>)>,
}

/// The runs of a sheet.
pub fn runs(sheet: &Sheet) -> Vec<Run> {
    let run = |(i, (id, run)): (usize, &(String, crate::report::Run))| {
        let digest = run.program_digest.clone().unwrap_or_else(|| "unknown".into());
        let program = vec![("version".into(), run.version.clone()), ("digest".into(), digest)];
        let parts = [
            ("Program", program),
            ("Model", summary::pairs(&run.model)),
            ("Text", summary::pairs(&run.text)),
            ("Machine", summary::pairs(&run.machine)),
            ("Settings", summary::pairs(&run.settings)),
        ];
        Run {
            anchor: run_anchor(i),
            id: id.clone(),
            command: show::command(&run.command),
            started: show::time(run.started),
            parts: parts.into_iter().filter(|(_, pairs)| !pairs.is_empty()).collect(),
        }
    };
    sheet.runs.iter().enumerate().map(run).collect()
}
