//! Ways of writing rows.

pub mod matrix;

use super::stage::StageEntry;

/// One line a part that is not a matrix of group-quantized codes.
pub const STAGES: &[StageEntry] = &[];
