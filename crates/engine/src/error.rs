//! What can go wrong with a request.

/// Who has to do something about an error; a server maps it to a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request asks for something that is not allowed (HTTP 400).
    Request,
    /// The prompt is longer than there is room for, now and ever (413).
    TooLarge,
    /// Too many requests at the moment; try again later (429).
    Busy,
    /// The engine is going away or gone (503).
    Unavailable,
    /// Model or engine failed (500).
    Internal,
}

/// An error of one request. Cheap to clone; says what, and how to mend it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Nothing to continue.
    #[error("the prompt is empty: there is nothing to continue")]
    EmptyPrompt,
    /// Longer than the model's or the server's context.
    #[error(
        "the prompt has {prompt} tokens; with at least one for the answer that does not fit the context of {context} \
         tokens"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// Within the context, but its cache would never fit the memory that was set aside.
    #[error(
        "the prompt of {prompt} tokens needs {needed} bytes of key-value cache, the whole budget is {budget} bytes; \
         shorten the prompt or raise the budget"
    )]
    KvTooSmall {
        /// Tokens of the prompt.
        prompt: usize,
        /// Bytes its cache needs, with one token for the answer.
        needed: u64,
        /// Bytes there are.
        budget: u64,
    },
    /// A prompt token the model does not have.
    #[error("prompt token {index} is {id}, the model's vocabulary has {vocab} tokens")]
    UnknownToken {
        /// Position in the prompt.
        index: usize,
        /// The token id.
        id: u32,
        /// Number of tokens the model has.
        vocab: usize,
    },
    /// A parameter out of its range.
    #[error("{name} is {value}; it must be {allowed}")]
    InvalidParameter {
        /// The parameter's name, as in the API.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is accepted.
        allowed: String,
    },
    /// A schema, regular expression or grammar that cannot be used.
    #[error("the {kind} cannot be used as a constraint: {reason}")]
    InvalidConstraint {
        /// `JSON schema`, `regular expression` or `Lark grammar`.
        kind: &'static str,
        /// The grammar compiler's words.
        reason: String,
    },
    /// A recipe for the cache that does not exist or is impossible on this model.
    #[error(transparent)]
    Recipe(#[from] Box<cachalot_kv::RecipeError>),
    /// The queue is full.
    #[error("the queue is full: {queued} requests wait, the limit is {limit}; try again later")]
    QueueFull {
        /// Requests waiting.
        queued: usize,
        /// Requests that may wait.
        limit: usize,
    },
    /// The engine takes no new requests.
    #[error("the engine is shutting down and takes no new requests")]
    ShuttingDown,
    /// Everything of the request's tenant is being deleted.
    #[error("everything of this tenant is being deleted; send the request again when that is over")]
    TenantDeleted,
    /// The engine ended before the request did.
    #[error("the engine stopped before the answer was finished")]
    Stopped,
    /// The model computed something that is not a number; weights or cache are damaged.
    #[error("the model's logit of token {token} is {value}; the weights are damaged or overflow in this format")]
    NonFiniteLogits {
        /// First token with such a logit.
        token: u32,
        /// `NaN`, `inf` or `-inf`.
        value: String,
    },
    /// Constraint and vocabulary leave nothing to sample from.
    #[error("no token of the vocabulary is allowed here; the constraint cannot be continued")]
    NoTokenAllowed,
    /// The constraint failed during generation.
    #[error("the constraint failed during generation: {0}")]
    Constraint(String),
    /// The model's step failed.
    #[error("the model failed: {0}")]
    Model(String),
    /// The cache refused something it must not refuse.
    #[error("the key-value cache failed: {0}")]
    Cache(String),
    /// A bug: a step panicked. Other requests go on.
    #[error("a step of the engine panicked: {0}")]
    Panicked(String),
}

impl From<cachalot_kv::RecipeError> for EngineError {
    fn from(error: cachalot_kv::RecipeError) -> EngineError {
        EngineError::Recipe(Box::new(error))
    }
}

impl EngineError {
    /// A parameter out of its range.
    pub fn invalid(name: &'static str, value: impl ToString, allowed: impl Into<String>) -> EngineError {
        EngineError::InvalidParameter { name, value: value.to_string(), allowed: allowed.into() }
    }

    /// Who has to do something about it.
    pub fn kind(&self) -> ErrorKind {
        use EngineError::*;
        match self {
            EmptyPrompt | UnknownToken { .. } | InvalidParameter { .. } | InvalidConstraint { .. } | Recipe(_) => {
                ErrorKind::Request
            }
            PromptTooLong { .. } | KvTooSmall { .. } => ErrorKind::TooLarge,
            QueueFull { .. } | TenantDeleted => ErrorKind::Busy,
            ShuttingDown | Stopped => ErrorKind::Unavailable,
            NonFiniteLogits { .. } | NoTokenAllowed | Constraint(_) | Model(_) | Cache(_) | Panicked(_) => {
                ErrorKind::Internal
            }
        }
    }
}
