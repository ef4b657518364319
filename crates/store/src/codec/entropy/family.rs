//! Fixed distributions of small whole numbers around zero.
//!
//! Class `c` expects a spread of `2^((c - 4) / 2)`: eight parts of a normal distribution to one of twice its width, as keys and
//! values have heavier tails than normal ones. Classes above [`DIRECT`] write the lowest bits as they are. All tables are made
//! with whole numbers, so every machine has the same.

use std::sync::OnceLock;

/// Classes with a table of their own, from 1; class 0 is for symbols that are all zero.
const DIRECT: u8 = 10;
/// The largest class.
pub const CLASSES: u8 = 44;
/// Bits of probabilities.
pub const BITS: u32 = 12;
/// Their sum.
pub const TOTAL: u32 = 1 << BITS;
/// `exp(-1 / (2 s^2))` in 32 bits behind the point, `s` the spread of classes from 1 to [`DIRECT`] + 4.
const DECAY: [u64; 14] = [
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
    4290775039,
    4292870656,
];

/// What a slot says of symbols that have no place of their own.
pub const ESCAPE: i32 = 127;

/// One distribution.
pub struct Table {
    /// Symbols reach from `-reach` to `reach`; one more is for all others.
    pub reach: i32,
    /// Where each begins; one entry more at the end.
    pub starts: Vec<u32>,
    /// Bits that each takes.
    bits: Vec<f32>,
    /// For every value below [`TOTAL`]: symbol above bit 24, signed, or [`ESCAPE`]; frequency minus one above bit 12; distance
    /// from its start.
    pub slots: Box<[u32; TOTAL as usize]>,
}

impl Table {
    /// `second` is for whole numbers that mean `2k - sign(k)` halves, and not `2k`; see `cachegen/trellis.rs`.
    fn new(class: usize, second: bool) -> Table {
        let reach = [4, 5, 6, 8, 11, 16, 22, 32, 44, 64][class - 1];
        let side = |decay: u64| -> Vec<u64> {
            let (mut weight, mut ratio) = (1_u64 << 32, decay);
            let square = (decay * decay) >> 32;
            (0..=2 * reach)
                .map(|_| {
                    let now = weight;
                    weight = (weight * ratio) >> 32;
                    ratio = (ratio * square) >> 32;
                    now
                })
                .collect()
        };
        let weights: Vec<u64> = if second {
            // In halves: a spread of two classes more. Zero has a half of the room of most, and one has three quarters.
            let (narrow, wide) = (side(DECAY[class + 1]), side(DECAY[class + 3]));
            let room = |k: usize| [2, 3].get(k).copied().unwrap_or(4);
            let at = |k: usize| (2 * k).saturating_sub(1);
            (0..=reach as usize).map(|k| (8 * narrow[at(k)] + wide[at(k)]) / 4 * room(k)).collect()
        } else {
            let (narrow, wide) = (side(DECAY[class - 1]), side(DECAY[class + 1]));
            narrow.iter().zip(&wide).take(reach as usize + 1).map(|(narrow, wide)| 8 * narrow + wide).collect()
        };
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
            let says = if symbol as i32 > 2 * reach { ESCAPE } else { symbol as i32 - reach };
            for at in 0..count {
                slots[(start + at) as usize] = (says as u32) << 24 | (count - 1) << 12 | at;
            }
            starts.push(start + count);
        }
        let bits = counts.iter().map(|&count| BITS as f32 - (count as f32).log2()).collect();
        Table { reach, starts, bits, slots }
    }

    /// Frequency of a symbol.
    pub fn count(&self, symbol: usize) -> u32 {
        self.starts[symbol + 1] - self.starts[symbol]
    }
}

/// Tables of both kinds.
const TABLES: usize = 2 * DIRECT as usize;

/// All tables: those of classes from 1 to [`DIRECT`], and then those for second quantizers.
pub fn tables() -> &'static [Table; TABLES] {
    static ALL: OnceLock<Box<[Table; TABLES]>> = OnceLock::new();
    let make = |at: usize| Table::new(at % usize::from(DIRECT) + 1, at >= usize::from(DIRECT));
    ALL.get_or_init(|| Box::new(std::array::from_fn(make)))
}

/// The slots of all tables, one behind the other.
pub fn slots() -> &'static [u32] {
    static ALL: OnceLock<Vec<u32>> = OnceLock::new();
    ALL.get_or_init(|| tables().iter().flat_map(|table| *table.slots).collect())
}

/// The index of the table of a class from 1 to [`DIRECT`]; `second` is 0 or 1.
pub fn index(class: u8, second: u8) -> u8 {
    class - 1 + DIRECT * second
}

/// Of a class from 1 to [`DIRECT`].
pub fn table(class: u8) -> &'static Table {
    &tables()[usize::from(class) - 1]
}

/// The class whose table a class uses, and the bits it writes as they are.
pub fn split(class: u8) -> (u8, u32) {
    let low = class.saturating_sub(DIRECT).div_ceil(2);
    (class - 2 * low, u32::from(low))
}

/// The class that expects this spread. Comparisons alone, so that all machines find the same.
pub fn class_of(spread: f32) -> u8 {
    let bits = spread.clamp(1e-9, 1e9).to_bits();
    let (exponent, part) = ((bits >> 23) as i32 - 127, f32::from_bits(bits & 0x7f_ffff | 0x3f80_0000));
    // A quarter and three quarters of an octave.
    let halves = i32::from(part >= 1.189_207_1) + i32::from(part >= 1.681_792_9);
    (2 * exponent + halves + 4).clamp(1, CLASSES.into()) as u8
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
