//! Stretches put in place.

use super::{Mend, Select};
use crate::lane::Lane;
use crate::{KvCache, KvError, Rope, SequenceKv, SharedBlock};
use cachalot_kernels::attention::PAGE_TOKENS;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// A stretch of a context.
#[derive(Clone)]
pub enum Piece<'a> {
    /// So many tokens that nobody has computed.
    New(usize),
    /// Tokens that were computed elsewhere.
    Kept {
        /// Blocks of the context they stood in, one after the other.
        blocks: &'a [SharedBlock],
        /// Number of the first of them in that context.
        first: usize,
        /// Positions of the tokens there; the blocks cover them.
        span: Range<usize>,
    },
}

impl Piece<'_> {
    /// Tokens.
    pub fn len(&self) -> usize {
        match self {
            Piece::New(tokens) => *tokens,
            Piece::Kept { span, .. } => span.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pages of the blocks that hold the tokens, by their number in the context.
    pub(crate) fn pages(span: &Range<usize>) -> Range<usize> {
        span.start / PAGE_TOKENS..span.end.div_ceil(PAGE_TOKENS)
    }
}

impl KvCache {
    /// Whether every page that the pieces name is there in a form that a sequence with this plan can read. Layers with a sliding
    /// window let go of pages, so contexts of models that have such layers rarely are.
    pub fn can_assemble(&self, seq: &SequenceKv, pieces: &[Piece<'_>]) -> bool {
        pieces.iter().all(|piece| match piece {
            Piece::New(_) => true,
            Piece::Kept { blocks, first, span } => Piece::pages(span).all(|page| {
                let block = page.checked_sub(*first).and_then(|i| blocks.get(i));
                let end = span.end.min((page + 1) * PAGE_TOKENS) - page * PAGE_TOKENS;
                block.is_some_and(|block| {
                    seq.lanes.iter().enumerate().all(|(i, lane)| {
                        block.lane(i).is_some_and(|forms| lane.readable(forms).is_some_and(|page| page.tokens() >= end))
                    })
                })
            }),
        })
    }

    /// Puts pieces behind what a sequence has, in order, and announces the rows that are computed next: what
    /// [`SequenceKv::pass_tokens`] asks for, until it asks for nothing. The sequence is then as long as if all of it had been
    /// computed. Takes the exact bytes of the pieces until they are mended, whatever the recipe.
    ///
    /// # Errors
    /// [`KvError::Misuse`] where [`KvCache::can_assemble`] says no, where the sequence was reduced or is being read again, or
    /// where its recipe wants to see queries of the pieces ([`SequenceKv::unobserved`]); [`KvError::OutOfBudget`] or
    /// [`KvError::OutOfMemory`]. The sequence is as it was then.
    pub fn assemble(&self, seq: &mut SequenceKv, pieces: &[Piece<'_>], select: &Select) -> Result<(), KvError> {
        let (start, total) = (seq.len, pieces.iter().map(Piece::len).sum::<usize>());
        let misuse = |what: &str| Err(KvError::Misuse(format!("a context put together {what}")));
        if !seq.is_whole() {
            return misuse("behind one that was reduced or is being read again");
        }
        if start + total > seq.unobserved() {
            return misuse("whose queries the recipe wants to see");
        }
        if !self.can_assemble(seq, pieces) {
            return misuse("of pages that are not there");
        }
        let (mut new, mut moved, mut at) = (Vec::new(), Vec::new(), start);
        for piece in pieces {
            let place = at..at + piece.len();
            at = place.end;
            match piece {
                Piece::New(_) => new.extend(place.map(|position| position as u32)),
                Piece::Kept { .. } => moved.push(place),
            }
        }
        let mend = Mend::begin(self, new, &moved, select)?;
        let mut at = start;
        let placed = pieces.iter().map(|piece| {
            at += piece.len();
            (piece.clone(), at - piece.len(), at - piece.len())
        });
        self.put(seq, total, &placed.collect::<Vec<_>>())?;
        seq.moved += moved.iter().map(Range::len).sum::<usize>();
        seq.mend = mend;
        if seq.mend.is_none() {
            self.release(seq);
        }
        Ok(())
    }

    /// Writes the rows of pieces behind what a sequence has, which then has `total` tokens more: each piece to the slots from
    /// its first number on, turned to the positions from its second on. All stays in plain elements until it is released.
    pub(crate) fn put(
        &self,
        seq: &mut SequenceKv,
        total: usize,
        placed: &[(Piece<'_>, usize, usize)],
    ) -> Result<(), KvError> {
        let start = seq.len;
        seq.lanes.iter_mut().for_each(Lane::hold_on);
        if let Err(error) = self.reserve(seq, total) {
            self.release(seq);
            return Err(error);
        }
        for lane in 0..seq.lanes.len() {
            let size = seq.lanes[lane].exact_bytes();
            while seq.lanes[lane].end() * PAGE_TOKENS < start + total {
                let Some(page) = seq.take_spare(size) else { break };
                seq.lanes[lane].push(page);
            }
        }
        let ropes: Vec<Option<&Rope>> =
            (self.config().layers.iter()).flat_map(|g| std::iter::repeat_n(g.rope.as_deref(), g.kv_heads)).collect();
        let lanes: Vec<Mutex<&mut Lane>> = seq.lanes.iter_mut().map(Mutex::new).collect();
        self.team().for_each(lanes.len(), |i| {
            let lane = lanes[i].lock().unwrap_or_else(PoisonError::into_inner);
            for (piece, slot, position) in placed {
                if let Piece::Kept { blocks, first, span } = piece {
                    for page in Piece::pages(span) {
                        let Some(forms) = blocks[page - first].lane(i) else { continue };
                        let held = page * PAGE_TOKENS..(page + 1) * PAGE_TOKENS;
                        let tokens = span.start.max(held.start)..span.end.min(held.end);
                        let on = tokens.start - span.start;
                        lane.take_rows(forms, tokens, slot + on, position + on, ropes[i]);
                    }
                }
            }
        });
        seq.len = start + total;
        Ok(())
    }
}
