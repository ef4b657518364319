//! The quantized blocks of ggml, taken apart into codes, scales and minima: `w = d * (code - zero) + m`.

use cachalot_kernels::linear::QuantSpec;
use half::f16;

use crate::gguf::GgmlType;

/// How the kernels hold weights of this type, if it is a quantized one.
pub(super) fn quant_spec(kind: GgmlType) -> Option<QuantSpec> {
    let (bits, group, zero, min) = match kind {
        GgmlType::F32 | GgmlType::F16 | GgmlType::Bf16 => return None,
        GgmlType::Q4_0 => (4, 32, 8, false),
        GgmlType::Q4_1 => (4, 32, 0, true),
        GgmlType::Q5_0 => (8, 32, 16, false),
        GgmlType::Q5_1 => (8, 32, 0, true),
        GgmlType::Q8_0 => (8, 32, 128, false),
        GgmlType::Q4K => (4, 32, 0, true),
        GgmlType::Q5K => (8, 32, 0, true),
        GgmlType::Q6K => (8, 16, 32, false),
    };
    Some(QuantSpec { bits, group, zero, min })
}

/// Takes one row apart. `bytes` are its blocks, `codes` one byte per element, `d` (and `m`, where the type has minima)
/// one number per group.
pub(super) fn unpack_row(kind: GgmlType, bytes: &[u8], codes: &mut [u8], d: &mut [f32], m: &mut [f32]) {
    let elements = kind.block_elements();
    let groups = elements / quant_spec(kind).map_or(elements, |s| s.group);
    let blocks = bytes.chunks_exact(kind.block_bytes());
    let codes = codes.chunks_exact_mut(elements);
    for (i, (block, codes)) in blocks.zip(codes).enumerate() {
        let d = d.get_mut(i * groups..(i + 1) * groups).unwrap_or_default();
        let m = m.get_mut(i * groups..(i + 1) * groups).unwrap_or_default();
        match kind {
            GgmlType::F32 | GgmlType::F16 | GgmlType::Bf16 => {}
            GgmlType::Q4_0 => {
                d.fill(half(block, 0));
                nibbles(&block[2..], codes);
            }
            GgmlType::Q4_1 => {
                d.fill(half(block, 0));
                m.fill(half(block, 2));
                nibbles(&block[4..], codes);
            }
            GgmlType::Q5_0 => {
                d.fill(half(block, 0));
                nibbles(&block[6..], codes);
                fifth_bits(&block[2..6], codes);
            }
            GgmlType::Q5_1 => {
                d.fill(half(block, 0));
                m.fill(half(block, 2));
                nibbles(&block[8..], codes);
                fifth_bits(&block[4..8], codes);
            }
            GgmlType::Q8_0 => {
                d.fill(half(block, 0));
                // Two's complement plus 128 is the same bits with the highest one flipped.
                codes.iter_mut().zip(&block[2..]).for_each(|(c, q)| *c = q ^ 0x80);
            }
            GgmlType::Q4K => {
                scales_and_minima(block, d, m);
                nibble_pairs(&block[16..], codes);
            }
            GgmlType::Q5K => {
                scales_and_minima(block, d, m);
                nibble_pairs(&block[48..], codes);
                for (i, c) in codes.iter_mut().enumerate() {
                    // Bit `g` of byte `i % 32` belongs to group `g`.
                    *c |= ((block[16 + i % 32] >> (i / 32)) & 1) << 4;
                }
            }
            GgmlType::Q6K => q6k(block, codes, d),
        }
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Low nibbles are the first half of the block, high ones the second.
fn nibbles(packed: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(16);
    for ((p, l), h) in packed.iter().zip(low).zip(high) {
        (*l, *h) = (p & 15, p >> 4);
    }
}

/// Bit `i` of a little-endian word is the fifth bit of code `i`.
fn fifth_bits(word: &[u8], codes: &mut [u8]) {
    for (i, c) in codes.iter_mut().enumerate() {
        *c |= ((word[i / 8] >> (i % 8)) & 1) << 4;
    }
}

/// As [`nibbles`], for each 32 bytes of a super-block.
fn nibble_pairs(packed: &[u8], codes: &mut [u8]) {
    for (packed, codes) in packed.chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
        let (low, high) = codes.split_at_mut(32);
        for ((p, l), h) in packed.iter().zip(low).zip(high) {
            (*l, *h) = (p & 15, p >> 4);
        }
    }
}

/// Eight 6-bit scales and eight 6-bit minima in twelve bytes, times the two scales of the super-block.
fn scales_and_minima(block: &[u8], d: &mut [f32], m: &mut [f32]) {
    let (scale, minimum, q) = (half(block, 0), half(block, 2), &block[4..16]);
    for (j, (d, m)) in d.iter_mut().zip(m).enumerate() {
        let (s, n) = if j < 4 {
            (q[j] & 63, q[j + 4] & 63)
        } else {
            (q[j + 4] & 15 | (q[j - 4] >> 6) << 4, q[j + 4] >> 4 | (q[j] >> 6) << 4)
        };
        *d = scale * f32::from(s);
        *m = -(minimum * f32::from(n));
    }
}

fn q6k(block: &[u8], codes: &mut [u8], d: &mut [f32]) {
    let (low, high, scales, scale) = (&block[..128], &block[128..192], &block[192..208], half(block, 208));
    for (i, c) in codes.iter_mut().enumerate() {
        // Each half of the block: 64 bytes of nibbles hold 128 low parts, 32 bytes of pairs of bits the high ones.
        let (half, i) = (i / 128, i % 128);
        let nibble = low[half * 64 + i % 64] >> (4 * (i / 64)) & 15;
        let bits = high[half * 32 + i % 32] >> (2 * (i / 32)) & 3;
        *c = nibble | bits << 4;
    }
    for (d, s) in d.iter_mut().zip(scales) {
        *d = scale * f32::from(*s as i8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use candle_core::quantized::{QStorage, QTensor};
    use proptest::prelude::*;
    use std::borrow::Cow;

    /// Candle's reading of a row of blocks.
    fn oracle(kind: GgmlType, bytes: &[u8], elements: usize) -> Vec<f32> {
        let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, kind.candle()).unwrap();
        let tensor = QTensor::new(storage, (1, elements)).unwrap().dequantize(&Device::Cpu).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    proptest! {
        #[test]
        fn agrees_with_candle_on_random_blocks(kind in 3usize..11, blocks in 1usize..4, seed: u64) {
            let kind = GgmlType::ALL[kind];
            let mut state = seed | 1;
            let mut bytes: Vec<u8> = (0..blocks * kind.block_bytes())
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (state >> 56) as u8
                })
                .collect();
            // Scales are half floats: clear an exponent bit, so that none is infinite.
            for block in bytes.chunks_exact_mut(kind.block_bytes()) {
                let at: &[usize] = match kind {
                    GgmlType::Q6K => &[209],
                    GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K => &[1, 3],
                    _ => &[1],
                };
                at.iter().for_each(|i| block[*i] &= 0xbf);
            }
            let n = blocks * kind.block_elements();
            let spec = quant_spec(kind).unwrap();
            let (mut codes, mut d) = (vec![0; n], vec![0.0; n / spec.group]);
            let mut m = vec![0.0; if spec.min { n / spec.group } else { 0 }];
            unpack_row(kind, &bytes, &mut codes, &mut d, &mut m);
            let expected = oracle(kind, &bytes, n);
            for i in 0..n {
                let g = i / spec.group;
                let scaled = d[g] * (i32::from(codes[i]) - spec.zero) as f32;
                let ours = scaled + m.get(g).copied().unwrap_or(0.0);
                let bound = 1e-6 * (scaled.abs() + m.get(g).map_or(0.0, |m| m.abs()));
                prop_assert!((ours - expected[i]).abs() <= bound, "{kind:?} {i}: {ours} {}", expected[i]);
                prop_assert!(spec.bits == 8 || codes[i] < 16);
            }
        }
    }
}
