//! What can go wrong with a session.

use std::path::PathBuf;

use cachalot_store::StoreError;
use cachalot_store::file::FileError;

use crate::EngineError;

/// An error of a session. What is merely damaged in a file is no error: it is computed again, and reported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// A name that no session can have.
    #[error("`{name}` cannot be the name of a session: {what}")]
    Name {
        /// As given, its first characters.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// No such session of this tenant.
    #[error("there is no session `{name}`; the list of sessions has the names there are")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// The name is taken.
    #[error("there is a session `{name}` already; choose another name, remove it, or say that it is to be replaced")]
    Exists {
        /// Its name.
        name: String,
    },
    /// Kept by another model, recipe, program or tenant.
    #[error(
        "the session `{name}` was kept by the model {model} with the recipe {recipe}, which is not what would continue \
         it: different {}; use what it was kept with, or save it anew", what.join(", ")
    )]
    Different {
        /// Its name.
        name: String,
        /// The model of the file.
        model: String,
        /// The recipe of the file.
        recipe: String,
        /// In what they differ.
        what: Vec<&'static str>,
    },
    /// A turn that the session does not have.
    #[error("the session `{name}` has {turns} turns; `turn` is {turn}, and must be between 0 and {turns}")]
    Turn {
        /// Its name.
        name: String,
        /// What was asked for.
        turn: usize,
        /// Turns it has.
        turns: usize,
    },
    /// The conversation itself cannot be read.
    #[error("the session `{name}` cannot be read: {what}; remove it and save it anew")]
    Damaged {
        /// Its name.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// A session that cannot be gone on with in this way.
    #[error("the session `{name}` {what}")]
    Unsuited {
        /// Its name.
        name: String,
        /// Why not, and what to do.
        what: String,
    },
    /// No room for a pin.
    #[error(
        "the session `{name}` needs {needed} bytes to stay in memory, and of the {limit} bytes that pinned sessions may \
         hold {free} are free; unpin another, or raise the budget of the cache"
    )]
    PinTooLarge {
        /// Its name.
        name: String,
        /// Bytes it needs beside what others hold already.
        needed: u64,
        /// Bytes that are left.
        free: u64,
        /// Bytes that pinned sessions may hold.
        limit: u64,
    },
    /// A tenant with too many sessions.
    #[error("there are {most} sessions already, which is the most; remove one first")]
    TooMany {
        /// The most there may be.
        most: usize,
    },
    /// The operating system refused.
    #[error("{}: cannot {what}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The session's file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A part of the session's file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine, or the recipe that was asked for.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
