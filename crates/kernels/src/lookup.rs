//! Products with vectors from codebooks (product quantization: Jégou et al., 2011).
//!
//! A key is cut into sub-spaces of `dims` channels, each written as the number of a word. Its score with a query is
//! the sum over the sub-spaces, in order, of the word's product with the query's share, itself a chain of fused
//! multiply-adds over the channels from zero. [`score_tables`] looks the products up and [`score_tile`] computes them from
//! decoded keys: the same operations in the same order, so the same bits.
//!
//! Words of a sub-space are half floats and lie sixteen at a time channel by channel, `[words / 16][dims][16]`.

use crate::attention::PAGE_TOKENS;
use crate::dispatch;
use crate::simd::{LANES, Portable, Simd};

/// Vectors of scores of one row over a page.
const VECTORS: usize = PAGE_TOKENS / LANES;

/// Loads from a table at sixteen places.
#[allow(clippy::missing_safety_doc)]
trait Gather: Simd {
    /// `table[index[i]]`; the indices lie within the table.
    unsafe fn gather(table: *const f32, index: *const u16) -> Self::F;
}

impl Gather for Portable {
    #[inline(always)]
    unsafe fn gather(table: *const f32, index: *const u16) -> Self::F {
        // SAFETY: by the contract.
        std::array::from_fn(|i| unsafe { *table.add(usize::from(*index.add(i))) })
    }
}

#[cfg(target_arch = "x86_64")]
impl Gather for crate::simd::Avx2 {
    #[inline(always)]
    unsafe fn gather(table: *const f32, index: *const u16) -> Self::F {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe {
            crate::simd::both!(
                |index| _mm256_i32gather_ps::<4>(table, _mm256_cvtepu16_epi32(_mm_loadu_si128(index.cast()))),
                [index, index.add(8)]
            )
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Gather for crate::simd::Avx512 {
    #[inline(always)]
    unsafe fn gather(table: *const f32, index: *const u16) -> Self::F {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe { _mm512_i32gather_ps::<4>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(index.cast())), table) }
    }
}

dispatch! {
    /// `tables[r][m][w] = Σ_j q[r * width + m * dims + j] * words[m][w][j]`, `[rows][sub-spaces][count]`, of queries
    /// `[rows][width]` and `[sub-spaces]` of `count` words.
    ///
    /// # Panics
    /// If the lengths do not belong together or `count`, the words of a sub-space, is no multiple of sixteen.
    pub fn tables(q: &[f32], width: usize, dims: usize, words: &[u16], count: usize, tables: &mut [f32]) = tables_body
}

#[inline(always)]
unsafe fn tables_body<S: Simd>(q: &[f32], width: usize, dims: usize, words: &[u16], count: usize, tables: &mut [f32]) {
    let rows = q.len() / width;
    assert!(count.is_multiple_of(LANES) && words.len().is_multiple_of(count * dims));
    let each = words.len() / dims;
    assert!(each / count * dims <= width && tables.len() == rows * each);
    let mut at = 0;
    while at < rows {
        // SAFETY: lengths asserted above; `rows - at` rows are left. Several at once read the words once.
        unsafe {
            let (q, tables) = (q.as_ptr().add(at * width), tables.as_mut_ptr().add(at * each));
            let of = TableOf { width, dims, words, count, each };
            at += match rows - at {
                1 => of.table_rows::<S, 1>(q, tables),
                2 => of.table_rows::<S, 2>(q, tables),
                _ => of.table_rows::<S, 3>(q, tables),
            };
        }
    }
}

struct TableOf<'a> {
    width: usize,
    dims: usize,
    words: &'a [u16],
    count: usize,
    /// Products of a row.
    each: usize,
}

