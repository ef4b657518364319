//! What can go wrong outside memory. None of it reaches attention: a block that cannot be had is computed again.

/// An error of a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Bytes that are not what was written.
    #[error("{place}: {what}; the block is computed again")]
    Corrupt {
        /// File or object, and where in it.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The operating system or a remote store refused.
    #[error("{place}: {source}")]
    Io {
        /// File or object.
        place: String,
        /// Why.
        source: std::io::Error,
    },
    /// A codec that is not at hand.
    #[error("{place}: written with the codec `{codec}`; the reader has {known}; the block is computed again")]
    Codec {
        /// File or object.
        place: String,
        /// What is missing.
        codec: String,
        /// What there is.
        known: String,
    },
    /// A block that must not be written: it would not be read again.
    #[error("{place}: not written: {what}")]
    Refused {
        /// File or object.
        place: String,
        /// What is wrong with it.
        what: String,
    },
}
