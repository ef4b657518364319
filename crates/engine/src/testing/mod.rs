//! Stand-ins for tests: a tokenizer of bytes, a model of hashes over a real cache, and the plainest way to generate.

mod decoder;
mod reference;
mod vocabulary;

pub(crate) use decoder::{HashDecoder, VOCAB, cache, cache_with};
pub(crate) use reference::{Expected, expected};
pub(crate) use vocabulary::ByteVocabulary;

use crate::sampling::Stream;

/// A sequence of random numbers for building test cases.
pub(crate) struct Dice(Stream, u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Stream::new(seed, 0xd1ce), 0)
    }

    /// In `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.1 += 1;
        (self.0.uniform(self.1) * n as f64) as usize
    }

    pub fn chance(&mut self, p: f64) -> bool {
        self.1 += 1;
        self.0.uniform(self.1) < p
    }
}
