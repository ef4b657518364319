//! Ways of writing rows.

use super::stage::StageEntry;

/// One line a part that is not a matrix of group-quantized codes.
pub const STAGES: &[StageEntry] = &[];
