//! Packed codes and the levels they stand for.

use crate::encode::quantizer::Packing;
use cachalot_kernels::Isa;
use cachalot_kernels::codes;

impl Packing {
    /// Bytes of so many codes, a multiple of 512.
    pub(super) fn bytes(&self, count: usize) -> usize {
        match self {
            Packing::Planes { bits, .. } => codes::packed_bytes(*bits, count),
        }
    }

    /// Packs codes that lie as levels do.
    pub(super) fn pack(&self, codes: &[u8], to: &mut [u8]) {
        match self {
            Packing::Planes { bits, .. } => codes::pack(*bits, codes, to),
        }
    }

    /// The codes as they were packed.
    pub(super) fn unpack_codes(&self, packed: &[u8], codes: &mut [u8]) {
        match self {
            Packing::Planes { bits, .. } => codes::unpack(Isa::Portable, *bits, packed, None, codes),
        }
    }

    /// The levels.
    pub(super) fn unpack(&self, isa: Isa, packed: &[u8], levels: &mut [u8]) {
        match self {
            Packing::Planes { bits, table } => codes::unpack(isa, *bits, packed, table.as_ref(), levels),
        }
    }
}
