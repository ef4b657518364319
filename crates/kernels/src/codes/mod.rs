//! Matrices of small codes with grids of scales: what encoded keys and values are, and their products with queries and
//! weights, computed on the codes.
//!
//! A matrix has `reduce` rows and `lanes` columns: for keys the channels by the tokens (a score reduces over channels),
//! for values the tokens by the channels (an output reduces over tokens). Each entry is a level, one byte:
//!
//! ```text
//! x[r][l] = lane_scale[rg][l] * (fold_scale[lg][r] * (level - zero) + fold_offset[lg][r]) + lane_offset[rg][l] * fold_scale[lg][r]
//! ```
//!
//! where `rg` is the reduce group of `r` and `lg` the lane group of `l`. Levels lie as `[reduce/4][lanes][4]`: four
//! consecutive rows of a lane in one 32-bit word, as eight-bit dot products and AMX tiles want them. In memory the
//! codes are packed ([`pack`]) and unpacked to levels one page at a time ([`unpack`]), best to a place that [`aligned`] gives.
//!
//! The vector a matrix is multiplied with is rounded to sixteen-bit integers, `y = x * fold_scale`, per row, lane group and
//! reduce group with one scale each (error at most `max|y| / 65024`), so that the sums are exact integers: the same
//! bits on every instruction set, in every batch.

mod ahead;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod decode;
mod direct;
mod dot;
mod each;
mod grid;
mod hadamard;
mod levels;
mod pack;
mod product;
mod rounding;
mod source;
mod tiles;
mod unpack;
mod vectors;

pub use decode::decode;
pub use direct::decode_packed;
pub use grid::Grid;
pub use hadamard::{decode_hadamard, score_hadamard};
pub use levels::Levels;
pub use pack::{Bits, pack, packed_bytes};
pub use product::{Given, Scratch, multiply, reads_packed, round};
pub use source::Codes;
pub use unpack::unpack;