impl TableOf<'_> {
    /// The products of `R` rows; returns `R`.
    #[inline(always)]
    unsafe fn table_rows<S: Simd, const R: usize>(&self, q: *const f32, tables: *mut f32) -> usize {
        for (i, words) in self.words.chunks_exact(self.dims * LANES).enumerate() {
            // SAFETY: there are `R` rows, and words for all sub-spaces.
            unsafe {
                let q = q.add(i * LANES / self.count * self.dims);
                let mut sums = [S::splat(0.0); R];
                for j in 0..self.dims {
                    let x = S::load_f16(words.as_ptr().add(j * LANES));
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = S::fma(S::splat(*q.add(r * self.width + j)), x, *sum);
                    }
                }
                for (r, &sum) in sums.iter().enumerate() {
                    S::store(tables.add(r * self.each + i * LANES), sum);
                }
            }
        }
        R
    }
}

dispatch! {
    /// **Adds** to the scores of a page's tokens, `[PAGE_TOKENS]`, the products that their words have in `tables`,
    /// `[sub-spaces][count]`. `codes` is `[sub-spaces][PAGE_TOKENS]`; codes beyond the table are read as its last word.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn score_tables(tables: &[f32], count: usize, codes: &[u16], scores: &mut [f32]) = score_tables_body
}

#[inline(always)]
unsafe fn score_tables_body<S: Gather>(tables: &[f32], count: usize, codes: &[u16], scores: &mut [f32]) {
    assert!(count > 0 && tables.len() / count >= codes.len() / PAGE_TOKENS && scores.len() >= PAGE_TOKENS);
    // SAFETY: lengths asserted above, codes bounded below.
    unsafe {
        let mut sums = [S::splat(0.0); VECTORS];
        for (table, codes) in tables.chunks_exact(count).zip(codes.chunks_exact(PAGE_TOKENS)) {
            let mut bounded = [0u16; PAGE_TOKENS];
            bounded.iter_mut().zip(codes).for_each(|(to, &code)| *to = code.min((count - 1) as u16));
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = S::add(*sum, S::gather(table.as_ptr(), bounded.as_ptr().add(v * LANES)));
            }
        }
        for (v, &sum) in sums.iter().enumerate() {
            let to = scores.as_mut_ptr().add(v * LANES);
            S::store(to, S::add(S::load(to), sum));
        }
    }
}

dispatch! {
    /// **Adds** to `scores`, `[rows][PAGE_TOKENS]`, the products of queries `[rows][width]` with decoded keys,
    /// `[width][PAGE_TOKENS]`, of which `channels` count, in sub-spaces of `dims`.
    ///
    /// # Panics
    /// If the slices are shorter than that.
    pub fn score_tile(q: &[f32], width: usize, keys: &[f32], channels: usize, dims: usize, scores: &mut [f32]) = score_tile_body
}

