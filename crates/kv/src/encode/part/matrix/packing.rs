//! Packed codes and the levels they stand for.

use crate::encode::quantizer::{Packing, pair_table};
use cachalot_kernels::codes::{self, Bits, Codes};
use cachalot_kernels::simd::Simd;
use cachalot_kernels::{Isa, dispatch};

/// The code that gives way to the other of its pair.
const VICTIM: u64 = 8;

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

    /// The codes as products read them where they may be packed.
    pub(super) fn codes<'a>(&'a self, packed: &'a [u8]) -> Option<Codes<'a>> {
        match self {
            Packing::Planes { bits, table } => Some(Codes::Packed { bits: *bits, packed, table: table.as_ref() }),
            Packing::Pairs { distance } => Some(Codes::Pairs {
                packed,
                distance: *distance,
                normal: &NORMAL,
                outlier: &OUTLIERS,
                victim: VICTIM as u8,
            }),
            Packing::Ternary => None,
        }
    }

    /// The levels.
    pub(super) fn unpack(&self, isa: Isa, packed: &[u8], levels: &mut [u8]) {
        match self {
            Packing::Planes { bits, table } => codes::unpack(isa, *bits, packed, table.as_ref(), levels),
            Packing::Pairs { distance } => pairs(isa, *distance, packed, levels),
            Packing::Ternary => thirds(packed, levels),
        }
    }
}

/// Levels of pairs, whose other code is `distance` bytes away: what each code means depends on that one.
fn pairs(isa: Isa, distance: usize, packed: &[u8], levels: &mut [u8]) {
    const BLOCK: usize = 512;
    let (mut codes, mut outliers) = ([0; BLOCK], [0; BLOCK]);
    for (packed, levels) in packed.chunks_exact(BLOCK / 2).zip(levels.chunks_exact_mut(BLOCK)) {
        codes::unpack(isa, Bits::B4, packed, None, &mut codes);
        codes::unpack(isa, Bits::B4, packed, Some(&OUTLIERS), &mut outliers);
        codes::unpack(isa, Bits::B4, packed, Some(&NORMAL), levels);
        choose(isa, distance, &codes, &outliers, levels);
    }
}

/// Levels by code, beside any code and beside a victim.
static NORMAL: [u8; 16] = pair_table(false);
static OUTLIERS: [u8; 16] = pair_table(true);

dispatch! {
    /// Takes the outlier's level where the other code of the pair is that of a victim.
    fn choose(distance: usize, codes: &[u8], outliers: &[u8], levels: &mut [u8]) = choose_body
}

/// Eight bytes in a number at a time, which the compiler makes vectors of.
#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)]
unsafe fn choose_body<S: Simd>(distance: usize, codes: &[u8], outliers: &[u8], levels: &mut [u8]) {
    const LOW: u64 = 0x00ff_00ff_00ff_00ff;
    const EACH: u64 = 0x0101_0101_0101_0101;
    let eights = codes.as_chunks::<8>().0.iter().zip(outliers.as_chunks::<8>().0);
    for ((codes, outliers), levels) in eights.zip(levels.as_chunks_mut::<8>().0) {
        let (codes, outliers) = (u64::from_le_bytes(*codes), u64::from_le_bytes(*outliers));
        let others = if distance == 1 { (codes & LOW) << 8 | (codes >> 8) & LOW } else { codes.rotate_left(32) };
        // All ones in the bytes whose other is no victim: codes are below 16, so nothing carries.
        let plain = ((((others ^ (VICTIM * EACH)) + 0x7f * EACH) >> 7) & EACH) * 0xff;
        *levels = (u64::from_le_bytes(*levels) & plain | outliers & !plain).to_le_bytes();
    }
}

/// Digits of base three in a byte.
const DIGITS: usize = 5;

/// Those of every byte, and what makes eight bytes of them, which are written at once.
static THIRDS: [[u8; 8]; 256] = {
    let mut digits = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut rest, mut i) = (byte, 0);
        while i < DIGITS {
            digits[byte][i] = (rest % 3) as u8;
            rest /= 3;
            i += 1;
        }
        byte += 1;
    }
    digits
};

fn thirds(packed: &[u8], codes: &mut [u8]) {
    let mut at = 0;
    for &byte in packed {
        let digits = &THIRDS[usize::from(byte)];
        // The next digits are written over what is too much.
        match codes.get_mut(at..at + digits.len()) {
            Some(to) => to.copy_from_slice(digits),
            None => codes[at..].iter_mut().zip(&digits[..DIGITS]).for_each(|(to, &digit)| *to = digit),
        }
        at += DIGITS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::quantizer::pair_levels;

    #[test]
    fn every_pair_means_what_its_definition_says_on_every_isa() {
        for distance in [1, 4] {
            let mut codes = [0u8; 512];
            for (eight, pair) in codes.chunks_exact_mut(8).zip((0..=255u8).step_by(4)) {
                for i in 0..4 {
                    let first = if distance == 1 { 2 * i } else { i };
                    let pair = pair + i as u8;
                    (eight[first], eight[first + distance]) = (pair & 15, pair >> 4);
                }
            }
            let mut packed = [0; 256];
            Packing::Pairs { distance }.pack(&codes, &mut packed);
            for isa in Isa::available() {
                let mut levels = [0; 512];
                Packing::Pairs { distance }.unpack(isa, &packed, &mut levels);
                for (i, (&level, &code)) in levels.iter().zip(&codes).enumerate() {
                    let first = if distance == 1 { i % 2 == 0 } else { i % 8 < 4 };
                    let want = if first {
                        pair_levels([code, codes[i + distance]])[0]
                    } else {
                        pair_levels([codes[i - distance], code])[1]
                    };
                    assert_eq!(level, want, "{isa} distance {distance}: {code} at {i}");
                }
            }
        }
    }
}
