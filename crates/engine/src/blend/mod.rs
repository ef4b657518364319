//! Reuse away from the prefix: stretches of a prompt that were computed in another context, at another place.
//!
//! What such a stretch says of the tokens before it is not what it would say here, so answers differ from those of a prompt
//! that is computed whole; how much, [`crate::KvReport`] tells for an answer. Nobody gets it who, or whose server, did not ask
//! for it, and nothing that was put together so is ever shared as if it had been computed.
//!
//! - [`Method`]: which rows are computed anew. [`craft`]: the formulas of one that knows them from what stood before a chunk.
//! - `library`: stretches by their tokens, with the contexts that they were computed in.
//! - [`cut`]: where to cut a prompt whose client marks nothing.
//! - [`matches`]: what an edited text has in common with what it was.

mod anchors;
pub mod craft;
pub mod cut;
mod library;
pub mod matches;
mod method;
mod options;
mod parallel;
mod scope;
mod template;

use std::ops::Range;
use std::time::Duration;

use cachalot_kv::mend::{Piece, Refresh};

pub(crate) use anchors::{Anchors, Name, Place, Set};
pub(crate) use library::{Choice, Kept, Library, VARIANTS, blocks_of};
pub use method::Method;
pub(crate) use parallel::Layout;
pub use scope::{EditId, Scope};
pub(crate) use template::Template;

/// Fewest tokens of a stretch that is worth moving.
pub const LEAST: usize = 16;

/// How stretches that were computed elsewhere are used: `cacheblend`, or `cacheblend(share=0.2)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blend {
    /// Which rows are computed anew.
    pub method: Method,
    /// Cut prompts whose client marks nothing by their content.
    pub auto: bool,
}

impl Default for Blend {
    /// CacheBlend as its paper has it.
    fn default() -> Blend {
        Blend::of(Method::CacheBlend { share: Method::SHARE })
    }
}

impl Blend {
    /// A method for stretches that the client marks.
    pub const fn of(method: Method) -> Blend {
        Blend { method, auto: false }
    }

    /// Rows that are computed again while an answer is generated.
    pub(crate) fn refresh(&self) -> Option<Refresh> {
        match self.method {
            Method::KvShare { refresh, .. } => refresh,
            _ => None,
        }
    }
}

/// What a request wants of what was computed before it, and of what it computes itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// How they are used; prompts are computed whole where `None`.
    pub blend: Option<Blend>,
    /// Stretches of the prompt that its client marked, ascending and apart: others may begin with them, or follow them.
    pub chunks: Vec<Range<usize>>,
    /// Whether blocks may be taken that a lossy codec below the pool has changed; `None` leaves it to the engine.
    pub lossy: Option<bool>,
    /// The time from its arrival in which its first token is wanted: it chooses among levels of loss below the pool.
    pub within: Option<Duration>,
    /// For how long its prompt's blocks are to stay; zero lets go of those that an earlier request with this prompt pinned.
    pub pin: Option<Duration>,
    /// What the prompt was before it was edited.
    pub before: Option<Before>,
    /// The edit that it comes after: it shares with others that come after the same edit, and with nobody else.
    pub edit: Option<EditId>,
}

/// A prompt before it was edited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Before {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// The edit that it came after itself, if any.
    pub edit: Option<EditId>,
}

/// A prompt as it is put together.
#[derive(Default)]
pub(crate) struct Plan {
    pieces: Vec<Part>,
    /// Stretches that are to be computed and that others may want.
    pub fresh: Vec<Range<usize>>,
}

enum Part {
    New(usize),
    Kept(Kept),
}

impl Plan {
    /// Of the tokens from `from` on, with what is there for some stretches of them, ascending and apart. What comes behind the
    /// last of these is computed as ever.
    pub fn new(from: usize, found: Vec<(Range<usize>, Option<Kept>)>) -> Plan {
        let mut plan = Plan::default();
        let mut at = from;
        for (place, kept) in found {
            let Some(kept) = kept else {
                // One that begins with what others have is known by that.
                plan.fresh.extend(Some(place).filter(|place| place.start >= from));
                continue;
            };
            if place.start > at {
                plan.pieces.push(Part::New(place.start - at));
            }
            at = place.end;
            plan.pieces.push(Part::Kept(kept));
        }
        plan
    }

    /// Whether anything is there.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// As the cache wants it.
    pub fn pieces(&self) -> Vec<Piece<'_>> {
        self.pieces.iter().map(Part::piece).collect()
    }
}

impl Kept {
    /// As the cache wants it.
    pub fn piece(&self) -> Piece<'_> {
        Piece::Kept { blocks: &self.blocks, first: self.first, span: self.span.clone() }
    }
}

impl Part {
    fn piece(&self) -> Piece<'_> {
        match self {
            Part::New(tokens) => Piece::New(*tokens),
            Part::Kept(kept) => kept.piece(),
        }
    }
}
