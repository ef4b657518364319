//! Changes of basis along the channels.

use super::stage::StageEntry;

/// One line a transform.
pub const STAGES: &[StageEntry] = &[];
