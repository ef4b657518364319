//! Range asymmetric numeral systems (Duda 2013), interleaved four times, over the distributions of [`super::family`].

use super::super::layout::{Reader, corrupt};
use super::family::{BITS, CLASSES, ESCAPE, TOTAL, index, slots, split, table, tables};
use crate::StoreError;
use cachalot_kernels::attention::PAGE_TOKENS;

/// States that take turns.
const LANES: usize = 4;
/// States are at least this, and below 2^32; what they lose or gain is 16 bits at a time.
const LOW: u32 = 1 << 16;
/// Symbols row by row; a row has one class. What does not fit into a table stands in a list of its own.
#[derive(Default)]
pub struct Encoder {
    /// Table and symbol.
    coded: Vec<(u8, u8)>,
    /// Those that no table has.
    escaped: Vec<u8>,
    /// The lowest bits, from the lowest.
    low: Vec<u8>,
    buffer: u64,
    filled: u32,
}

impl Encoder {
    /// Appends a row. Class 0 is for zeros only.
    pub fn row(&mut self, class: u8, symbols: &[i32]) {
        if class == 0 {
            return;
        }
        symbols.iter().for_each(|&symbol| self.symbol(class, 0, symbol));
    }

    /// Appends a row each of whose symbols has a class, from 1 to [`CLASSES`], and a quantizer, 0 or 1.
    pub fn mixed(&mut self, classes: &[u8; PAGE_TOKENS], seconds: &[u8; PAGE_TOKENS], symbols: &[i32; PAGE_TOKENS]) {
        let all = symbols.iter().zip(classes).zip(seconds);
        all.for_each(|((&symbol, &class), &second)| self.symbol(class, second, symbol));
    }

    fn symbol(&mut self, class: u8, second: u8, symbol: i32) {
        let (class, low) = split(class);
        let reach = table(class).reach;
        let high = symbol >> low;
        let index = index(class, second);
        if high.unsigned_abs() <= reach as u32 {
            self.coded.push((index, (high + reach) as u8));
        } else {
            self.coded.push((index, (2 * reach + 1) as u8));
            self.escaped.extend_from_slice(&high.to_le_bytes());
        }
        self.buffer |= u64::from(symbol as u32 & ((1 << low) - 1)) << self.filled;
        self.filled += low;
        while self.filled >= 8 {
            self.low.push(self.buffer as u8);
            self.buffer >>= 8;
            self.filled -= 8;
        }
    }

    /// Appends all of it: how many escaped symbols and bytes of lowest bits there are, these, and what the states wrote.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        if self.filled > 0 {
            self.low.push(self.buffer as u8);
        }
        for len in [self.escaped.len() / 4, self.low.len()] {
            put_len(len, out);
        }
        out.extend_from_slice(&self.escaped);
        out.extend_from_slice(&self.low);
        // From the last symbol to the first, so that the decoder goes forward.
        let mut states = [LOW; LANES];
        let mut words: Vec<u16> = Vec::with_capacity(self.coded.len() / 3);
        for (at, &(index, symbol)) in self.coded.iter().enumerate().rev() {
            let table = &tables()[usize::from(index)];
            let (start, count) = (table.starts[usize::from(symbol)], table.count(usize::from(symbol)));
            let state = &mut states[at % LANES];
            if u64::from(*state) >= u64::from(count) << (32 - BITS) {
                words.push(*state as u16);
                *state >>= 16;
            }
            *state = (*state / count) << BITS | (*state % count + start);
        }
        states.iter().for_each(|state| out.extend_from_slice(&state.to_le_bytes()));
        words.iter().rev().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }
}

/// Gives the rows that an [`Encoder`] took.
pub struct Decoder<'a> {
    escaped: Reader<'a>,
    low: &'a [u8],
    low_at: usize,
    states: [u32; LANES],
    words: &'a [[u8; 2]],
}

