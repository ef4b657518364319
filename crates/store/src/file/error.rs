//! What can be wrong with a KV file.

use crate::StoreError;
use std::fmt;
use std::path::PathBuf;

/// An error of a whole file. What is wrong with a part of it is [`Damage`], and the rest is given.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("{path}: cannot {what}: {source}")]
    Io {
        /// The file, or its folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Something else, or damaged in its first bytes.
    #[error("{path}: no KV file: {what}; check the name, or save the session again")]
    NotKvFile {
        /// The file.
        path: PathBuf,
        /// What was found at its start.
        what: String,
    },
    /// Written in a version of the format that is not known here.
    #[error(
        "{path}: version {found} of the KV file, written by `{writer}`; this program reads version {reads}: use the \
         program that wrote it, or compute the text again"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The program that wrote it, in its own words.
        writer: String,
        /// The version that is read.
        reads: u16,
    },
    /// A block that does not belong into this file, or a writer that has failed before.
    #[error("{path}: not written: {what}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// A block that cannot be written anywhere.
    #[error(transparent)]
    Block(#[from] StoreError),
}

/// A part of a file that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it starts, in bytes from the start of the file.
    pub at: u64,
    /// What is wrong, and what is lost by it.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.at, self.what)
    }
}
