//! Changes of basis along the channels.

mod basis;
mod hadamard;
mod pca;
mod permute;
mod rotate;
mod scale;
#[cfg(test)]
mod tests;
mod whiten;

use super::stage::StageEntry;
use cachalot_kernels::Isa;
use std::sync::OnceLock;

/// One line a transform.
pub const STAGES: &[StageEntry] = &[
    StageEntry {
        name: "hadamard",
        summary: "normalised Walsh-Hadamard transform in blocks; hadamard(block=0), 0: the largest power of two that divides the channels",
        build: hadamard::build,
        calibrate: None,
    },
    StageEntry {
        name: "signs",
        summary: "random signs on the channels; signs(seed=0)",
        build: rotate::build_signs,
        calibrate: None,
    },
    StageEntry {
        name: "rotate",
        summary: "random rotation; rotate(seed=0, kind=hadamard|dense)",
        build: rotate::build,
        calibrate: None,
    },
    StageEntry {
        name: "permute",
        summary: "channel order from a profile, by calibrated norm or signed sum; permute(statistic=norm|sum)",
        build: permute::build,
        calibrate: Some(permute::calibrate),
    },
    StageEntry {
        name: "scale",
        summary: "factors per channel from a profile; scale(kind=balance|fireq|rms, alpha=1, beta=1, top=3)",
        build: scale::build,
        calibrate: Some(scale::calibrate),
    },
    StageEntry {
        name: "pca",
        summary: "principal components from a profile; pca(keep=0, share=1, normalise=false): so many, or as many as hold this share of the variance",
        build: pca::build,
        calibrate: Some(pca::calibrate),
    },
    StageEntry {
        name: "whiten",
        summary: "keys: principal components in the metric of the queries, each of unit variance; whiten(keep=0)",
        build: whiten::build,
        calibrate: Some(whiten::calibrate),
    },
];

/// The widest instruction set: transforms return the same bits on all of them.
fn widest() -> Isa {
    static WIDEST: OnceLock<Isa> = OnceLock::new();
    *WIDEST.get_or_init(Isa::detect)
}
