//! Huffman codes of bytes, in eight streams that are decoded side by side.
//!
//! Codes have at most [`LIMIT`] bits (lengths by package-merge, Larmore and Hirschberg 1990, which is optimal), so that one
//! table lookup gives a symbol and one unaligned load gives [`STEP`] of them. The bits of a stream run from the top of its
//! bytes; every stream has the same number of symbols, but the last, which also has what is left over.

use super::super::layout::{Reader, corrupt};
use crate::StoreError;

/// Bits of the longest code.
pub const LIMIT: usize = 11;
/// Streams.
const STREAMS: usize = 8;
/// Symbols that one load is good for: 57 bits at least.
const STEP: usize = 4;

/// Code lengths in bits, zero for symbols without a code; always a full tree of two leaves or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths([u8; 256]);

impl Lengths {
    /// The best for these counts; none where fewer than two symbols occur.
    pub fn of(counts: &[u32; 256]) -> Option<Lengths> {
        let mut leaves: Vec<(u64, u8)> = (0..=255_u8)
            .filter(|&symbol| counts[usize::from(symbol)] > 0)
            .map(|symbol| (u64::from(counts[usize::from(symbol)]), symbol))
            .collect();
        if leaves.len() < 2 {
            return None;
        }
        leaves.sort_unstable();
        // Every level merges the leaves with pairs of the level below it; `true` marks leaves.
        let mut levels: Vec<Vec<(u64, bool)>> = vec![leaves.iter().map(|&(count, _)| (count, true)).collect()];
        for level in 1..LIMIT {
            let mut pairs = levels[level - 1].chunks_exact(2).map(|pair| pair[0].0 + pair[1].0).peekable();
            let mut merged = Vec::with_capacity(2 * leaves.len());
            for &(count, _) in &leaves {
                while let Some(pair) = pairs.next_if(|&pair| pair < count) {
                    merged.push((pair, false));
                }
                merged.push((count, true));
            }
            merged.extend(pairs.map(|pair| (pair, false)));
            levels.push(merged);
        }
        let mut lengths = [0; 256];
        let mut take = 2 * leaves.len() - 2;
        for level in levels.iter().rev() {
            let taken = level[..take].iter().filter(|(_, leaf)| *leaf).count();
            leaves[..taken].iter().for_each(|&(_, symbol)| lengths[usize::from(symbol)] += 1);
            take = 2 * (take - taken);
        }
        Some(Lengths(lengths))
    }

    /// Bits that symbols of these counts take.
    pub fn bits(&self, counts: &[u32; 256]) -> usize {
        self.0.iter().zip(counts).map(|(&len, &count)| usize::from(len) * count as usize).sum()
    }

    /// Nibbles: 1 to 11 are a length, 12 to 14 repeat the last one two to four times, 0 and a nibble `n` are `n + 1` zeros,
    /// 15 and two nibbles `n` are `n + 17` of them.
    fn nibbles(&self) -> Vec<u8> {
        let mut nibbles = Vec::new();
        let mut at = 0;
        while at < 256 {
            let len = self.0[at];
            let run = self.0[at..].iter().take_while(|&&other| other == len).count();
            let (spell, spelled): (&[u8], usize) = match (len, run) {
                (0, 17..) => (&[15, ((run - 17) >> 4) as u8, ((run - 17) & 15) as u8], run),
                (0, _) => (&[0, (run - 1) as u8], run),
                _ if at > 0 && self.0[at - 1] == len && run > 1 => (&[10 + run.min(4) as u8], run.min(4)),
                _ => (&[len], 1),
            };
            nibbles.extend_from_slice(spell);
            at += spelled;
        }
        nibbles
    }

    fn put(&self, out: &mut Vec<u8>) {
        let nibbles = self.nibbles();
        out.extend(nibbles.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |&high| high << 4)));
    }

    fn take(from: &mut Reader<'_>) -> Result<Lengths, StoreError> {
        let mut lengths = [0; 256];
        let mut spare = None;
        let mut nibble = || -> Result<usize, StoreError> {
            if let Some(high) = spare.take() {
                return Ok(high);
            }
            let byte = usize::from(from.byte()?);
            spare = Some(byte >> 4);
            Ok(byte & 15)
        };
        let mut at = 0;
        while at < 256 {
            let last: u8 = if at > 0 { lengths[at - 1] } else { 0 };
            let (len, run) = match nibble()? {
                0 => (0, nibble()? + 1),
                15 => (0, (nibble()? << 4) + nibble()? + 17),
                repeat @ 12..=14 => (last, repeat - 10),
                len => (len as u8, 1),
            };
            let to = lengths.get_mut(at..at + run).ok_or_else(|| corrupt("code lengths of more than 256 symbols"))?;
            to.fill(len);
            at += run;
        }
        let full =
            lengths.iter().filter(|&&len| len > 0).map(|&len| 1_usize << (LIMIT - usize::from(len))).sum::<usize>();
        match full == 1 << LIMIT && lengths.iter().filter(|&&len| len > 0).count() > 1 {
            true => Ok(Lengths(lengths)),
            false => Err(corrupt("code lengths that make no full tree")),
        }
    }

    /// Symbols in the order of their codes: by length, then by value.
    fn ordered(&self) -> impl Iterator<Item = (u8, u8)> {
        (1..=LIMIT as u8).flat_map(move |len| {
            (0..=255_u8).filter(move |&symbol| self.0[usize::from(symbol)] == len).map(move |symbol| (symbol, len))
        })
    }

    /// For the next [`LIMIT`] bits, the symbol they begin with, and its length above it.
    fn table(&self) -> [u16; 1 << LIMIT] {
        // By length in one pass, since pages are small and this is paid for each.
        let mut starts = [0_usize; LIMIT + 2];
        for &len in self.0.iter().filter(|&&len| len > 0) {
            starts[usize::from(len) + 1] += 1 << (LIMIT - usize::from(len));
        }
        for len in 1..starts.len() {
            starts[len] += starts[len - 1];
        }
        let mut table = [0; 1 << LIMIT];
        for (symbol, &len) in self.0.iter().enumerate().filter(|&(_, &len)| len > 0) {
            let start = &mut starts[usize::from(len)];
            let count = 1 << (LIMIT - usize::from(len));
            table[*start..*start + count].fill(symbol as u16 | u16::from(len) << 8);
            *start += count;
        }
        table
    }

    /// Code and length of every symbol.
    fn codes(&self) -> [(u32, u32); 256] {
        let mut codes = [(0, 0); 256];
        let mut next = 0;
        for (symbol, len) in self.ordered() {
            codes[usize::from(symbol)] = (next >> (LIMIT - usize::from(len)), u32::from(len));
            next += 1 << (LIMIT - usize::from(len));
        }
        codes
    }
}

