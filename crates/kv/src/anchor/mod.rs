//! **anchor**: how far a stretch said something else in one context than in another, kept to foretell how far others do (KVCOMM,
//! Ye et al., 2025).
//!
//! A message that stands in the prompts of several agents has a *base*: its keys and values as they were computed somewhere. An
//! anchor is what one agent's prompt made of one message: the base, and what was to be added to it, and to the text that follows
//! the message. Another message in its place gets the sum of what anchors had, weighed by how near their bases are to its own.
//!
//! All keys are kept turned back to where a stretch begins at position zero, so that anchors serve at any offset. (The paper's
//! code keeps differences in the frame of the request that made them, and uses them in others without turning.)

mod correct;
pub mod formula;

use crate::mend::Piece;
use crate::pool::ledger::{Purpose, Reservation};
use crate::{CachePlan, KvCache, KvError};
use cachalot_kernels::attention::PAGE_TOKENS;
use half::f16;
use std::ops::Range;

pub use correct::Likeness;

/// Keys and values of a stretch in all lanes, `[tokens][dim]` each, as half floats; of the first layer nothing, which knows no
/// context.
struct Stretch {
    lanes: Vec<[Vec<f16>; 2]>,
}

impl Stretch {
    fn bytes(&self) -> usize {
        self.lanes.iter().flatten().map(|rows| 2 * rows.len()).sum()
    }
}

/// See the module.
pub struct Anchor {
    tokens: usize,
    base: Stretch,
    delta: Stretch,
    /// What was to be added to the text that follows the message, where there is some.
    after: Option<Stretch>,
    bytes: Reservation,
}

impl Anchor {
    /// Tokens of the message. Only messages that are no longer can be foretold.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes it takes of the budget.
    pub fn bytes(&self) -> u64 {
        self.bytes.bytes()
    }

    /// Whether it knows what became of the text behind the message.
    pub fn has_after(&self) -> bool {
        self.after.is_some()
    }
}

/// A stretch as it was somewhere, and as it is here.
#[derive(Clone)]
pub struct Pair<'a> {
    /// Somewhere.
    pub base: Piece<'a>,
    /// Here.
    pub real: Piece<'a>,
}

impl KvCache {
    /// An anchor of a message, and of the text that follows it. All pieces are [`Piece::Kept`], those of a pair of the same
    /// tokens.
    ///
    /// # Errors
    /// [`KvError::Misuse`] where pieces are not there or differ in length, [`KvError::OutOfBudget`].
    pub fn anchor(&self, plan: &CachePlan, message: &Pair<'_>, after: Option<&Pair<'_>>) -> Result<Anchor, KvError> {
        let needed = self.anchor_bytes(message, after);
        let bytes = self.ledger().reserve(Purpose::Pages, needed)?;
        let missing = || KvError::Misuse("an anchor of pages that are not there".into());
        let (base, delta) = self.difference(plan, message, true).ok_or_else(missing)?;
        let after = after.map(|pair| self.difference(plan, pair, false).ok_or_else(missing)).transpose()?;
        let after = after.map(|(_, delta)| delta);
        let taken = base.bytes() + delta.bytes() + after.as_ref().map_or(0, Stretch::bytes);
        debug_assert_eq!(taken as u64, needed);
        Ok(Anchor { tokens: message.base.len(), base, delta, after, bytes })
    }

    /// Bytes of such an anchor.
    pub fn anchor_bytes(&self, message: &Pair<'_>, after: Option<&Pair<'_>>) -> u64 {
        let bytes = |pair: &Pair<'_>| 2 * pair.base.len() * self.channels();
        (2 * bytes(message) + after.map_or(0, bytes)) as u64
    }

    /// Channels of keys and values of a token, over all lanes but those of the first layer.
    fn channels(&self) -> usize {
        self.config().layers.iter().skip(1).map(|g| 2 * g.kv_heads * g.head_dim).sum()
    }

    /// The base, where it is wanted, and what is to be added to it.
    fn difference(&self, plan: &CachePlan, pair: &Pair<'_>, keep: bool) -> Option<(Stretch, Stretch)> {
        let (mut base, mut delta) = (Stretch { lanes: Vec::new() }, Stretch { lanes: Vec::new() });
        let round = |rows: &[Vec<f32>; 2]| {
            [0, 1].map(|side| rows[side].iter().map(|x| f16::from_f32(*x)).collect::<Vec<f16>>())
        };
        for lane in self.contextual() {
            let from = self.rows_of(plan, lane, &pair.base)?;
            let mut to = self.rows_of(plan, lane, &pair.real)?;
            if from[0].len() != to[0].len() {
                return None;
            }
            (0..2).for_each(|side| to[side].iter_mut().zip(&from[side]).for_each(|(to, from)| *to -= from));
            delta.lanes.push(round(&to));
            if keep {
                base.lanes.push(round(&from));
            }
        }
        Some((base, delta))
    }

    /// Lanes whose keys and values know their context: all but those of the first layer.
    fn contextual(&self) -> Range<usize> {
        let lanes: usize = self.config().layers.iter().map(|g| g.kv_heads).sum();
        self.config().layers.first().map_or(0, |g| g.kv_heads)..lanes
    }

    /// Keys and values of a piece in one lane, `[tokens][dim]`, as if it began at position zero.
    fn rows_of(&self, plan: &CachePlan, lane: usize, piece: &Piece<'_>) -> Option<[Vec<f32>; 2]> {
        let Piece::Kept { blocks, first, span } = piece else { return None };
        let reader = self.lanes(plan).nth(lane)?;
        let rope = self.rope_of(lane);
        let mut rows = [Vec::new(), Vec::new()];
        for page in Piece::pages(span) {
            let forms = blocks.get(page.checked_sub(*first)?)?.lane(lane)?;
            let held = page * PAGE_TOKENS..(page + 1) * PAGE_TOKENS;
            let tokens = span.start.max(held.start)..span.end.min(held.end);
            reader.readable(forms).filter(|page| page.tokens() >= tokens.end - held.start)?;
            reader.read_rows(forms, tokens.clone(), tokens.start - span.start, rope, &mut rows);
        }
        Some(rows)
    }

    /// Rotary position of a lane's layer.
    fn rope_of(&self, lane: usize) -> Option<&crate::Rope> {
        let mut ropes = self.config().layers.iter().flat_map(|g| std::iter::repeat_n(g.rope.as_deref(), g.kv_heads));
        ropes.nth(lane).flatten()
    }
}
