//! Triplets of channels as one of some directions and one of at most sixteen lengths, in parts of the length of the row.

use crate::attention::PAGE_TOKENS;
use crate::dispatch;
use crate::polar::Permute;
use crate::simd::{LANES, Portable};

/// Reads directions of sixteen tokens.
#[allow(clippy::missing_safety_doc)]
trait Directions: Permute {
    /// The first three coordinates of `table[index[i]]`; the indices lie within the table.
    unsafe fn directions(table: *const [f32; 4], index: *const u16) -> [Self::F; 3];
}

impl Directions for Portable {
    #[inline(always)]
    unsafe fn directions(table: *const [f32; 4], index: *const u16) -> [Self::F; 3] {
        let mut found = [[0.0f32; LANES]; 3];
        for (axis, found) in found.iter_mut().enumerate() {
            // SAFETY: by the contract.
            *found = std::array::from_fn(|i| unsafe { (*table.add(usize::from(*index.add(i))))[axis] });
        }
        found
    }
}

#[cfg(target_arch = "x86_64")]
impl Directions for crate::simd::Avx2 {
    #[inline(always)]
    unsafe fn directions(table: *const [f32; 4], index: *const u16) -> [Self::F; 3] {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe {
            let mut found = [[_mm256_setzero_ps(); 2]; 3];
            // No closures: they would be compiled without the features.
            for half in [0, 1] {
                let mut four = [_mm256_setzero_ps(); 4];
                for (i, four) in four.iter_mut().enumerate() {
                    let index = index.add(8 * half + i);
                    let (low, high) = (table.add(usize::from(*index)), table.add(usize::from(*index.add(4))));
                    let low = _mm256_castps128_ps256(_mm_loadu_ps(low.cast()));
                    *four = _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(high.cast()));
                }
                let [a, b, c, d] = four;
                let (low, low_on) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                let (high, high_on) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                found[0][half] = _mm256_shuffle_ps::<0x44>(low, low_on);
                found[1][half] = _mm256_shuffle_ps::<0xee>(low, low_on);
                found[2][half] = _mm256_shuffle_ps::<0x44>(high, high_on);
            }
            found
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Directions for crate::simd::Avx512 {
    #[inline(always)]
    unsafe fn directions(table: *const [f32; 4], index: *const u16) -> [Self::F; 3] {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe {
            let mut four = [_mm512_setzero_ps(); 4];
            for (i, four) in four.iter_mut().enumerate() {
                let at = |quarter: usize| table.add(usize::from(*index.add(4 * quarter + i))).cast::<f32>();
                *four = _mm512_castps128_ps512(_mm_loadu_ps(at(0)));
                *four = _mm512_insertf32x4::<1>(*four, _mm_loadu_ps(at(1)));
                *four = _mm512_insertf32x4::<2>(*four, _mm_loadu_ps(at(2)));
                *four = _mm512_insertf32x4::<3>(*four, _mm_loadu_ps(at(3)));
            }
            let [a, b, c, d] = four;
            let (low, low_on) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
            let (high, high_on) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
            [
                _mm512_shuffle_ps::<0x44>(low, low_on),
                _mm512_shuffle_ps::<0xee>(low, low_on),
                _mm512_shuffle_ps::<0x44>(high, high_on),
            ]
        }
    }
}

/// Triplets of a page.
#[derive(Clone, Copy, Debug)]
pub struct Triplets<'a> {
    /// Coordinates of directions, the fourth without meaning; as many as a power of two.
    pub directions: &'a [[f32; 4]],
    /// Parts of the length of a row.
    pub parts: &'a [f32; 16],
    /// The lengths of the rows, `[tokens]`: a multiple of sixteen, at most [`PAGE_TOKENS`].
    pub lengths: &'a [f32],
    /// Which direction, `[triplets][tokens]`.
    pub direction: &'a [u16],
    /// Which part, `[triplets][tokens]`.
    pub part: &'a [u16],
}

dispatch! {
    /// **Adds** `length part direction` to rows of `[channels][PAGE_TOKENS]`, three a triplet; of the last triplet as many
    /// as there are. Indices count within the tables, without the bits beyond.
    ///
    /// # Panics
    /// If the slices are too short, or there are more than 65536 directions or not a power of two of them.
    pub fn add_triplets(triplets: Triplets<'_>, channels: usize, to: &mut [f32]) = add_triplets_body
}

#[inline(always)]
unsafe fn add_triplets_body<S: Directions>(triplets: Triplets<'_>, channels: usize, to: &mut [f32]) {
    let Triplets { directions, parts, lengths, direction, part } = triplets;
    let (n, tokens) = (channels.div_ceil(3), lengths.len());
    assert!(tokens.is_multiple_of(LANES) && tokens <= PAGE_TOKENS && to.len() >= channels * PAGE_TOKENS);
    assert!(directions.len().is_power_of_two() && directions.len() <= 1 << 16);
    assert!(direction.len() >= n * tokens && part.len() >= n * tokens);
    let within = (directions.len() - 1) as u16;
    // SAFETY: lengths asserted above, indices made to lie within the table.
    unsafe {
        let parts = S::load(parts.as_ptr());
        for i in 0..n {
            for v in (0..tokens).step_by(LANES) {
                let mut index = [0u16; LANES];
                for (to, &from) in index.iter_mut().zip(&direction[i * tokens + v..][..LANES]) {
                    *to = from & within;
                }
                let part = S::permute(parts, part.as_ptr().add(i * tokens + v));
                let length = S::mul(S::load(lengths.as_ptr().add(v)), part);
                let found = S::directions(directions.as_ptr(), index.as_ptr());
                for (axis, &found) in found.iter().enumerate().take(channels - 3 * i) {
                    let to = to.as_mut_ptr().add((3 * i + axis) * PAGE_TOKENS + v);
                    S::store(to, S::add(S::load(to), S::mul(found, length)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn triplets_are_directions_of_a_length() {
        let directions: Vec<[f32; 4]> = (0..64).map(|i| [0, 1, 2, 3].map(|axis| (i * 5 + axis) as f32 - 9.0)).collect();
        let parts = std::array::from_fn(|i| i as f32 * 0.5 + 0.25);
        for (channels, tokens) in [(64usize, 64), (16, 48), (24, 16), (20, 32)] {
            let lengths: Vec<f32> = (0..tokens).map(|t| t as f32 + 0.5).collect();
            let n = channels.div_ceil(3) * tokens;
            let direction: Vec<u16> = (0..n).map(|i| (i * 37 % 71) as u16).collect();
            let part: Vec<u16> = (0..n).map(|i| (i * 11 % 16) as u16).collect();
            let of = Triplets {
                directions: &directions,
                parts: &parts,
                lengths: &lengths,
                direction: &direction,
                part: &part,
            };
            for isa in Isa::available() {
                let mut to = vec![1.0; channels * PAGE_TOKENS];
                add_triplets(isa, of, channels, &mut to);
                for (i, &x) in to.iter().enumerate() {
                    let (c, t) = (i / PAGE_TOKENS, i % PAGE_TOKENS);
                    let at = c / 3 * tokens + t;
                    let expected = if t < tokens {
                        1.0 + directions[usize::from(direction[at] % 64)][c % 3]
                            * (lengths[t] * parts[usize::from(part[at])])
                    } else {
                        1.0
                    };
                    assert_eq!(x, expected, "{isa} {channels} {tokens}: {c} {t}");
                }
            }
        }
    }
}
