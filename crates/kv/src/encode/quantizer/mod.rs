//! Quantizers of groups: a few numbers become codes, a scale and perhaps an offset.

use super::stage::StageEntry;

/// One line a quantizer.
pub const STAGES: &[StageEntry] = &[];
