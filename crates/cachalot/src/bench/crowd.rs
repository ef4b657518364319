//! Several requests that decode together after the same prompt, and how they read what they have in common.

use crate::Failure;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::share::Importer;
use cachalot_kv::{KvCache, KvError, SequenceKv, SharedBlock};
use clap::ValueEnum;
use serde::Serialize;

/// How requests with the same prompt hold and read it.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// One copy of the prompt's pages, read once for all requests: what the server does.
    Together,
    /// One copy, which every request reads for itself.
    Alone,
    /// A copy for every request, as if each had computed the prompt.
    Copies,
}

impl Share {
    /// Whether sequences that hold the same pages read them together.
    pub fn joins(self) -> bool {
        self == Share::Together
    }

    /// As users name it.
    pub fn name(self) -> &'static str {
        match self {
            Share::Together => "together",
            Share::Alone => "alone",
            Share::Copies => "copies",
        }
    }
}

/// `requests` sequences that have read what `root` has, which is one of them.
///
/// # Errors
/// Where the budget does not hold them, or copies are asked for of a context that was reduced.
pub fn gather(
    cache: &KvCache,
    mut root: SequenceKv,
    requests: usize,
    share: Share,
) -> Result<Vec<SequenceKv>, Failure> {
    let mut seqs = Vec::with_capacity(requests);
    if share == Share::Copies && requests > 1 {
        if !root.is_shareable() {
            return Err("`--share copies` is for recipes that keep all tokens".into());
        }
        let len = root.len();
        let blocks = cache.share(&mut root, 0..len.div_ceil(PAGE_TOKENS), Some(len));
        if blocks.len() * PAGE_TOKENS != len {
            return Err(format!("`--share copies` takes depths that are multiples of {PAGE_TOKENS}, not {len}").into());
        }
        for _ in 1..requests {
            seqs.push(copy(cache, &root, &blocks)?);
        }
    } else {
        for _ in 1..requests {
            seqs.push(cache.fork(&root)?);
        }
    }
    seqs.insert(0, root);
    Ok(seqs)
}

/// A sequence with pages of its own that hold the same bytes.
fn copy(cache: &KvCache, root: &SequenceKv, blocks: &[SharedBlock]) -> Result<SequenceKv, KvError> {
    let importer: Importer<'_> = cache.importer(&cache.config().plan)?;
    let own = |block: &SharedBlock| importer.block(block.pages().map(|shared| (shared.exact, shared.page.bytes())));
    let own = blocks.iter().map(own).collect::<Result<Vec<_>, _>>()?;
    let mut seq = cache.create();
    cache.begin(&mut seq, &own.iter().collect::<Vec<_>>(), root.len())?;
    Ok(seq)
}
