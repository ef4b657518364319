//! Every stage by name.

use super::stage::StageEntry;
use super::{part, quantizer, transform};

/// All stages: changes of basis, quantizers of matrices, other parts.
pub fn stages() -> impl Iterator<Item = &'static StageEntry> {
    transform::STAGES.iter().chain(quantizer::STAGES).chain(part::STAGES)
}

/// The stage of this name.
pub fn stage(name: &str) -> Option<&'static StageEntry> {
    stages().find(|entry| entry.name == name)
}
