//! One JSON object per line, appended as results come, each with the run that it belongs to.

use crate::LabError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Everything needed to repeat a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// The command line.
    pub command: Vec<String>,
    /// Seconds since 1970, UTC.
    pub started: u64,
    /// Version of the program.
    pub version: String,
    /// BLAKE3 of the program's file, where it could be read.
    pub program_digest: Option<String>,
    /// The model: name, source, digest, form of the weights.
    pub model: Value,
    /// The text: path, bytes, digest.
    pub text: Value,
    /// Window, chunk, seed and the like.
    pub settings: Value,
    /// Processor, instruction set, threads, operating system.
    pub machine: Value,
}

impl Run {
    /// A name for the run: the digest of everything in it.
    pub fn id(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }
}

/// A file of results, locked against other runs.
pub struct Lines {
    path: PathBuf,
    file: File,
    run: String,
}

impl Lines {
    /// Opens `folder/name`, after what earlier runs left there, and writes the run's own line.
    ///
    /// # Errors
    /// [`LabError::Busy`] where another run writes, [`LabError::Io`].
    pub fn open(folder: &Path, name: &str, run: &Run) -> Result<Lines, LabError> {
        let path = folder.join(name);
        let io = |what: &'static str| {
            let path = path.clone();
            move |source| LabError::Io { what, path, source }
        };
        std::fs::create_dir_all(folder).map_err(io("create the folder of"))?;
        let file = File::options().create(true).read(true).append(true).open(&path).map_err(io("open"))?;
        file.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => LabError::Busy { path: path.clone() },
            TryLockError::Error(source) => LabError::Io { what: "lock", path: path.clone(), source },
        })?;
        let mut lines = Lines { path: path.clone(), file, run: run.id() };
        lines.end_broken_line().map_err(io("read"))?;
        lines.write("run", run)?;
        Ok(lines)
    }

    /// Name of the run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one line: `value` with its kind and the run's name in front.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn write(&mut self, kind: &str, value: &impl Serialize) -> Result<(), LabError> {
        let wrap = |source| LabError::Io { what: "write", path: self.path.clone(), source };
        let mut line = json!({ "kind": kind, "run": self.run });
        let value = serde_json::to_value(value).map_err(|e| wrap(e.into()))?;
        if let (Value::Object(line), Value::Object(value)) = (&mut line, value) {
            line.extend(value);
        }
        // At once, so that an interrupted run leaves whole lines.
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(wrap)
    }

    /// A run that was cut off in the middle of a line spoils that line only.
    fn end_broken_line(&mut self) -> std::io::Result<()> {
        if self.file.seek(SeekFrom::End(0))? == 0 {
            return Ok(());
        }
        self.file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        self.file.read_exact(&mut last)?;
        if last != *b"\n" { self.file.write_all(b"\n") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64) -> Run {
        let none = Value::Null;
        Run {
            command: vec!["cachalot".into()],
            started: 0,
            version: "0".into(),
            program_digest: None,
            model: none.clone(),
            text: none.clone(),
            settings: json!({ "seed": seed }),
            machine: none,
        }
    }

    #[test]
    fn lines_survive_runs_that_were_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new/deep");
        let mut lines = Lines::open(&folder, "q.jsonl", &run(1)).unwrap();
        assert!(matches!(Lines::open(&folder, "q.jsonl", &run(2)), Err(LabError::Busy { .. })));
        lines.write("answer", &json!({ "score": 1.0 })).unwrap();
        lines.file.write_all(b"{\"kind\":\"ans").unwrap();
        drop(lines);
        Lines::open(&folder, "q.jsonl", &run(2)).unwrap();
        let text = std::fs::read_to_string(folder.join("q.jsonl")).unwrap();
        let parsed: Vec<_> = text.lines().map(serde_json::from_str::<Value>).collect();
        let kinds: Vec<_> = parsed.iter().map(|l| l.as_ref().ok().map(|l| l["kind"].as_str().unwrap())).collect();
        assert_eq!(kinds, [Some("run"), Some("answer"), None, Some("run")]);
        assert_eq!(parsed[1].as_ref().unwrap()["run"], run(1).id());
        assert_ne!(run(1).id(), run(2).id());
    }
}
