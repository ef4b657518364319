//! What can go wrong in the cache, and who is to blame.

/// An error of the cache. None of them leaves a sequence in a state that cannot be dropped or retried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The pool has too little left. Wait for other sequences, reduce this one, or raise the budget.
    #[error(
        "the KV cache needs {needed} bytes more but only {free} of its budget of {budget} are free; \
             use a shorter context, a smaller KV format or a larger budget"
    )]
    OutOfBudget {
        /// Bytes asked for.
        needed: u64,
        /// Bytes not taken by anyone.
        free: u64,
        /// The pool's budget.
        budget: u64,
    },
    /// The operating system gave no memory although the budget would have allowed it.
    #[error("the operating system refused {bytes} bytes for KV pages: {reason}; lower the KV budget")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
        /// What the system said.
        reason: String,
    },
    /// A configuration that no cache can be built from.
    #[error("impossible KV cache: {0}")]
    Config(String),
    /// A KV format that is not known.
    #[error("unknown KV format `{name}`; known are {known}, or one for each side as in `k=f16,v=bf16`")]
    UnknownFormat {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The caller broke the contract of a call (a bug in the caller, not in its input).
    #[error("misuse of the KV cache: {0}")]
    Misuse(String),
    /// A page from outside that is not what it is said to be.
    #[error("a page that was kept elsewhere cannot be used: {what}; its tokens are computed again")]
    Foreign {
        /// What is wrong.
        what: String,
    },
    /// Tokens that are no longer there.
    #[error("cannot go back to {tokens} tokens: what lies before {first} is no longer held as it was then")]
    Forgotten {
        /// Length asked for.
        tokens: usize,
        /// First position still held by every lane that needs it.
        first: usize,
    },
    /// A sealed page's bytes are not those that were sealed.
    #[error(
        "page of layer {layer}, head {head}, tokens from {start} fails its checksum: its bytes changed after sealing"
    )]
    Corrupt {
        /// Layer of the page.
        layer: u16,
        /// KV head of the page.
        head: u16,
        /// Position of its first token.
        start: u64,
    },
}
