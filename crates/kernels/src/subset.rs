//! Some tokens of a page, brought together and put back: rows of scores and weights by a bit for each token.

use crate::attention::PAGE_TOKENS;
use crate::dispatch;
use crate::simd::{LANES, Simd};

/// Numbers beyond the rows of tokens brought together that must be there: vectors are read and written whole.
pub const SLACK: usize = LANES;

dispatch! {
    /// Of each row, the numbers whose bit is set, one after the other; behind them anything. Rows of [`PAGE_TOKENS`].
    ///
    /// # Panics
    /// If there is no room for as many rows and [`SLACK`] numbers more.
    pub fn take_tokens(bits: u64, from: &[f32], to: &mut [f32]) = take_body
}

#[inline(always)]
unsafe fn take_body<S: Simd>(bits: u64, from: &[f32], to: &mut [f32]) {
    let rows = from.as_chunks::<PAGE_TOKENS>().0;
    assert!(to.len() >= rows.len() * PAGE_TOKENS + SLACK);
    for (row, from) in rows.iter().enumerate() {
        let mut at = row * PAGE_TOKENS;
        for v in 0..PAGE_TOKENS / LANES {
            let mask = (bits >> (v * LANES)) as u16;
            // SAFETY: a vector lies at each place: at most as many numbers as the row has are before it.
            unsafe {
                S::store(to.as_mut_ptr().add(at), S::compress(mask, S::load(from.as_ptr().add(v * LANES))));
            }
            at += mask.count_ones() as usize;
        }
    }
}

dispatch! {
    /// **Adds** the first numbers of each row to those places of a row whose bit is set, in order. Rows of [`PAGE_TOKENS`].
    ///
    /// # Panics
    /// If there are fewer rows to read than to write, and [`SLACK`] numbers.
    pub fn add_tokens(bits: u64, from: &[f32], to: &mut [f32]) = add_body
}

#[inline(always)]
unsafe fn add_body<S: Simd>(bits: u64, from: &[f32], to: &mut [f32]) {
    let rows = to.as_chunks_mut::<PAGE_TOKENS>().0;
    assert!(from.len() >= rows.len() * PAGE_TOKENS + SLACK);
    for (row, to) in rows.iter_mut().enumerate() {
        let mut at = row * PAGE_TOKENS;
        for v in 0..PAGE_TOKENS / LANES {
            let mask = (bits >> (v * LANES)) as u16;
            // SAFETY: as above.
            unsafe {
                let to = to.as_mut_ptr().add(v * LANES);
                S::store(to, S::add(S::load(to), S::decompress(mask, S::load(from.as_ptr().add(at)))));
            }
            at += mask.count_ones() as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn tokens_come_back_to_where_they_were_taken_from() {
        let from: Vec<f32> = (1..=3 * PAGE_TOKENS).map(|i| i as f32).collect();
        let few = 0x8000_0400_0001_0006;
        for (bits, isa) in [0, u64::MAX, few, !few, 0xffff_0000_ffff]
            .into_iter()
            .flat_map(|b| Isa::available().into_iter().map(move |isa| (b, isa)))
        {
            let (mut taken, mut back) = (vec![9.0; from.len() + SLACK], vec![0.5; from.len()]);
            take_tokens(isa, bits, &from, &mut taken);
            for (from, taken) in from.chunks(PAGE_TOKENS).zip(taken.chunks(PAGE_TOKENS)) {
                let want: Vec<f32> = (0..PAGE_TOKENS).filter(|t| bits >> t & 1 == 1).map(|t| from[t]).collect();
                assert_eq!(taken[..want.len()], want, "{isa} {bits:x}");
            }
            add_tokens(isa, bits, &taken, &mut back);
            for (i, (back, from)) in back.iter().zip(&from).enumerate() {
                let want = if bits >> (i % PAGE_TOKENS) & 1 == 1 { 0.5 + from } else { 0.5 };
                assert_eq!(*back, want, "{isa} {bits:x} {i}");
            }
        }
    }
}
