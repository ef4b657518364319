//! How large numbers of a token will be: as its component usually has them, and as those before it in the token were.

use super::super::entropy::family::CLASSES;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::sync::OnceLock;

/// Components that are remembered, as a power of two.
const MEMORY: u32 = 4;
/// What a number adds of its usual size is `UNIT` times that; never more than [`TOP`].
const UNIT: u32 = 16;
const TOP: u32 = 255;
/// What is remembered of numbers as large as usual: nearly four fifths of the spread, as a normal distribution has it.
const USUAL: u32 = (UNIT * 4 / 5) << MEMORY;
/// Classes that a token may differ by.
const MOST: i32 = 4;

/// Sizes of the numbers of each token so far.
pub struct Context([u32; PAGE_TOKENS]);

impl Default for Context {
    fn default() -> Context {
        Context([USUAL; PAGE_TOKENS])
    }
}

impl Context {
    /// The class of each token in a row that has one as a whole.
    pub fn classes(&self, row: u8) -> [u8; PAGE_TOKENS] {
        let more = more();
        self.0.map(|size| (i32::from(row) + i32::from(more[size as usize % more.len()])).clamp(1, CLASSES.into()) as u8)
    }

    /// Remembers a row.
    pub fn see(&mut self, row: u8, symbols: &[i32; PAGE_TOKENS]) {
        // Spreads of half octaves, in units behind the point.
        const HALVES: [u32; 2] = [1 << 16, 46_341];
        let (octaves, half) = ((i32::from(row) - 4).div_euclid(2), (i32::from(row) - 4).rem_euclid(2) as usize);
        // Where nearly all are zero, there is nothing to see.
        if octaves < -1 {
            return;
        }
        let scale = if octaves < 0 { HALVES[half] << 1 } else { HALVES[half] >> octaves.min(16) };
        for (size, &symbol) in self.0.iter_mut().zip(symbols) {
            let now = ((u64::from(symbol.unsigned_abs()) * u64::from(scale * UNIT)) >> 16).min(TOP.into()) as u32;
            *size = *size - (*size >> MEMORY) + now;
        }
    }
}

/// Classes more, by what is remembered: two for an octave, and a bit less since it is little that is known.
fn more() -> &'static [i8; 4096] {
    static MORE: OnceLock<Box<[i8; 4096]>> = OnceLock::new();
    MORE.get_or_init(|| {
        let mut more = Box::new([0; 4096]);
        for (size, more) in more.iter_mut().enumerate() {
            // Of 1024 parts of the usual, each 2^(2 / 3.5) from the next.
            const UP: [u32; 4] = [1104, 1640, 2437, 3622];
            const DOWN: [u32; 4] = [928, 624, 420, 283];
            let size = size as u32 * 1024 / USUAL;
            let up = UP.iter().filter(|&&threshold| size >= threshold).count() as i32;
            let down = DOWN.iter().filter(|&&threshold| size < threshold).count() as i32;
            *more = (up - down).clamp(-MOST, MOST) as i8;
        }
        more
    })
}
