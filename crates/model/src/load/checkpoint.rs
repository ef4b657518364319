//! The tensors of a model by name, wherever they lie.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::source::Source;
use crate::ModelError;
use crate::gguf::{GgmlType, Header};

/// Where a tensor lies and how it is written.
pub(crate) struct Entry {
    /// Outermost first.
    pub(crate) shape: Vec<usize>,
    /// The type, or the name of one that cannot be loaded.
    pub(crate) kind: Result<GgmlType, String>,
    /// Index of the source.
    pub(crate) file: usize,
    /// First byte in it.
    pub(crate) offset: u64,
}

/// Open files and what is in them.
pub(crate) struct Checkpoint {
    root: PathBuf,
    sources: Vec<Source>,
    entries: HashMap<String, Entry>,
}

/// A tensor's bytes, with its type.
pub(crate) struct Raw {
    pub(crate) kind: GgmlType,
    pub(crate) bytes: Vec<u8>,
}

impl Checkpoint {
    pub(crate) fn new(root: &Path) -> Checkpoint {
        Checkpoint { root: root.into(), sources: Vec::new(), entries: HashMap::new() }
    }

    /// The tensors of a GGUF file.
    pub(crate) fn of_gguf(source: Source, header: &Header) -> Checkpoint {
        let mut all = Checkpoint::new(source.path());
        let file = all.add_source(source);
        for t in &header.tensors {
            let kind = GgmlType::from_code(t.code).ok_or_else(|| GgmlType::describe(t.code));
            all.add(t.name.clone(), Entry { shape: t.shape.clone(), kind, file, offset: t.offset });
        }
        all
    }

    pub(crate) fn add_source(&mut self, source: Source) -> usize {
        self.sources.push(source);
        self.sources.len() - 1
    }

    pub(crate) fn add(&mut self, name: String, entry: Entry) {
        self.entries.insert(name, entry);
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub(crate) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.sources.iter().map(Source::len).sum()
    }

    /// The file a tensor lies in, for messages; the folder where it lies in none.
    pub(crate) fn path_of(&self, name: &str) -> &Path {
        let source = self.entries.get(name).and_then(|e| self.sources.get(e.file));
        source.map_or(self.root.as_path(), Source::path)
    }

    /// Reads a tensor that must have `shape`.
    pub(crate) fn read(&self, name: &str, shape: &[usize]) -> Result<Raw, ModelError> {
        let missing = || ModelError::MissingTensor { tensor: name.into(), path: self.root.clone() };
        let entry = self.entries.get(name).ok_or_else(missing)?;
        let source = self.sources.get(entry.file).ok_or_else(missing)?;
        if entry.shape != shape {
            return Err(ModelError::Mismatch {
                tensor: name.into(),
                expected: format!("of shape {shape:?}"),
                found: format!("of shape {:?}", entry.shape),
                path: source.path().into(),
            });
        }
        let kind = entry.kind.as_ref().copied().map_err(|found| {
            let all: Vec<_> = GgmlType::ALL.iter().map(|t| t.name()).collect();
            ModelError::unsupported(
                format!("{}: tensor {name} of type {found}", source.path().display()),
                format!("known types: {}", all.join(", ")),
            )
        })?;
        // The shape was checked against the file when its header was read, so this cannot overflow.
        let elements: usize = shape.iter().product();
        let bytes = source.read(entry.offset, elements / kind.block_elements() * kind.block_bytes())?;
        Ok(Raw { kind, bytes })
    }
}
