//! Tables of uneven levels: numbers rounded to eight-bit integers, which are what pages decode to.

use super::Packing;
use cachalot_kernels::codes::Bits;
use cachalot_kernels::simd::{LANES, Simd};
use cachalot_kernels::{Isa, dispatch};

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
    #[cfg(test)]
    pub fn nearest(&self, x: f32) -> u8 {
        let after = |pair: &[i8]| (i16::from(pair[0]) + i16::from(pair[1])) as f32 / 2.0 < x;
        self.levels.windows(2).filter(|pair| after(pair)).count() as u8
    }

    /// The codes of many, each as [`Table::nearest`].
    pub fn nearest_each(&self, isa: Isa, x: &[f32], codes: &mut [u8]) {
        let mut bounds = [f32::INFINITY; 15];
        for (bound, pair) in bounds.iter_mut().zip(self.levels.windows(2)) {
            *bound = (i16::from(pair[0]) + i16::from(pair[1])) as f32 / 2.0;
        }
        count_below(isa, &bounds[..self.levels.len().saturating_sub(1)], x, codes);
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

dispatch! {
    /// How many of the bounds are below each number.
    fn count_below(bounds: &[f32], x: &[f32], counts: &mut [u8]) = count_below_body
}

#[inline(always)]
unsafe fn count_below_body<S: Simd>(bounds: &[f32], x: &[f32], counts: &mut [u8]) {
    for (x, counts) in x.chunks(LANES).zip(counts.chunks_mut(LANES)) {
        let (mut lanes, mut found) = ([0.0; LANES], [0.0f32; LANES]);
        lanes[..x.len()].copy_from_slice(x);
        // SAFETY: the arrays have sixteen elements; the features are the dispatcher's business.
        unsafe {
            let (x, one, mut count) = (S::load(lanes.as_ptr()), S::splat(1.0), S::splat(0.0));
            for &bound in bounds {
                count = S::select(S::lt(S::splat(bound), x), S::add(count, one), count);
            }
            S::store(found.as_mut_ptr(), count);
        }
        counts.iter_mut().zip(found).for_each(|(count, found)| *count = found as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_at_once_are_each_alone() {
        let table = Table::new(&[-2.7, -1.3, -0.7, -0.2, 0.0, 0.3, 0.8, 1.9, 2.7]);
        let x: Vec<f32> = (-150..150).map(|i| i as f32 / 2.0 * 1.9).chain([1e9, -1e9, 0.0]).collect();
        let alone: Vec<u8> = x.iter().map(|&x| table.nearest(x)).collect();
        for isa in Isa::available() {
            let mut codes = vec![9; x.len()];
            table.nearest_each(isa, &x, &mut codes);
            assert_eq!(codes, alone, "{isa}");
        }
    }

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
