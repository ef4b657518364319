//! Contexts that share their positions: each was computed alone behind the same prefix, and what follows reads them all as if
//! each stood right there (APE, Yang et al., 2025).
//!
//! Of a lane's slots the first are the prefix's, then come the contexts one after the other, then what follows them, at positions
//! from behind the longest on. Contexts begin and end anywhere within pages, and attention masks rows instead of asking for
//! pages of their own: half a page of padding for every context and lane would cost more than the copy, and slots would no longer
//! be tokens, which is what everything above the cache counts in.

use crate::mend::Piece;
use crate::{KvCache, KvError, SequenceKv};
use std::sync::Arc;

/// How attention over the contexts is weighed against that over all else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temper {
    /// `T`: scores over contexts are divided by it; above zero. Below one, attention within contexts is sharper.
    pub temperature: f32,
    /// `S`: below one, contexts get less of the attention.
    pub scale: f32,
}

impl Temper {
    /// The weight of the contexts' part, as a logarithm, from the one that their scores gave.
    pub fn weigh(self, lse: f32) -> f32 {
        self.scale * self.temperature * lse
    }
}

/// Which slots of a lane are whose.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parallel {
    /// Where each context begins, ascending; the first is where the prefix ends.
    starts: Vec<usize>,
    /// Where the last one ends.
    end: usize,
    /// Where what follows them begins. Slots before it that are no context's are seen by nobody.
    own: usize,
    /// Tokens of the longest.
    longest: usize,
    pub(crate) temper: Temper,
}

impl Parallel {
    /// Tokens of the prefix.
    pub(crate) fn prefix(&self) -> usize {
        self.starts.first().copied().unwrap_or(self.own)
    }

    /// Slots of all contexts.
    pub(crate) fn contexts(&self) -> std::ops::Range<usize> {
        self.prefix()..self.end
    }

    /// The first slot behind them.
    pub(crate) fn own(&self) -> usize {
        self.own
    }

    /// Position of the token in a slot.
    pub(crate) fn position(&self, slot: usize) -> usize {
        let prefix = self.prefix();
        if slot >= self.own {
            return prefix + self.longest + slot - self.own;
        }
        let context = self.starts.partition_point(|&start| start <= slot).checked_sub(1);
        context.map_or(slot, |context| prefix + slot.min(self.end - 1) - self.starts[context])
    }
}

impl KvCache {
    /// Puts contexts behind a prefix so that what follows reads them as if each stood right behind it; rows that come next are at
    /// positions behind the longest. The sequence may hold a part of the prefix; `prefix` has the rest of it. All pieces are
    /// [`Piece::Kept`], the contexts from the position on where the prefix ends. Of `silent` further tokens nothing is read: the
    /// sequence counts them, and that is all.
    ///
    /// # Errors
    /// [`KvError::Misuse`] where the pieces are not there or stood elsewhere, where the model has sliding windows, and where the
    /// sequence was or is to be reduced; [`KvError::OutOfBudget`] or [`KvError::OutOfMemory`]. The sequence is as it was then.
    pub fn assemble_parallel(
        &self,
        seq: &mut SequenceKv,
        prefix: &[Piece<'_>],
        contexts: &[Piece<'_>],
        silent: usize,
        temper: Temper,
    ) -> Result<(), KvError> {
        let misuse = |what: &str| Err(KvError::Misuse(format!("contexts that share their positions {what}")));
        if !seq.is_whole() || seq.pending.is_some() {
            return misuse("in a sequence that is reduced, mended or has some");
        }
        if self.config().layers.iter().any(|g| g.window.is_some()) {
            return misuse("in a model with sliding windows");
        }
        if !(temper.temperature > 0.0 && temper.temperature.is_finite() && temper.scale.is_finite()) {
            return misuse("at a temperature of zero");
        }
        if !self.can_assemble(seq, prefix) || !self.can_assemble(seq, contexts) {
            return misuse("of pages that are not there");
        }
        let first = seq.len;
        let (mut placed, mut at, mut starts, mut longest) = (Vec::new(), first, Vec::new(), 0);
        for piece in prefix {
            placed.push((piece.clone(), at, at));
            at += piece.len();
        }
        let behind = at;
        for piece in contexts {
            let Piece::Kept { blocks, first, span } = piece else { return misuse("that nobody has computed") };
            if span.start != behind || span.is_empty() {
                return misuse("and stood elsewhere");
            }
            starts.push(at);
            placed.push((piece.clone(), at, behind));
            at += span.len();
            longest = longest.max(span.len());
            // Rows that nobody reads are encoded with those beside them, so they are like these.
            if starts.len() == contexts.len() {
                let last = Piece::Kept { blocks, first: *first, span: span.end - 1..span.end };
                placed.extend((at..at + silent).map(|slot| (last.clone(), slot, behind + span.len() - 1)));
            }
        }
        if contexts.is_empty() {
            return misuse("are none");
        }
        let parallel = Parallel { starts, end: at, own: at + silent, longest, temper };
        self.put(seq, parallel.own - first, &placed)?;
        seq.moved += parallel.own - parallel.prefix();
        let parallel = Arc::new(parallel);
        seq.lanes.iter_mut().for_each(|lane| lane.set_parallel(parallel.clone()));
        self.release(seq);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_of_the_contexts_is_weighed_by_both() {
        let temper = Temper { temperature: 0.9, scale: 0.9 };
        assert!((temper.weigh(2.0) - 1.62).abs() < 1e-6);
        assert_eq!(Temper { temperature: 1.0, scale: 1.0 }.weigh(2.0), 2.0);
    }

    #[test]
    fn contexts_share_positions_and_what_follows_stands_behind_the_longest() {
        let temper = Temper { temperature: 1.0, scale: 1.0 };
        let parallel = Parallel { starts: vec![10, 13, 20], end: 22, own: 25, longest: 7, temper };
        let at = |slot| parallel.position(slot);
        assert_eq!((at(0), at(9), at(10), at(12), at(13), at(19), at(20), at(21)), (0, 9, 10, 12, 10, 16, 10, 11));
        assert_eq!((at(25), at(26)), (17, 18));
        assert_eq!((parallel.prefix(), parallel.contexts()), (10, 10..22));
        // Seen by nobody, but a position all the same.
        assert!((22..25).all(|slot| at(slot) == 11));
    }
}