#[inline(always)]
unsafe fn score_tile_body<S: Simd>(
    q: &[f32],
    width: usize,
    keys: &[f32],
    channels: usize,
    dims: usize,
    scores: &mut [f32],
) {
    let rows = q.len() / width;
    assert!(channels <= width && channels.is_multiple_of(dims) && keys.len() >= channels * PAGE_TOKENS);
    assert!(scores.len() >= rows * PAGE_TOKENS);
    let (mut at, each) = (0, if S::REGISTERS >= 32 { 3 } else { 1 });
    while at < rows {
        let (q, scores) = (&q[at * width..], &mut scores[at * PAGE_TOKENS..]);
        // SAFETY: lengths asserted above; `rows - at` rows are left.
        unsafe {
            if each == 3 && rows - at >= 3 {
                tile_rows::<S, 3>(q, width, keys, channels, dims, scores);
                at += 3;
            } else {
                tile_rows::<S, 1>(q, width, keys, channels, dims, scores);
                at += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn tile_rows<S: Simd, const R: usize>(
    q: &[f32],
    width: usize,
    keys: &[f32],
    channels: usize,
    dims: usize,
    scores: &mut [f32],
) {
    // SAFETY: there are R rows, and as many keys as channels.
    unsafe {
        let mut sums = [[S::splat(0.0); VECTORS]; R];
        for first in (0..channels).step_by(dims) {
            let mut parts = [[S::splat(0.0); VECTORS]; R];
            for c in first..first + dims {
                let keys = keys.as_ptr().add(c * PAGE_TOKENS);
                for (r, part) in parts.iter_mut().enumerate() {
                    let q = S::splat(*q.as_ptr().add(r * width + c));
                    for (v, part) in part.iter_mut().enumerate() {
                        *part = S::fma(q, S::load(keys.add(v * LANES)), *part);
                    }
                }
            }
            for (sums, parts) in sums.iter_mut().zip(&parts) {
                for (sum, &part) in sums.iter_mut().zip(parts) {
                    *sum = S::add(*sum, part);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let to = scores.as_mut_ptr().add(r * PAGE_TOKENS + v * LANES);
                S::store(to, S::add(S::load(to), sum));
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Isa;
    use half::f16;

    /// Numbers in `[-1, 1)`.
    pub(crate) fn sample(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(n).collect()
    }

    /// Looked up and multiplied out, the scores are the same bits, on every instruction set, for any number of rows.
    #[test]
    fn tables_and_tiles_agree_to_the_bit() {
        for (subspaces, dims, count) in [(32usize, 4usize, 256usize), (20, 4, 16), (1, 96, 48), (64, 1, 16)] {
            let (d, rows) = (subspaces * dims, 7);
            let width = d.next_multiple_of(LANES);
            let words: Vec<u16> = sample(d * count, 1).into_iter().map(|x| f16::from_f32(x).to_bits()).collect();
            let mut q = sample(rows * width, 2);
            q.chunks_exact_mut(width).for_each(|q| q[d..].fill(0.0));
            let codes: Vec<u16> = (0..subspaces * PAGE_TOKENS).map(|i| (i * 31 % (count + 3)) as u16).collect();
            let mut keys = vec![0.0; width * PAGE_TOKENS];
            for isa in Isa::available() {
                for (c, row) in keys.chunks_exact_mut(PAGE_TOKENS).take(d).enumerate() {
                    let codes = &codes[c / dims * PAGE_TOKENS..][..PAGE_TOKENS];
                    let number = |&code: &u16| c / dims * count + usize::from(code).min(count - 1);
                    let word = |code| words[(number(code) / LANES * dims + c % dims) * LANES + number(code) % LANES];
                    row.iter_mut().zip(codes).for_each(|(x, code)| *x = f16::from_bits(word(code)).to_f32());
                }
                let mut tiled = vec![0.5; rows * PAGE_TOKENS];
                score_tile(isa, &q, width, &keys, d, dims, &mut tiled);
                let mut all = vec![f32::NAN; rows * subspaces * count];
                tables(isa, &q, width, dims, &words, count, &mut all);
                let of_rows = all.chunks_exact(subspaces * count).zip(tiled.chunks_exact(PAGE_TOKENS));
                for (q, (table, tiled)) in q.chunks_exact(width).zip(of_rows) {
                    let mut scores = vec![0.5; PAGE_TOKENS];
                    score_tables(isa, table, count, &codes, &mut scores);
                    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&scores), bits(tiled), "{isa} {subspaces} {dims}");
                    let mut portable = vec![0.5; PAGE_TOKENS];
                    score_tables(Isa::Portable, table, count, &codes, &mut portable);
                    assert_eq!(bits(&scores), bits(&portable), "{isa}");
                    for (t, &score) in scores.iter().enumerate() {
                        let exact: f64 =
                            (0..d).map(|c| f64::from(q[c]) * f64::from(keys[c * PAGE_TOKENS + t])).sum::<f64>() + 0.5;
                        assert!((f64::from(score) - exact).abs() < 1e-5, "{score} {exact}");
                    }
                }
            }
        }
    }
}
