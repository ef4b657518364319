//! A note of where a chunk lies below the pool: the blocks that hold it, and its place in them. Small, and kept beside them.
//!
//! ```text
//!  0  magic "CHNK", version 1 (u32)      16  tokens of the chunk (u32), blocks (u32)
//!  8  position of its first token (u64)  24  the blocks' keys, 32 bytes each
//! ```
//! and then, where it is known what the chunk depends on (Cache-Craft): chunks before it (u32), the name of each (32 bytes) and
//! the attention that it gave it (f64); its impact (f64); its tokens, those that look outside most first (u32 each). Numbers are
//! little endian. What reads it believes nothing of it: blocks have keys and tokens of their own.

use std::ops::Range;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_store::BlockKey;

use crate::blend::blocks_of;
use crate::blend::craft::Context;

/// How a note begins; blocks begin otherwise.
pub const NOTE_MAGIC: [u8; 4] = *b"CHNK";
const VERSION: u32 = 1;
/// Longest chunk that is believed.
const MOST: usize = 1 << 24;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Note {
    /// Positions of the chunk in the context that it was computed in.
    pub span: Range<usize>,
    /// Blocks of that context that cover it.
    pub keys: Vec<BlockKey>,
    /// What it depends on there, where that was looked at.
    pub context: Option<Context<BlockKey>>,
}

impl Note {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = NOTE_MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.span.start as u64).to_le_bytes());
        bytes.extend((self.span.len() as u32).to_le_bytes());
        bytes.extend((self.keys.len() as u32).to_le_bytes());
        self.keys.iter().for_each(|key| bytes.extend(key.0));
        if let Some(Context { before, inter, impact, order }) = &self.context {
            bytes.extend((before.len() as u32).to_le_bytes());
            before.iter().for_each(|name| bytes.extend(name.0));
            inter.iter().chain([impact]).for_each(|number| bytes.extend(number.to_le_bytes()));
            order.iter().for_each(|token| bytes.extend(token.to_le_bytes()));
        }
        bytes
    }

    /// What [`Note::to_bytes`] wrote of a chunk of so many tokens; `None` for anything else.
    pub fn of_bytes(bytes: &[u8], tokens: usize) -> Option<Note> {
        let mut from = Bytes(bytes);
        if from.take::<4>()? != NOTE_MAGIC || u32::from_le_bytes(from.take()?) != VERSION || tokens > MOST {
            return None;
        }
        let start = usize::try_from(u64::from_le_bytes(from.take()?)).ok()?;
        let span = start..start.checked_add(from.number()?)?;
        let blocks = from.number()?;
        // The last block ends where positions may still be counted.
        span.end.checked_next_multiple_of(PAGE_TOKENS)?;
        if span.len() != tokens || blocks != blocks_of(&span).len() {
            return None;
        }
        let keys = (0..blocks).map(|_| from.take().map(BlockKey)).collect::<Option<_>>()?;
        let context = if from.0.is_empty() { None } else { Some(context(&mut from, tokens)?) };
        from.0.is_empty().then_some(Note { span, keys, context })
    }
}

fn context(from: &mut Bytes<'_>, tokens: usize) -> Option<Context<BlockKey>> {
    let names = from.number().filter(|names| *names <= from.0.len() / 32)?;
    let before = (0..names).map(|_| from.take().map(BlockKey)).collect::<Option<_>>()?;
    let mut share = || from.take().map(f64::from_le_bytes).filter(|number| number.is_finite() && *number >= 0.0);
    let inter = (0..names).map(|_| share()).collect::<Option<_>>()?;
    let impact = share().filter(|impact| *impact <= 1.0)?;
    let order: Vec<u32> = (0..tokens).map(|_| from.take().map(u32::from_le_bytes)).collect::<Option<_>>()?;
    let mut seen = vec![false; tokens];
    let is_new = |token: &u32| seen.get_mut(*token as usize).is_some_and(|seen| !std::mem::replace(seen, true));
    order.iter().all(is_new).then_some(Context { before, inter, impact, order })
}

/// What is left to read.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<usize> {
        self.take().map(|bytes| u32::from_le_bytes(bytes) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;

    fn note(context: bool) -> Note {
        let known = Context { before: vec![BlockKey([7; 32])], inter: vec![0.25], impact: 0.75, order: vec![2, 0, 1] };
        let keys = vec![BlockKey([1; 32]), BlockKey([2; 32])];
        Note { span: 62..65, keys, context: context.then_some(known) }
    }

    #[test]
    fn notes_are_read_as_they_are_written_and_nothing_else_is() {
        for note in [note(false), note(true)] {
            let bytes = note.to_bytes();
            assert_eq!(Note::of_bytes(&bytes, 3), Some(note.clone()));
            assert_eq!(Note::of_bytes(&bytes, 4), None);
            let cuts = (0..bytes.len()).filter(|&len| Note::of_bytes(&bytes[..len], 3).is_some());
            // Without what it depends on, it is a note still; whoever keeps it has checksums.
            assert!(cuts.eq(note.context.iter().map(|_| 24 + 64)));
            assert_eq!(Note::of_bytes(&[&bytes[..], &[0]].concat(), 3), None);
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_lie_outside_the_chunk() {
        let (mut dice, bytes) = (Dice::new(1), note(true).to_bytes());
        for _ in 0..20_000 {
            let mut bytes = bytes.clone();
            for _ in 0..=dice.below(3) {
                let at = dice.below(bytes.len());
                bytes[at] = dice.below(256) as u8;
            }
            if let Some(Note { span, keys, context }) = Note::of_bytes(&bytes, 3) {
                assert_eq!((span.len(), keys.len()), (3, blocks_of(&span).len()));
                assert!(context.is_none_or(|context| context.order.iter().all(|token| *token < 3)));
            }
        }
    }
}
