//! Tables of uneven levels: numbers rounded to eight-bit integers, which are what pages decode to.

use super::Packing;
use cachalot_kernels::codes::Bits;

/// The level that stands for zero.
pub const ZERO: u8 = 128;

/// Ascending levels, at most sixteen.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    levels: Vec<i8>,
    unit: f32,
}

impl Table {
    /// Of ascending numbers, at most sixteen, rounded to 1/127 of the largest magnitude.
    pub fn new(values: &[f32]) -> Table {
        let reach = super::reach(values);
        let unit = if reach > 0.0 { reach / 127.0 } else { 1.0 };
        Table { levels: values.iter().map(|x| (x / unit).round_ties_even() as i8).collect(), unit }
    }

    /// What a level of one stands for.
    pub fn unit(&self) -> f32 {
        self.unit
    }

    /// The level of a code.
    pub fn level(&self, code: u8) -> f32 {
        f32::from(self.levels[usize::from(code)])
    }

    /// The code of the nearest level to `x`, in units; the lower of two equally near.
    pub fn nearest(&self, x: f32) -> u8 {
        let after = |pair: &[i8]| (i16::from(pair[0]) + i16::from(pair[1])) as f32 / 2.0 < x;
        self.levels.windows(2).filter(|pair| after(pair)).count() as u8
    }

    /// Codes in as many planes as they need.
    pub fn packing(&self) -> Packing {
        let mut table = [ZERO; 16];
        table.iter_mut().zip(&self.levels).for_each(|(to, &level)| *to = (level as u8) ^ 128);
        let bits = match self.levels.len() {
            0..=2 => Bits::B1,
            3..=4 => Bits::B2,
            5..=8 => Bits::B3,
            _ => Bits::B4,
        };
        Packing::Planes { bits, table: Some(table) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_rounded_and_the_nearest_is_found() {
        let table = Table::new(&[-1.0, -0.25, 0.3, 2.0]);
        assert_eq!((0..4).map(|code| table.level(code)).collect::<Vec<_>>(), [-64.0, -16.0, 19.0, 127.0]);
        let near = [-1e9, -40.5, -40.0, -39.5, 1.0, 1.5, 1.6, 73.0, 73.5, 1e9].map(|x| table.nearest(x));
        assert_eq!(near, [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn a_table_of_zeros_is_no_division_by_zero() {
        let table = Table::new(&[0.0, 0.0]);
        assert_eq!((table.nearest(0.0), table.level(1), table.unit()), (0, 0.0, 1.0));
    }
}
