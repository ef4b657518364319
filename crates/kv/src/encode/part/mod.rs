//! Ways of writing rows.

mod block_float8;
mod classes;
pub mod matrix;
mod outliers;

use super::stage::StageEntry;

/// One line a part that is not a matrix of group-quantized codes.
pub const STAGES: &[StageEntry] = &[block_float8::FP8, block_float8::MXFP8, outliers::STAGE, classes::STAGE];
