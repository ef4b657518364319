//! Rows with most elements zero: a bit an element, half floats for those that are not.

use crate::attention::PAGE_TOKENS;
use crate::dispatch;
use crate::simd::{LANES, Portable, Simd};
use half::f16;

/// Half floats beyond the last kept one that must be readable: four vectors are loaded whole.
pub const SLACK: usize = WORD;

/// Elements that four masks speak of.
const WORD: usize = 4 * LANES;
/// Vectors of them.
const VECTORS: usize = 4;

/// Spreads packed elements over sixteen lanes.
#[allow(clippy::missing_safety_doc)]
trait Expand: Simd {
    /// Lane `i` is the next half float from `p` where bit `i` is set, else zero. Sixteen can be read from `p`.
    unsafe fn expand(mask: u16, p: *const u8) -> Self::F;
}

impl Expand for Portable {
    #[inline(always)]
    unsafe fn expand(mask: u16, p: *const u8) -> Self::F {
        let mut next = 0;
        std::array::from_fn(|i| {
            if mask >> i & 1 == 0 {
                return 0.0;
            }
            // SAFETY: at most sixteen are read.
            let bits = unsafe { p.cast::<[u8; 2]>().add(next).read() };
            next += 1;
            f16::from_le_bytes(bits).to_f32()
        })
    }
}

/// Per byte: which packed element each lane takes, the top bit set where none.
#[cfg(target_arch = "x86_64")]
const TAKE: [[u8; 8]; 256] = {
    let mut take = [[0x80; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut lane, mut next) = (0, 0);
        while lane < 8 {
            if byte >> lane & 1 == 1 {
                take[byte][lane] = next;
                next += 1;
            }
            lane += 1;
        }
        byte += 1;
    }
    take
};