impl<'a> Decoder<'a> {
    /// Over all that is left of `from`.
    pub fn new(from: &mut Reader<'a>) -> Result<Decoder<'a>, StoreError> {
        let (escaped, low) = (take_len(from)?, take_len(from)?);
        let escaped = Reader::new(from.take(escaped.saturating_mul(4))?);
        let low = from.take(low)?;
        let mut states = [0; LANES];
        for state in &mut states {
            *state = (from.short()? | from.short()? << 16) as u32;
        }
        let (words, odd) = from.rest().as_chunks();
        match odd.is_empty() && states.iter().all(|&state| state >= LOW) {
            true => Ok(Decoder { escaped, low, low_at: 0, states, words }),
            false => Err(corrupt("the coder's states or words are cut")),
        }
    }

    /// The next row; all rows have a multiple of four symbols.
    pub fn row(&mut self, class: u8, symbols: &mut [i32]) -> Result<(), StoreError> {
        if class > CLASSES {
            return Err(corrupt(format!("class {class}, of {CLASSES}")));
        }
        if class == 0 {
            symbols.fill(0);
            return Ok(());
        }
        let (class, low) = split(class);
        let table = table(class);
        let slots = &*table.slots;
        let mut states = self.states;
        let mut words = self.words;
        for four in symbols.as_chunks_mut::<LANES>().0 {
            for (symbol, state) in four.iter_mut().zip(&mut states) {
                let slot = slots[(*state & (TOTAL - 1)) as usize];
                *symbol = slot as i32 >> 24;
                *state = ((slot >> 12 & 0xfff) + 1) * (*state >> BITS) + (slot & 0xfff);
                if *state < LOW {
                    let (&word, rest) =
                        words.split_first().ok_or_else(|| corrupt("the coder's words end too early"))?;
                    *state = *state << 16 | u32::from(u16::from_le_bytes(word));
                    words = rest;
                }
            }
        }
        (self.states, self.words) = (states, words);
        for symbol in symbols.iter_mut().filter(|symbol| **symbol == ESCAPE) {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(self.escaped.take(4)?);
            *symbol = i32::from_le_bytes(bytes);
        }
        if low > 0 {
            for symbol in symbols {
                *symbol = symbol.wrapping_shl(low) | self.low_bits(low) as i32;
            }
        }
        Ok(())
    }

    /// The next row that [`Encoder::mixed`] took; classes are believed to be from 1 to [`CLASSES`].
    pub fn mixed(
        &mut self,
        classes: &[u8; PAGE_TOKENS],
        seconds: &[u8; PAGE_TOKENS],
        symbols: &mut [i32; PAGE_TOKENS],
    ) -> Result<(), StoreError> {
        let slots = slots();
        let mut states = self.states;
        let mut words = self.words;
        let mut starts = [0_u32; PAGE_TOKENS];
        for ((start, &class), &second) in starts.iter_mut().zip(classes).zip(seconds) {
            *start = u32::from(index(split(class).0, second)) << BITS;
        }
        for (four, starts) in symbols.as_chunks_mut::<LANES>().0.iter_mut().zip(starts.as_chunks::<LANES>().0) {
            for ((symbol, state), &start) in four.iter_mut().zip(&mut states).zip(starts) {
                let slot = slots[(start | *state & (TOTAL - 1)) as usize];
                *symbol = slot as i32 >> 24;
                *state = ((slot >> 12 & 0xfff) + 1) * (*state >> BITS) + (slot & 0xfff);
                if *state < LOW {
                    let (&word, rest) =
                        words.split_first().ok_or_else(|| corrupt("the coder's words end too early"))?;
                    *state = *state << 16 | u32::from(u16::from_le_bytes(word));
                    words = rest;
                }
            }
        }
        // Where all classes have tables of their own there are no lowest bits.
        let most = classes.iter().fold(0, |most, &class| most.max(class));
        let escaped = symbols.iter().fold(false, |escaped, &symbol| escaped | (symbol == ESCAPE));
        (self.states, self.words) = (states, words);
        if escaped {
            for symbol in symbols.iter_mut().filter(|symbol| **symbol == ESCAPE) {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(self.escaped.take(4)?);
                *symbol = i32::from_le_bytes(bytes);
            }
        }
        if split(most).1 > 0 {
            for (symbol, &class) in symbols.iter_mut().zip(classes) {
                let low = split(class).1;
                *symbol = symbol.wrapping_shl(low) | self.low_bits(low) as i32;
            }
        }
        Ok(())
    }

    fn low_bits(&mut self, n: u32) -> u32 {
        let mut bytes = [0; 8];
        let from = self.low.get(self.low_at / 8..).unwrap_or_default();
        let len = from.len().min(8);
        bytes[..len].copy_from_slice(&from[..len]);
        let bits = u64::from_le_bytes(bytes) >> (self.low_at % 8) & ((1 << n) - 1);
        self.low_at += n as usize;
        bits as u32
    }

    /// That everything was used up as the encoder left it.
    pub fn end(self) -> Result<(), StoreError> {
        self.escaped.end()?;
        match self.words.is_empty() && self.states == [LOW; LANES] && self.low_at.div_ceil(8) == self.low.len() {
            true => Ok(()),
            false => Err(corrupt("the coder ends elsewhere than it should")),
        }
    }
}

/// Appends a length: 15 bits, or the upper bit and 31 of them.
fn put_len(len: usize, out: &mut Vec<u8>) {
    match u16::try_from(len).ok().filter(|len| len >> 15 == 0) {
        Some(len) => out.extend_from_slice(&len.to_le_bytes()),
        None => {
            out.extend_from_slice(&((len >> 16) as u16 | 1 << 15).to_le_bytes());
            out.extend_from_slice(&(len as u16).to_le_bytes());
        }
    }
}

fn take_len(from: &mut Reader<'_>) -> Result<usize, StoreError> {
    match from.short()? {
        len if len >> 15 == 0 => Ok(len),
        high => Ok((high & 0x7fff) << 16 | from.short()?),
    }
}
