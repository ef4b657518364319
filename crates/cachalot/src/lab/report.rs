//! `cachalot lab report`: what lies in a folder of results, for people.

use crate::Failure;
use cachalot_lab::report::{self, Sheet};
use cachalot_lab::sweep::{Store, sheet};
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct ReportArgs {
    /// A folder that `cachalot lab sweep` has written.
    folder: PathBuf,
    /// Heading of the report.
    #[arg(long)]
    title: Option<String>,
}

pub fn report(args: &ReportArgs) -> Result<(), Failure> {
    let store = Store::read(&args.folder)?;
    if store.is_empty() {
        return Err(format!("there are no results in {}", args.folder.display()).into());
    }
    if !store.broken().is_empty() {
        eprintln!("warning: {} lines could not be read, the first is line {}", store.broken().len(), store.broken()[0]);
    }
    let mut sheet = sheet(&store);
    if let Some(title) = &args.title {
        sheet.title.clone_from(title);
    }
    write(&args.folder, &sheet)
}

/// The report in all its forms.
pub fn write(folder: &Path, sheet: &Sheet) -> Result<(), Failure> {
    let forms = [
        ("report.html", report::html(sheet)?),
        ("report.md", report::markdown(sheet)),
        ("results.csv", report::csv(sheet)),
    ];
    for (name, text) in forms {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}