#[cfg(target_arch = "x86_64")]
impl Expand for crate::simd::Avx2 {
    #[inline(always)]
    unsafe fn expand(mask: u16, p: *const u8) -> Self::F {
        use std::arch::x86_64::*;
        // SAFETY: eight elements from `p`, and eight from at most eight further on.
        unsafe {
            let (low, high) = (usize::from(mask & 0xff), usize::from(mask >> 8));
            let behind = p.add(2 * low.count_ones() as usize);
            let packed_low = _mm256_cvtph_ps(_mm_loadu_si128(p.cast()));
            let packed_high = _mm256_cvtph_ps(_mm_loadu_si128(behind.cast()));
            let take_low = _mm256_cvtepi8_epi32(_mm_loadl_epi64(TAKE[low].as_ptr().cast()));
            let take_high = _mm256_cvtepi8_epi32(_mm_loadl_epi64(TAKE[high].as_ptr().cast()));
            // Negative where there is no element: the sign, spread over the lane, clears it.
            let none_low = _mm256_castsi256_ps(_mm256_srai_epi32::<31>(take_low));
            let none_high = _mm256_castsi256_ps(_mm256_srai_epi32::<31>(take_high));
            [
                _mm256_andnot_ps(none_low, _mm256_permutevar8x32_ps(packed_low, take_low)),
                _mm256_andnot_ps(none_high, _mm256_permutevar8x32_ps(packed_high, take_high)),
            ]
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Expand for crate::simd::Avx512 {
    #[inline(always)]
    unsafe fn expand(mask: u16, p: *const u8) -> Self::F {
        use std::arch::x86_64::*;
        // SAFETY: sixteen elements from `p`.
        unsafe { _mm512_maskz_expand_ps(mask, Self::load_f16(p.cast())) }
    }
}

/// Up to four masks as one word, the first lowest; missing ones are empty.
#[inline(always)]
fn word(masks: &[u8]) -> u64 {
    if let Ok(all) = masks.try_into() {
        return u64::from_le_bytes(all);
    }
    let mut bytes = [0; 8];
    bytes[..masks.len()].copy_from_slice(masks);
    u64::from_le_bytes(bytes)
}

/// The four vectors of a word whose elements start at `p`.
#[inline(always)]
unsafe fn expand_word<S: Expand>(word: u64, p: *const u8) -> [S::F; VECTORS] {
    // SAFETY: the caller's promise: a word's elements and a vector can be read from `p`.
    unsafe {
        // Where each starts, all counted from the word, so that none waits for the one before.
        let behind = |masks: u64| 2 * masks.count_ones() as usize;
        let (b, c, d) = (behind(word & 0xffff), behind(word & 0xffff_ffff), behind(word & 0xffff_ffff_ffff));
        [
            S::expand(word as u16, p),
            S::expand((word >> 16) as u16, p.add(b)),
            S::expand((word >> 32) as u16, p.add(c)),
            S::expand((word >> 48) as u16, p.add(d)),
        ]
    }
}

dispatch! {
    /// **Adds** sparse rows to `out`. A row is `vectors` masks of sixteen bits (little endian, low bit first) and lies
    /// `stride` elements after the one before; the half floats of all rows follow each other in `values`. Where the masks
    /// have more than `count` bits, later ones find what lies behind.
    ///
    /// # Panics
    /// If `values` has less than `count` half floats and [`SLACK`], or `out` is too short.
    pub fn add_rows(masks: &[u8], vectors: usize, values: &[u8], count: usize, stride: usize, out: &mut [f32]) = add_rows_body
}

#[inline(always)]
unsafe fn add_rows_body<S: Expand>(
    masks: &[u8],
    vectors: usize,
    values: &[u8],
    count: usize,
    stride: usize,
    out: &mut [f32],
) {
    let rows = masks.len() / 2 / vectors;
    assert!(values.len() >= 2 * (count + SLACK) && vectors * LANES <= stride);
    assert!(rows == 0 || out.len() >= (rows - 1) * stride + vectors * LANES);
    let mut at = 0;
    for (row, masks) in masks.chunks_exact(2 * vectors).enumerate() {
        for (i, masks) in masks.chunks(2 * VECTORS).enumerate() {
            let word = word(masks);
            // SAFETY: lengths asserted above; `at` does not exceed `count`.
            unsafe {
                let found = expand_word::<S>(word, values.as_ptr().add(2 * at));
                let to = out.as_mut_ptr().add(row * stride + i * WORD);
                for (v, &found) in found.iter().enumerate().take(masks.len() / 2) {
                    S::store(to.add(v * LANES), S::add(S::load(to.add(v * LANES)), found));
                }
            }
            at = (at + word.count_ones() as usize).min(count);
        }
    }
}

dispatch! {
    /// **Adds** to `scores`, `[rows][PAGE_TOKENS]`, the products of queries `[rows][width]` with the keys of a whole page:
    /// a row of [`add_rows`] a channel, four masks for its tokens. One chain of fused multiply-adds over the channels from
    /// zero.
    ///
    /// # Panics
    /// If the slices are too short.
    pub fn score_rows(q: &[f32], width: usize, masks: &[u8], values: &[u8], count: usize, scores: &mut [f32]) = score_rows_body
}

#[inline(always)]
unsafe fn score_rows_body<S: Expand>(
    q: &[f32],
    width: usize,
    masks: &[u8],
    values: &[u8],
    count: usize,
    scores: &mut [f32],
) {
    let rows = q.len() / width;
    assert!(masks.len() / (2 * VECTORS) <= width && values.len() >= 2 * (count + SLACK));
    assert!(scores.len() >= rows * PAGE_TOKENS);
    let mut at = 0;
    while at < rows {
        let (q, scores) = (&q[at * width..], &mut scores[at * PAGE_TOKENS..]);
        // SAFETY: lengths asserted above; `rows - at` rows are left.
        unsafe {
            if S::REGISTERS >= 32 && rows - at >= 3 {
                score_tile::<S, 3>(q, width, masks, values, count, scores);
                at += 3;
            } else {
                score_tile::<S, 1>(q, width, masks, values, count, scores);
                at += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn score_tile<S: Expand, const R: usize>(
    q: &[f32],
    width: usize,
    masks: &[u8],
    values: &[u8],
    count: usize,
    scores: &mut [f32],
) {
    // SAFETY: there are R rows; `at` does not exceed `count`.
    unsafe {
        let mut sums = [[S::splat(0.0); VECTORS]; R];
        let mut at = 0;
        for (channel, masks) in masks.chunks_exact(2 * VECTORS).enumerate() {
            let word = word(masks);
            let keys = expand_word::<S>(word, values.as_ptr().add(2 * at));
            at = (at + word.count_ones() as usize).min(count);
            for (r, sums) in sums.iter_mut().enumerate() {
                let q = S::splat(*q.as_ptr().add(r * width + channel));
                for (sum, &keys) in sums.iter_mut().zip(&keys) {
                    *sum = S::fma(q, keys, *sum);
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

dispatch! {
    /// **Adds** to `out`, `[rows][width]`, the values of `tokens` tokens by `weights`, `[rows][PAGE_TOKENS]`: a row of
    /// [`add_rows`] a token, masks for all of the width. One chain of fused multiply-adds over the tokens.
    ///
    /// # Panics
    /// If the slices are too short.
    pub fn accumulate_rows(weights: &[f32], tokens: usize, masks: &[u8], values: &[u8], count: usize, width: usize,
        out: &mut [f32]) = accumulate_rows_body
}

#[inline(always)]
unsafe fn accumulate_rows_body<S: Expand>(
    weights: &[f32],
    tokens: usize,
    masks: &[u8],
    values: &[u8],
    count: usize,
    width: usize,
    out: &mut [f32],
) {
    let (rows, row_masks) = (out.len() / width, width / LANES * 2);
    assert!(tokens <= PAGE_TOKENS && weights.len() >= rows * PAGE_TOKENS && masks.len() >= tokens * row_masks);
    assert!(width.is_multiple_of(LANES) && values.len() >= 2 * (count + SLACK));
    // Where the words of a column of words start.
    let (mut starts, mut at, mut column) = ([0usize; PAGE_TOKENS], 0, 0);
    for (start, masks) in starts.iter_mut().zip(masks.chunks_exact(row_masks)).take(tokens) {
        *start = at;
        at = (at + ones(masks)).min(count);
    }
    while column < row_masks {
        let end = (column + 2 * VECTORS).min(row_masks);
        let mut row = 0;
        while row < rows {
            let (weights, out) = (&weights[row * PAGE_TOKENS..], &mut out[row * width + column * LANES / 2..]);
            let page = Column { masks, row_masks, from: column, to: end, starts: &starts[..tokens], values };
            // SAFETY: lengths asserted above; `rows - row` rows are left.
            unsafe {
                if S::REGISTERS >= 32 && rows - row >= 3 {
                    accumulate_tile::<S, 3>(weights, &page, width, out);
                    row += 3;
                } else {
                    accumulate_tile::<S, 1>(weights, &page, width, out);
                    row += 1;
                }
            }
        }
        for (start, masks) in starts.iter_mut().zip(masks.chunks_exact(row_masks)).take(tokens) {
            *start = (*start + ones(&masks[column..end])).min(count);
        }
        column = end;
    }
}

fn ones(masks: &[u8]) -> usize {
    masks.chunks(8).map(|masks| word(masks).count_ones() as usize).sum()
}

/// Up to four vectors of every token's row.
struct Column<'a> {
    masks: &'a [u8],
    row_masks: usize,
    /// Bytes of masks within a row.
    from: usize,
    to: usize,
    starts: &'a [usize],
    values: &'a [u8],
}

#[inline(always)]
unsafe fn accumulate_tile<S: Expand, const R: usize>(
    weights: &[f32],
    page: &Column<'_>,
    width: usize,
    out: &mut [f32],
) {
    let vectors = (page.to - page.from) / 2;
    // SAFETY: there are R rows, each with `vectors` vectors from the beginning of `out`.
    unsafe {
        // Loops of a known length, so that sums stay in registers.
        let mut sums = [[S::splat(0.0); VECTORS]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                if v < vectors {
                    *sum = S::load(out.as_ptr().add(r * width + v * LANES));
                }
            }
        }
        for (token, (&start, masks)) in page.starts.iter().zip(page.masks.chunks_exact(page.row_masks)).enumerate() {
            let values = expand_word::<S>(word(&masks[page.from..page.to]), page.values.as_ptr().add(2 * start));
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = S::splat(*weights.as_ptr().add(r * PAGE_TOKENS + token));
                for (sum, &values) in sums.iter_mut().zip(&values) {
                    *sum = S::fma(weight, values, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                if v < vectors {
                    S::store(out.as_mut_ptr().add(r * width + v * LANES), sum);
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
    fn masks_say_where_elements_go() {
        let mut state = 12345u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let (rows, vectors, stride) = (37, 3, 64);
        let mut masks: Vec<u16> = (0..rows * vectors).map(|_| (next() & next()) as u16).collect();
        (masks[0], masks[1], masks[2]) = (0xffff, 0, 0x8001);
        let count: usize = masks.iter().map(|m| m.count_ones() as usize).sum();
        let values: Vec<f16> = (0..count + SLACK).map(|_| f16::from_f32(next() as f32 / 1e6 - 8.0)).collect();
        let mut expected = vec![1.0f32; rows * stride];
        let mut left = values.iter();
        for (i, mask) in masks.iter().enumerate() {
            for lane in (0..LANES).filter(|lane| mask >> lane & 1 == 1) {
                expected[i / vectors * stride + i % vectors * LANES + lane] += left.next().unwrap().to_f32();
            }
        }
        let masks: Vec<u8> = masks.iter().flat_map(|m| m.to_le_bytes()).collect();
        let values: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        for isa in Isa::available() {
            let mut out = vec![1.0; rows * stride];
            add_rows(isa, &masks, vectors, &values, count, stride, &mut out);
            assert_eq!(out, expected, "{isa}");
            // More bits than elements: no panic, and what came before is as it was.
            let mut cut = vec![1.0; rows * stride];
            add_rows(isa, &masks, vectors, &values[..2 * (20 + SLACK)], 20, stride, &mut cut);
            assert_eq!(cut[..stride / 4], expected[..stride / 4], "{isa}");
        }
    }
}
