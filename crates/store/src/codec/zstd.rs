//! `zstd` and `zstd-LEVEL`: pages as bytes of no particular meaning.

use super::layout::{corrupt, header_of};
use crate::{Codec, StoreError};

/// Zstandard of one page at a time.
#[derive(Clone, Copy, Debug)]
pub struct Zstd {
    level: i32,
}

impl Zstd {
    /// The level of `zstd` without a number.
    pub const DEFAULT: i32 = 3;

    /// Of a level from 1 to 22; none else.
    pub fn new(level: i32) -> Option<Zstd> {
        (1..=22).contains(&level).then_some(Zstd { level })
    }
}

impl Codec for Zstd {
    fn name(&self) -> String {
        match self.level {
            Self::DEFAULT => "zstd".to_owned(),
            level => format!("zstd-{level}"),
        }
    }

    fn is_lossless(&self) -> bool {
        true
    }

    fn encode(&self, page: &[u8], out: &mut Vec<u8>) -> Result<(), StoreError> {
        header_of(page)?;
        let coded = zstd::bulk::compress(page, self.level);
        out.extend(coded.map_err(|error| corrupt(format!("zstd cannot compress it: {error}")))?);
        Ok(())
    }

    fn decode(&self, coded: &[u8], len: usize) -> Result<Vec<u8>, StoreError> {
        let page = zstd::bulk::decompress(coded, len).map_err(|error| corrupt(format!("zstd: {error}")))?;
        match page.len() == len {
            true => Ok(page),
            false => Err(corrupt(format!("{} bytes for a page of {len}", page.len()))),
        }
    }
}
