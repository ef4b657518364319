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
pub struct Table {
    /// Symbols reach from `-reach` to `reach`; one more is for all others.
    pub reach: i32,
    /// Where each begins; one entry more at the end.
    pub starts: Vec<u32>,
    /// Bits that each takes.
    bits: Vec<f32>,
    /// For every value below [`TOTAL`]: symbol above bit 24, frequency minus one above bit 12, distance from its start.
    pub slots: Box<[u32; TOTAL as usize]>,
}

impl Table {
    fn new(class: usize) -> Table {
        let reach = [4, 5, 6, 8, 11, 16, 22, 32, 44, 64][class - 1];
        let side = |decay: u64| -> Vec<u64> {
            let (mut weight, mut ratio) = (1_u64 << 32, decay);
            let square = (decay * decay) >> 32;
            (0..=reach)
                .map(|_| {
                    let now = weight;
                    weight = (weight * ratio) >> 32;
                    ratio = (ratio * square) >> 32;
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

    /// Frequency of a symbol.
    pub fn count(&self, symbol: usize) -> u32 {
        self.starts[symbol + 1] - self.starts[symbol]
    }
}

/// Of a class from 1 to [`DIRECT`].
pub fn table(class: u8) -> &'static Table {
    static TABLES: OnceLock<Vec<Table>> = OnceLock::new();
    let tables = TABLES.get_or_init(|| (1..=usize::from(DIRECT)).map(Table::new).collect());
    &tables[usize::from(class) - 1]
}

/// The class whose table a class uses, and the bits it writes as they are.
pub fn split(class: u8) -> (u8, u32) {
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
