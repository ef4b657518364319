//! Packed codes and the levels they stand for.

use crate::encode::quantizer::{Packing, pair_levels};
use cachalot_kernels::Isa;
use cachalot_kernels::codes::{self, Bits};

impl Packing {
    /// Bytes of so many codes, a multiple of 512.
    pub(super) fn bytes(&self, count: usize) -> usize {
        match self {
            Packing::Planes { bits, .. } => codes::packed_bytes(*bits, count),
            Packing::Pairs { .. } => count / 2,
            Packing::Ternary => count.div_ceil(5),
        }
    }

    /// Packs codes that lie as levels do.
    pub(super) fn pack(&self, codes: &[u8], to: &mut [u8]) {
        match self {
            Packing::Planes { bits, .. } => codes::pack(*bits, codes, to),
            Packing::Pairs { .. } => codes::pack(Bits::B4, codes, to),
            Packing::Ternary => {
                for (codes, to) in codes.chunks(5).zip(to) {
                    *to = codes.iter().rev().fold(0, |byte, code| 3 * byte + code);
                }
            }
        }
    }

    /// The codes as they were packed.
    pub(super) fn unpack_codes(&self, packed: &[u8], codes: &mut [u8]) {
        match self {
            Packing::Planes { bits, .. } => codes::unpack(Isa::Portable, *bits, packed, None, codes),
            Packing::Pairs { .. } => codes::unpack(Isa::Portable, Bits::B4, packed, None, codes),
            Packing::Ternary => thirds(packed, codes),
        }
    }

    /// The levels.
    pub(super) fn unpack(&self, isa: Isa, packed: &[u8], levels: &mut [u8]) {
        match self {
            Packing::Planes { bits, table } => codes::unpack(isa, *bits, packed, table.as_ref(), levels),
            Packing::Pairs { distance } => {
                codes::unpack(isa, Bits::B4, packed, None, levels);
                // Two bytes of four lanes, or two lanes of four bytes.
                for eight in levels.as_chunks_mut::<8>().0 {
                    for i in 0..4 {
                        let a = if *distance == 1 { 2 * i } else { i };
                        [eight[a], eight[a + distance]] = PAIRS[usize::from(eight[a] & 15 | eight[a + distance] << 4)];
                    }
                }
            }
            Packing::Ternary => thirds(packed, levels),
        }
    }
}

/// Levels of both nibbles of a byte.
static PAIRS: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = pair_levels([byte as u8 & 15, byte as u8 >> 4]);
        byte += 1;
    }
    pairs
};

/// Five digits of base three in a byte.
static THIRDS: [[u8; 5]; 256] = {
    let mut digits = [[0; 5]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut rest, mut i) = (byte, 0);
        while i < 5 {
            digits[byte][i] = (rest % 3) as u8;
            rest /= 3;
            i += 1;
        }
        byte += 1;
    }
    digits
};

fn thirds(packed: &[u8], codes: &mut [u8]) {
    for (&byte, to) in packed.iter().zip(codes.chunks_mut(5)) {
        to.copy_from_slice(&THIRDS[usize::from(byte)][..to.len()]);
    }
}
