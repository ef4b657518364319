//! Pages to and from the bytes that ggml keeps for a row.

use super::{BLOCK, Kind};
use crate::encode::codec::Part;
use crate::encode::part::matrix::Matrix;
use crate::encode::quantizer::Group;

impl Kind {
    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        let high = if matches!(self, Kind::Q5_0 | Kind::Q5_1) { BLOCK / 8 } else { 0 };
        let low = if matches!(self, Kind::Q8_0) { BLOCK } else { BLOCK / 2 };
        self.parameters() + high + low
    }

    const fn parameters(self) -> usize {
        if self.has_minimum() { 4 } else { 2 }
    }

    /// The rows of a page as ggml has them: blocks of one token after the other.
    pub fn to_blocks(self, matrix: &Matrix, page: &[u8]) -> Vec<u8> {
        let codes = matrix.read_codes(page);
        let blocks = matrix.shape().channels / BLOCK;
        let mut bytes = Vec::with_capacity(codes.len() / BLOCK * self.block_bytes());
        for (i, codes) in codes.chunks_exact(BLOCK).enumerate() {
            let group = Group { line: i / blocks, block: i % blocks };
            bytes.extend_from_slice(&page[matrix.scale_at(group)]);
            bytes.extend_from_slice(&page[matrix.offset_at(group)]);
            match self {
                Kind::Q8_0 => bytes.extend(codes.iter().map(|code| code ^ 128)),
                _ => {
                    if matches!(self, Kind::Q5_0 | Kind::Q5_1) {
                        let fifth = |bits, (j, &code): (usize, &u8)| bits | u32::from(code >> 4) << j;
                        bytes.extend_from_slice(&codes.iter().enumerate().fold(0u32, fifth).to_le_bytes());
                    }
                    let (low, high) = codes.split_at(BLOCK / 2);
                    bytes.extend(low.iter().zip(high).map(|(low, high)| low & 15 | high << 4));
                }
            }
        }
        bytes
    }

    /// The page whose rows ggml has as `bytes`; the inverse of [`Kind::to_blocks`]. `None` if the lengths disagree.
    pub fn from_blocks(self, matrix: &Matrix, bytes: &[u8]) -> Option<Vec<u8>> {
        let shape = matrix.shape();
        let blocks = shape.channels / BLOCK;
        if bytes.len() != shape.tokens * blocks * self.block_bytes() {
            return None;
        }
        let mut page = vec![0; matrix.bytes()];
        let mut codes = vec![0; shape.elements()];
        for (i, (block, codes)) in bytes.chunks_exact(self.block_bytes()).zip(codes.chunks_exact_mut(BLOCK)).enumerate()
        {
            let group = Group { line: i / blocks, block: i % blocks };
            let (parameters, quants) = block.split_at(self.parameters());
            page[matrix.scale_at(group)].copy_from_slice(&parameters[..2]);
            page[matrix.offset_at(group)].copy_from_slice(&parameters[2..]);
            if self == Kind::Q8_0 {
                codes.iter_mut().zip(quants).for_each(|(code, quant)| *code = quant ^ 128);
                continue;
            }
            let (fifths, nibbles) = quants.split_at(quants.len() - BLOCK / 2);
            let fifth = |j: usize| fifths.get(j / 8).map_or(0, |byte| (byte >> (j % 8) & 1) << 4);
            for (j, code) in codes.iter_mut().enumerate() {
                *code = (nibbles[j % 16] >> (j / 16 * 4)) & 15 | fifth(j);
            }
        }
        matrix.write_codes(&codes, &mut page);
        Some(page)
    }
}
