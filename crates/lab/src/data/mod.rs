//! Questions from files: a user's own, and those of RULER, LongBench and SCBench, read as they are published.
//!
//! A format is one file here: it says of a line which text and questions it has ([`crate::tasks::Posed`]). Lines that
//! cannot be read are left out and reported with their numbers; a file without any other is an error. What becomes of
//! the questions is that of made-up ones.

mod cut;
mod fields;
mod file;
mod lines;
mod longbench;
mod prompts;
mod ruler;
mod scbench;

use crate::LabError;
use crate::tasks::{Posed, Source};
use file::FileSource;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names of the formats, as [`crate::tasks::named`] knows them.
pub const FORMATS: [&str; 4] = ["jsonl", "ruler", "longbench", "scbench"];

/// Files that RULER puts into a folder named as the dataset.
const SPLITS: [&str; 2] = ["validation", "test"];

/// A good line: what it calls itself, and its text and questions.
struct Item {
    line: usize,
    id: String,
    posed: Posed,
}

/// Reads a line of a dataset of a given name; the reason where it cannot.
type Reader = fn(&str, &fields::Fields) -> Result<Posed, String>;

/// The sources of a file, or of every file of a folder.
///
/// # Errors
/// [`LabError::Settings`] for a format that is none, [`LabError::Io`] and [`LabError::Text`] for what cannot be read.
pub fn open(format: &str, path: &Path) -> Result<Vec<Arc<dyn Source>>, LabError> {
    let reader: Reader = match format {
        "jsonl" => prompts::read,
        "ruler" => ruler::read,
        "longbench" => longbench::read,
        "scbench" => scbench::read,
        _ => {
            let formats = FORMATS.join(", ");
            return Err(LabError::Settings(format!("there is no format `{format}`; choose from {formats}")));
        }
    };
    let paths = if path.is_dir() { files(path)? } else { vec![path.to_owned()] };
    let mut sources: Vec<Arc<dyn Source>> = Vec::new();
    for path in paths {
        // A user's files may have any names, also the same in other folders.
        let name = if format == "jsonl" { path.display().to_string() } else { dataset(&path) };
        let (items, warnings) = lines::read(&path, &|fields| reader(&dataset(&path), fields))?;
        let follows_length = format != "jsonl";
        let name = format!("{format}:{name}");
        sources.push(Arc::new(FileSource { name, path, follows_length, items, warnings }));
    }
    Ok(sources)
}

/// The name of a dataset by its file.
fn dataset(path: &Path) -> String {
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    match path.parent() {
        Some(folder) if SPLITS.contains(&&stem(path)[..]) && folder.file_name().is_some() => {
            folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        }
        _ => stem(path),
    }
}

/// `*.jsonl` of a folder, and one split of each folder in it.
fn files(folder: &Path) -> Result<Vec<PathBuf>, LabError> {
    let wrap = |source| LabError::Io { what: "list", path: folder.into(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrap)? {
        let path = entry.map_err(wrap)?.path();
        if path.is_dir() {
            let splits = SPLITS.map(|split| path.join(split).with_extension("jsonl"));
            files.extend(splits.into_iter().find(|split| split.is_file()));
        } else if path.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        let reason = "has no .jsonl files; give a folder with one for each dataset, or a file".into();
        return Err(LabError::Text { path: folder.into(), reason });
    }
    Ok(files)
}
