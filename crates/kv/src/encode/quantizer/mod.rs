//! Quantizers of groups: a few numbers become codes, a scale and perhaps an offset.
//!
//! A quantizer sees one group at a time; which numbers form a group, where the codes lie and how they are multiplied is
//! the business of [`super::part::matrix`].

mod block_float;
pub mod float8;
pub mod ggml;
mod hqq;
pub mod lloyd;
mod nuq;
mod olive;
mod store;
mod table;
mod ternary;
mod uniform;

#[cfg(test)]
pub(in crate::encode) use olive::levels as pair_levels;
pub(in crate::encode) use olive::table as pair_table;
pub use store::Store;
pub use table::Table;
pub use uniform::{Rounding, Uniform, Zero};

use super::stage::StageEntry;
use cachalot_kernels::codes::Bits;
use std::fmt;
use std::sync::Arc;

/// One line a quantizer.
pub const STAGES: &[StageEntry] = &[
    uniform::STAGE,
    ggml::Q8_0,
    ggml::Q5_1,
    ggml::Q5_0,
    ggml::Q4_1,
    ggml::Q4_0,
    ggml::IQ4_NL,
    block_float::MXFP4,
    block_float::NVFP4,
    block_float::BFP,
    hqq::STAGE,
    lloyd::STAGE,
    nuq::STAGE,
    ternary::TERNARY,
    ternary::SIGN,
    olive::STAGE,
];

/// How the codes of a matrix are packed, and what they mean.
#[derive(Clone, Debug, PartialEq)]
pub enum Packing {
    /// In planes of bits; a code is its level, or an index of a table of levels (of at most four bits).
    Planes {
        /// Bits of a code.
        bits: Bits,
        /// Levels by code.
        table: Option<[u8; 16]>,
    },
    /// Nibbles whose meaning depends on the neighbouring channel's: outlier-victim pairs.
    Pairs {
        /// Levels from a channel to the next.
        distance: usize,
    },
    /// Three levels, five to a byte.
    Ternary,
}

/// A parameter of every group: where its values are.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// In the page.
    Stored(Store),
    /// Constant, one a line: a channel where groups run along tokens.
    Fixed(Arc<[f32]>),
}

/// What is added to the levels of a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Offset {
    /// Nothing: a group is `scale * (level - zero)`.
    None,
    /// A number: `scale * (level - zero) + offset`.
    Added(Kept),
    /// A point in steps: `scale * (level - zero) - point * scale`.
    Point(Store),
}

/// The numbers of a group, as they will be read back.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parameters {
    /// What levels are multiplied with.
    pub scale: f32,
    /// See [`Offset`].
    pub offset: f32,
}

/// Which group it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The token (groups along channels) or channel (groups along tokens).
    pub line: usize,
    /// Which of the groups of that line.
    pub block: usize,
}

/// Turns groups of numbers into codes.
pub trait GroupQuantizer: Send + Sync + fmt::Debug {
    /// How codes are packed.
    fn packing(&self) -> Packing;
    /// The level that stands for zero (before an offset).
    fn zero(&self) -> u8;
    /// Where scales are.
    fn scale(&self) -> Kept;
    /// Where offsets are.
    fn offset(&self) -> Offset;
    /// Codes of one group of finite numbers, and its parameters rounded to what is stored.
    fn quantize(&self, group: Group, x: &[f32], codes: &mut [u8]) -> Parameters;
    /// For `kv show`.
    fn describe(&self) -> String;
    /// Bytes of constants that all pages share.
    fn shared_bytes(&self) -> usize {
        0
    }
}

/// Least and greatest of a group.
fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)))
}

/// Greatest magnitude of a group.
fn reach(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |reach, x| x.abs().max(reach))
}
