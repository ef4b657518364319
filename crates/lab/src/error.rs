//! What can go wrong in the laboratory.

use cachalot_kv::KvError;
use cachalot_kv::recipe::RecipeError;
use cachalot_model::ModelError;
use std::path::PathBuf;

/// An error of a run as a whole. What goes wrong with one recipe ends that recipe alone and stands in its outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A text that nothing can be measured on.
    #[error("text {path}: {reason}")]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the mend.
        reason: String,
    },
    /// Settings that contradict each other or the model.
    #[error("{0}")]
    Settings(String),
    /// A recipe that nobody knows, that cannot be read, or that the model does not go together with.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A cache that cannot be built.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A step of the reference failed; without it there is nothing to compare with.
    #[error("the reference {name} failed: {reason}")]
    Reference {
        /// Its name.
        name: String,
        /// What happened.
        reason: String,
    },
    /// The tokenizer or the chat template refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The operating system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
    /// Another run writes there.
    #[error("{path} is being written by another run; wait for it or choose another folder")]
    Busy {
        /// The file.
        path: PathBuf,
    },
}
