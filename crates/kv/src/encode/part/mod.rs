//! Ways of writing rows.

mod allotted;
mod bitmap;
mod block_float8;
mod classes;
mod codebook;
mod commvq;
mod fields;
pub(super) mod lanes;
mod lowrank;
pub mod matrix;
mod mean;
mod octahedral;
mod outliers;
mod polar;
mod polar_keys;
mod product;
mod scatter;
mod sketch;
mod soft_prune;
mod spectral;
mod split;
#[cfg(test)]
mod tests;
mod tiled;

pub(super) use scatter::Entry;

use super::stage::StageEntry;

/// One line a part that is not a matrix of group-quantized codes.
pub const STAGES: &[StageEntry] = &[
    block_float8::FP8,
    block_float8::MXFP8,
    outliers::STAGE,
    classes::STAGE,
    allotted::STAGE,
    mean::STAGE,
    lowrank::STAGE,
    product::STAGE,
    codebook::STAGE,
    bitmap::STAGE,
    sketch::STAGE,
    polar::STAGE,
    polar_keys::STAGE,
    octahedral::STAGE,
    spectral::STAGE,
    commvq::STAGE,
    split::STAGE,
    soft_prune::STAGE,
];
