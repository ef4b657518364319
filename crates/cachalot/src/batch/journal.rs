//! The output, written as answers come and put in order at the end; what is there is not computed again.
//!
//! A file beside it, with `.run` behind its name, says which input and settings it belongs to.

use super::result::number;
use crate::Failure;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// An output file.
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Lines of the output by the input's line.
    there: BTreeMap<usize, String>,
}

impl Journal {
    /// Begins an output file, or goes on with one that was begun with the same `header`: an object of `input` and `settings`.
    /// A last line that was cut off is dropped.
    pub fn open(path: &Path, header: &Value) -> Result<Journal, Failure> {
        let run = beside(path, ".run");
        let name = path.display();
        let there = if path.exists() {
            let before = std::fs::read(&run).map_err(|e| {
                format!(
                    "{name} is there, but {} cannot be read ({e}): choose another --out or move it away",
                    run.display()
                )
            })?;
            let before = serde_json::from_slice(&before)
                .map_err(|e| format!("{} is damaged ({e}): move it and {name} away", run.display()))?;
            same(&before, header, path)?;
            let bytes = std::fs::read(path).map_err(|e| format!("cannot read {name}: {e}"))?;
            let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            if whole < bytes.len() {
                OpenOptions::new().write(true).open(path)?.set_len(whole as u64)?;
            }
            read(&bytes[..whole], path)?
        } else {
            std::fs::write(&run, format!("{header:#}\n"))
                .map_err(|e| format!("cannot write {}: {e}", run.display()))?;
            BTreeMap::new()
        };
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.map_err(|e| format!("cannot write {name}: {e}"))?;
        Ok(Journal { path: path.to_owned(), file, there })
    }

    /// Whether a line of the input has its line here.
    pub fn has(&self, number: usize) -> bool {
        self.there.contains_key(&number)
    }

    pub fn put(&mut self, number: usize, result: &Value) -> Result<(), Failure> {
        let line = format!("{result}\n");
        // One call, so that an interruption cuts off one line at most.
        self.file.write_all(line.as_bytes()).map_err(|e| format!("cannot write {}: {e}", self.path.display()))?;
        self.there.insert(number, line);
        Ok(())
    }

    /// Puts the lines into the order of the input.
    pub fn finish(self) -> Result<(), Failure> {
        let new = beside(&self.path, ".new");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&new)?;
            self.there.values().try_for_each(|line| file.write_all(line.as_bytes()))?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)
        };
        write().map_err(|e| format!("cannot put {} in order: {e}", self.path.display()).into())
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether an output belongs to this input and these settings.
fn same(before: &Value, now: &Value, path: &Path) -> Result<(), Failure> {
    let mend = "choose another --out, or move the file away";
    let name = path.display();
    if before["input"] != now["input"] {
        return Err(format!("{name} has the answers to another input file: {mend}").into());
    }
    let empty = serde_json::Map::new();
    let settings = now["settings"].as_object().unwrap_or(&empty);
    for (setting, value) in settings {
        let old = &before["settings"][setting];
        if old != value {
            return Err(
                format!("{name} was begun with other settings: {setting} was {old} and is {value}; {mend}").into()
            );
        }
    }
    Ok(())
}

fn read(bytes: &[u8], path: &Path) -> Result<BTreeMap<usize, String>, Failure> {
    let mut there = BTreeMap::new();
    for (i, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let known = || -> Option<(usize, String)> {
            let value: Value = serde_json::from_slice(line).ok()?;
            Some((number(value["id"].as_str()?)?, String::from_utf8(line.to_vec()).ok()?))
        };
        let (number, line) = known().ok_or_else(|| {
            format!("line {} of {} is no result of a batch: move the file away", i + 1, path.display())
        })?;
        there.insert(number, line);
    }
    Ok(there)
}
