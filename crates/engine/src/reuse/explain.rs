//! Why a prompt is computed as far as it is.

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::{KvCache, SequenceKv};

use super::moved::Moved;
use super::{Reuse, Thread, usable};

/// What is there for a prompt, and why not more.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that are the same in blocks that are there.
    pub matched_tokens: usize,
    /// Tokens that would not be computed again.
    pub reusable_tokens: usize,
    /// Tokens that a request which allows lossy blocks would not compute, where that is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lossy_reusable_tokens: Option<usize>,
    /// Tokens from its beginning on that a pin keeps from being let go of; absent where none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned_tokens: Option<usize>,
    /// For how many seconds yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned_seconds: Option<u64>,
    /// Tokens of a block.
    pub block_tokens: usize,
    /// The block, from zero, that is the first to be computed.
    pub block: usize,
    /// Why.
    pub stop: Stop,
    /// The same in words.
    pub reason: String,
    /// What of the rest would be moved here from other contexts; absent where the request does not want that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved: Option<Moved>,
}

/// Why the cache of a prompt ends where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Stop {
    /// All of it is there; the last token is always computed, for what comes after it.
    End,
    /// Sharing is switched off.
    Off,
    /// No sequence of this model, recipe and tenant has left anything.
    Nothing,
    /// The recipe looks at the queries of the context, so these have to be computed.
    Observed {
        /// The first token whose query it looks at.
        from: usize,
    },
    /// What is there goes on with another token.
    Differs {
        /// Position of the token.
        position: usize,
        /// The prompt's.
        token: u32,
        /// What is there instead; of several continuations, the one that agrees longest.
        cached: u32,
    },
    /// Nobody computed more, or it was let go.
    Unknown {
        /// Position of the first token that is not there.
        position: usize,
    },
    /// The tokens are there, but not all that a query right behind them reads: pages that it reads exactly are there in
    /// encoded form only, or a sliding window has passed them.
    Incomplete {
        /// Tokens that are there.
        matched: usize,
    },
}

impl Reuse {
    /// Why `tokens` would be computed as far as they would. `kv` is an empty sequence that is to take them.
    pub fn explain(&self, cache: &KvCache, kv: &SequenceKv, thread: &Thread, tokens: &[u32]) -> Explanation {
        let found = thread.domain.map(|domain| self.tree.find(domain, tokens)).unwrap_or_default();
        let blocks = self.tree.along(&found.path);
        let most = found.tokens.min(tokens.len().saturating_sub(1));
        let allowed = most.min(kv.unobserved());
        let reusable = usable(cache, kv, &blocks, allowed).unwrap_or(0);
        let stop = match thread.domain {
            None => Stop::Off,
            Some(domain) if !self.tree.knows(domain) => Stop::Nothing,
            _ if reusable < allowed => Stop::Incomplete { matched: found.tokens },
            _ if allowed < most => Stop::Observed { from: kv.unobserved() },
            _ if found.tokens == tokens.len() => Stop::End,
            _ => self.parting(&found, tokens),
        };
        Explanation {
            prompt_tokens: tokens.len(),
            matched_tokens: found.tokens,
            reusable_tokens: reusable,
            lossy_reusable_tokens: None,
            pinned_tokens: None,
            pinned_seconds: None,
            block_tokens: PAGE_TOKENS,
            block: reusable / PAGE_TOKENS,
            reason: stop.to_string(),
            stop,
            moved: self.explain_moved(cache, kv, thread, tokens, reusable),
        }
    }

    /// How what is there goes on where the prompt does not.
    fn parting(&self, found: &super::tree::Found, tokens: &[u32]) -> Stop {
        let position = found.tokens;
        let last = found.path.last().and_then(|&id| self.tree.node(id));
        let start = found.path.len().saturating_sub(1) * PAGE_TOKENS;
        let own = last.and_then(|node| node.tokens.get(position - start)).copied();
        match (own, tokens.get(position)) {
            (Some(cached), Some(&token)) => Stop::Differs { position, token, cached },
            _ => Stop::Unknown { position },
        }
    }
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stop::End => write!(f, "all of the prompt is there; its last token is computed for what comes after it"),
            Stop::Off => write!(f, "sharing is switched off"),
            Stop::Nothing => write!(f, "nothing of this model, recipe and tenant is there"),
            Stop::Observed { from } => {
                write!(f, "the recipe looks at the queries of the context from token {from} on, so these are computed")
            }
            Stop::Differs { position, token, cached } => write!(
                f,
                "token {position} is {token} in the prompt and {cached} in what is there; if it should be the same, look for \
                 what changes early in the prompt, as dates and names do"
            ),
            Stop::Unknown { position } => {
                write!(f, "nobody computed token {position} after these, or it was let go for want of memory")
            }
            Stop::Incomplete { matched } => write!(
                f,
                "{matched} tokens are there, but not all that the next token would read: some of it in encoded form only, or \
                 passed by a sliding window; once this prompt is computed, it can be gone on from here"
            ),
        }
    }
}
