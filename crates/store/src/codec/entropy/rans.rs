//! Range asymmetric numeral systems (Duda 2013), interleaved four times, over a family of fixed distributions.
//!
//! A symbol is a small whole number around zero. Class `c` of the family expects a spread of `2^((c - 4) / 2)`: eight parts of a
//! normal distribution to one of twice its width, as keys and values have heavier tails than normal ones. Classes above
//! [`DIRECT`] write the lowest bits as they are. All tables are made with whole numbers, so every machine has the same.

use super::super::layout::{Reader, corrupt};
use crate::StoreError;
use std::sync::OnceLock;

/// Classes with a table of their own, from 1; class 0 is for symbols that are all zero.
const DIRECT: u8 = 10;
/// The largest class.
pub const CLASSES: u8 = 44;
/// Bits of probabilities.
const BITS: u32 = 12;
const TOTAL: u32 = 1 << BITS;
/// States that take turns.
const LANES: usize = 4;
/// States are at least this, and below 2^32; what they lose or gain is 16 bits at a time.
const LOW: u32 = 1 << 16;
/// `exp(-1 / (2 s^2))` in 32 bits behind the point, `s` the spread of classes from 1 to [`DIRECT`] + 2.
const DECAY: [u64; 12] = [
    78_665_070,
    581_260_615,
    1_580_030_169,
    2_605_029_347,
    3_344_923_893,
    3_790_295_335,
    4_034_748_382,
    4_162_825_044,
    4_228_380_000,
    4_261_543_595,
    4_278_222_805,
    4_286_586_875,
];

/// One distribution.
struct Table {
    /// Symbols reach from `-reach` to `reach`; one more is for all others.
    reach: i32,
    /// Where each begins; one entry more at the end.
    starts: Vec<u32>,
    /// Bits that each takes.
    bits: Vec<f32>,
    /// For every value below [`TOTAL`]: symbol above bit 24, frequency minus one above bit 12, distance from its start.
    slots: Box<[u32; TOTAL as usize]>,
}

impl Table {
    fn new(class: usize) -> Table {
        let reach = [4, 5, 6, 8, 11, 16, 22, 32, 44, 64][class - 1];
        let side = |decay: u64| -> Vec<u64> {
            let (mut weight, mut ratio) = (1_u64 << 32, decay);
            let square = decay * decay >> 32;
            (0..=reach)
                .map(|_| {
                    let now = weight;
                    weight = weight * ratio >> 32;
                    ratio = ratio * square >> 32;
                    now
                })
                .collect()
        };
        let (narrow, wide) = (side(DECAY[class - 1]), side(DECAY[class + 1]));
        let weights: Vec<u64> = narrow.iter().zip(&wide).map(|(narrow, wide)| 8 * narrow + wide).collect();
        let symbols = 2 * reach as u64 + 2;
        let sum = 2 * weights.iter().sum::<u64>() - weights[0];
        let spare = u64::from(TOTAL) - symbols;
        let mut counts: Vec<u32> = (-reach..=reach)
            .map(|r: i32| {
                1 + (u128::from(weights[r.unsigned_abs() as usize]) * u128::from(spare) / u128::from(sum)) as u32
            })
            .collect();
        counts.push(1);
        counts[reach as usize] += TOTAL - counts.iter().sum::<u32>();
        let mut starts = vec![0];
        let mut slots = Box::new([0; TOTAL as usize]);
        for (symbol, &count) in counts.iter().enumerate() {
            let start = starts[symbol];
            for at in 0..count {
                slots[(start + at) as usize] = (symbol as u32) << 24 | (count - 1) << 12 | at;
            }
            starts.push(start + count);
        }
        let bits = counts.iter().map(|&count| BITS as f32 - (count as f32).log2()).collect();
        Table { reach, starts, bits, slots }
    }

    fn count(&self, symbol: usize) -> u32 {
        self.starts[symbol + 1] - self.starts[symbol]
    }
}

fn table(class: u8) -> &'static Table {
    static TABLES: OnceLock<Vec<Table>> = OnceLock::new();
    let tables = TABLES.get_or_init(|| (1..=usize::from(DIRECT)).map(Table::new).collect());
    &tables[usize::from(class) - 1]
}

/// The class whose table a class uses, and the bits it writes as they are.
fn split(class: u8) -> (u8, u32) {
    let low = class.saturating_sub(DIRECT).div_ceil(2);
    (class - 2 * low, u32::from(low))
}

/// The class that expects this spread.
pub fn class_of(spread: f32) -> u8 {
    (2.0 * spread.max(1e-9).log2() + 4.0).round().clamp(1.0, f32::from(CLASSES)) as u8
}

/// Bits that these symbols take in a class.
pub fn cost(class: u8, symbols: &[i32]) -> f32 {
    if class == 0 {
        return if symbols.iter().all(|&symbol| symbol == 0) { 0.0 } else { f32::INFINITY };
    }
    let (class, low) = split(class);
    let table = table(class);
    let one = |&symbol: &i32| {
        let high = symbol >> low;
        match high.unsigned_abs() <= table.reach as u32 {
            true => table.bits[(high + table.reach) as usize],
            false => BITS as f32 + 32.0,
        }
    };
    symbols.iter().map(one).sum::<f32>() + low as f32 * symbols.len() as f32
}

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
        let (class, low) = split(class);
        let reach = table(class).reach;
        for &symbol in symbols {
            let high = symbol >> low;
            if high.unsigned_abs() <= reach as u32 {
                self.coded.push((class, (high + reach) as u8));
            } else {
                self.coded.push((class, (2 * reach + 1) as u8));
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
        for (at, &(class, symbol)) in self.coded.iter().enumerate().rev() {
            let table = table(class);
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
        let escaped = Reader::new(from.take(4 * escaped)?);
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
                *symbol = (slot >> 24) as i32 - table.reach;
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
        for symbol in symbols.iter_mut().filter(|symbol| **symbol > table.reach) {
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
