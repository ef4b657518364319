//! A run of bytes that have something in common: as it is, one byte for all, or Huffman coded, whichever is smallest.

use super::super::layout::{Reader, corrupt};
use super::huffman::{self, Lengths};
use crate::StoreError;
use std::borrow::Cow;

const RAW: u8 = 0;
const SAME: u8 = 1;
const HUFFMAN: u8 = 2;

/// How often each byte occurs.
pub fn count(bytes: &[u8]) -> [u32; 256] {
    // Four tables, since neighbours are often equal and would wait for each other.
    let mut counts = [[0_u32; 256]; 4];
    let (quads, rest) = bytes.as_chunks::<4>();
    for quad in quads {
        quad.iter().zip(&mut counts).for_each(|(&byte, counts)| counts[usize::from(byte)] += 1);
    }
    rest.iter().for_each(|&byte| counts[0][usize::from(byte)] += 1);
    let [mut total, others @ ..] = counts;
    others.iter().for_each(|counts| total.iter_mut().zip(counts).for_each(|(total, n)| *total += n));
    total
}

/// Appends the plane: at most one byte more than it has.
pub fn put(bytes: &[u8], out: &mut Vec<u8>) {
    let counts = count(bytes);
    let kinds = counts.iter().filter(|&&count| count > 0).count();
    if kinds == 1 {
        return out.extend_from_slice(&[SAME, bytes[0]]);
    }
    // Finding lengths takes far longer than finding that there is nothing to gain.
    if bytes.len() <= huffman::MOST && estimate(&counts) < bytes.len() {
        let lengths = Lengths::of(&counts).filter(|lengths| size(lengths, &counts) < bytes.len());
        if let Some(lengths) = lengths {
            out.push(HUFFMAN);
            return huffman::encode(bytes, &lengths, out);
        }
    }
    out.push(RAW);
    out.extend_from_slice(bytes);
}

/// Bytes that [`put`] takes for bytes of these counts, by their entropy.
pub fn estimate(counts: &[u32; 256]) -> usize {
    let len = counts.iter().sum::<u32>();
    let all = (len.max(1) as f32).log2();
    let used = counts.iter().filter(|&&count| count > 0);
    let (bits, kinds) =
        used.fold((0.0, 0), |(bits, kinds), &count| (bits + count as f32 * (all - (count as f32).log2()), kinds + 1));
    // A length is a nibble or two, and the streams say where they end.
    ((bits / 8.0) as usize + kinds / 2 + 20).min(len as usize)
}

fn size(lengths: &Lengths, counts: &[u32; 256]) -> usize {
    lengths.bits(counts).div_ceil(8) + huffman::overhead(lengths)
}

/// The plane of `len` bytes that [`put`] wrote.
pub fn take<'a>(from: &mut Reader<'a>, len: usize) -> Result<Cow<'a, [u8]>, StoreError> {
    match from.byte()? {
        RAW => Ok(Cow::Borrowed(from.take(len)?)),
        SAME => Ok(Cow::Owned(vec![from.byte()?; len])),
        HUFFMAN => {
            let mut bytes = vec![0; len];
            huffman::decode(from, &mut bytes)?;
            Ok(Cow::Owned(bytes))
        }
        other => Err(corrupt(format!("a plane of the unknown kind {other}"))),
    }
}
