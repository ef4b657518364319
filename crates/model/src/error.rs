//! The one error type of this crate: what is wrong, where, and how to mend it.

use std::path::{Path, PathBuf};

/// Everything that can go wrong between a path and a vector of logits.
///
/// The variants are kinds: a caller that must react (the server choosing a status, the command line choosing an exit
/// code) matches on them, a person reads the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// There is nothing at the path, or the folder lacks a file that it must have.
    #[error("{what} not found at {path}: {mend}")]
    NotFound {
        /// What was looked for, e.g. "model", "tokenizer.json".
        what: String,
        /// Where it was looked for.
        path: PathBuf,
        /// What the reader can do about it.
        mend: String,
    },
    /// The operating system refused.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
    /// The file does not begin as its kind must.
    #[error("{path} is not a {kind} file: it begins with {found}; check the path or download it again")]
    BadMagic {
        /// The file.
        path: PathBuf,
        /// The kind of file that was expected.
        kind: &'static str,
        /// The first bytes, printable.
        found: String,
    },
    /// The file ends before it should.
    #[error("{path} is truncated in its {section}: byte {offset} was needed, the file has {len}; download it again")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The section being read, with the entry where known, e.g. "metadata, key 3 of 24".
        section: String,
        /// First byte offset past what was needed.
        offset: u64,
        /// The file's length in bytes.
        len: u64,
    },
    /// The file's contents contradict its own rules.
    #[error("{path} is damaged in its {section} at byte {offset}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The section being read.
        section: String,
        /// Byte offset of the value at fault.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that must be JSON (or another text format) and is not, or lacks a value that it must have.
    #[error("{path}: {key}: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The key (dotted), or "(file)" when the whole text does not parse.
        key: String,
        /// What is wrong with it, and what would be accepted.
        reason: String,
    },
    /// Well-formed, but something that this version cannot do.
    #[error("{what} is not supported; {known}")]
    Unsupported {
        /// The thing.
        what: String,
        /// What is supported instead, as a sentence part, e.g. "known architectures: llama, mistral".
        known: String,
    },
    /// A tensor has another shape or type than the configuration calls for.
    #[error("{path}: tensor {tensor} is {found}, but the configuration calls for {expected}")]
    Mismatch {
        /// The tensor's name in the file.
        tensor: String,
        /// Expected shape or type.
        expected: String,
        /// What the file has.
        found: String,
        /// The file.
        path: PathBuf,
    },
    /// A tensor that the configuration calls for is not in the file.
    #[error("{path}: tensor {tensor} is missing; the file is incomplete or belongs to another configuration")]
    MissingTensor {
        /// The tensor's name.
        tensor: String,
        /// The file or folder searched.
        path: PathBuf,
    },
    /// The file was written to while it was being loaded.
    #[error("{path} changed while it was loading (length or modification time differ); load it again")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The model hub did not give what was asked for.
    #[error("cannot get {what} from {endpoint}: {reason}; {mend}")]
    Hub {
        /// Repository, revision and file.
        what: String,
        /// The endpoint asked.
        endpoint: String,
        /// What happened.
        reason: String,
        /// What the reader can do about it.
        mend: String,
    },
    /// The tokenizer cannot be read or built.
    #[error("tokenizer in {path}: {reason}")]
    Tokenizer {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The chat template cannot be compiled, or refused the messages.
    #[error("chat template: {reason}")]
    Template {
        /// What is wrong, with the line where known.
        reason: String,
    },
    /// The prompt cannot be given to this model.
    #[error("prompt: {reason}")]
    Prompt {
        /// What is wrong with it.
        reason: String,
    },
    /// The forward pass was asked for something impossible (caller's mistake).
    #[error("forward pass: {reason}")]
    Forward {
        /// What is wrong.
        reason: String,
    },
}

impl ModelError {
    /// Wraps an I/O error with its path.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::NotFound {
            return ModelError::NotFound { what: "file".into(), path: path.into(), mend: "check the path".into() };
        }
        ModelError::Io { path: path.into(), source }
    }

    /// A configuration value that is wrong or missing.
    pub fn config(path: &Path, key: impl Into<String>, reason: impl Into<String>) -> Self {
        ModelError::Config { path: path.into(), key: key.into(), reason: reason.into() }
    }

    /// Something this version cannot do, with what it can.
    pub fn unsupported(what: impl Into<String>, known: impl Into<String>) -> Self {
        ModelError::Unsupported { what: what.into(), known: known.into() }
    }
}