/// Symbols of all streams but the last.
fn part(symbols: usize) -> usize {
    symbols / STREAMS / STEP * STEP
}

/// Most bytes that [`encode`] appends beside the codes themselves.
pub fn overhead(lengths: &Lengths) -> usize {
    lengths.nibbles().len().div_ceil(2) + 3 * STREAMS
}

/// Appends lengths of codes, bytes of the streams but the last in two bytes each and of the last in four, and the streams.
pub fn encode(symbols: &[u8], lengths: &Lengths, out: &mut Vec<u8>) {
    lengths.put(out);
    let sizes = out.len();
    out.resize(sizes + 2 * (STREAMS - 1) + 4, 0);
    let codes = lengths.codes();
    let part = part(symbols.len());
    for stream in 0..STREAMS {
        let end = if stream + 1 == STREAMS { symbols.len() } else { (stream + 1) * part };
        let from = out.len();
        let (mut buffer, mut filled) = (0_u64, 0);
        for &symbol in &symbols[stream * part..end] {
            let (code, len) = codes[usize::from(symbol)];
            buffer = buffer << len | u64::from(code);
            filled += len;
            if filled >= 32 {
                filled -= 32;
                out.extend_from_slice(&((buffer >> filled) as u32).to_be_bytes());
            }
        }
        while filled >= 8 {
            filled -= 8;
            out.push((buffer >> filled) as u8);
        }
        if filled > 0 {
            out.push((buffer << (8 - filled)) as u8);
        }
        let size = (out.len() - from) as u32;
        let bytes = if stream + 1 == STREAMS { 4 } else { 2 };
        out[sizes + 2 * stream..][..bytes].copy_from_slice(&size.to_le_bytes()[..bytes]);
    }
}

/// Most symbols that [`encode`] takes: streams have sizes of two bytes.
pub const MOST: usize = 8 * u16::MAX as usize / LIMIT * STREAMS;

/// The symbols that [`encode`] wrote.
pub fn decode(from: &mut Reader<'_>, symbols: &mut [u8]) -> Result<(), StoreError> {
    let lengths = Lengths::take(from)?;
    let mut starts = [0_usize; STREAMS + 1];
    for stream in 0..STREAMS {
        let size = match stream + 1 == STREAMS {
            true => from.short()? | from.short()? << 16,
            false => from.short()?,
        };
        starts[stream + 1] = starts[stream] + size;
    }
    let bytes = from.take(starts[STREAMS])?;
    let table = lengths.table();
    let part = part(symbols.len());
    let mut at = [0_usize; STREAMS];
    at.iter_mut().zip(&starts).for_each(|(at, start)| *at = 8 * start);
    let (even, left) = symbols.split_at_mut(part * STREAMS);
    let even = even.as_chunks_mut::<STEP>().0;
    for step in 0..part / STEP {
        for (stream, at) in at.iter_mut().enumerate() {
            even[stream * (part / STEP) + step] = symbols_at(bytes, &table, at);
        }
    }
    for left in left.chunks_mut(STEP) {
        let (mut last, n) = (at[STREAMS - 1], left.len());
        let buffer = symbols_at(bytes, &table, &mut last);
        left.copy_from_slice(&buffer[..n]);
        // Only as far as the symbols that were wanted.
        at[STREAMS - 1] += buffer[..n].iter().map(|&symbol| usize::from(lengths.0[usize::from(symbol)])).sum::<usize>();
    }
    match at.iter().zip(&starts[1..]).all(|(at, end)| at.div_ceil(8) == *end) {
        true => Ok(()),
        false => Err(corrupt("a stream of codes ends elsewhere than it should")),
    }
}

/// The next [`STEP`] symbols at a bit of `bytes`.
#[inline(always)]
fn symbols_at(bytes: &[u8], table: &[u16; 1 << LIMIT], at: &mut usize) -> [u8; STEP] {
    let mut word = load(bytes, *at >> 3) << (*at & 7);
    let mut symbols = [0; STEP];
    for symbol in &mut symbols {
        let entry = table[(word >> (64 - LIMIT)) as usize];
        *symbol = entry as u8;
        word <<= entry >> 8;
        *at += usize::from(entry >> 8);
    }
    symbols
}

/// Eight bytes from the top; zeros behind the end.
#[inline(always)]
fn load(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(&word) => u64::from_be_bytes(word),
        None => load_end(bytes, at),
    }
}

#[cold]
fn load_end(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    let rest = bytes.get(at..).unwrap_or_default();
    word[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(word)
}
