//! Every stage by name.

use super::stage::StageEntry;
use super::{element, part, quantizer, transform};

/// All stages: changes of basis, quantizers of matrices, other parts.
pub fn stages() -> impl Iterator<Item = &'static StageEntry> {
    let plain = element::STAGES.iter();
    plain.chain(transform::STAGES).chain(quantizer::STAGES).chain(part::STAGES)
}

/// The stage of this name.
pub fn stage(name: &str) -> Option<&'static StageEntry> {
    stages().find(|entry| entry.name == name)
}
