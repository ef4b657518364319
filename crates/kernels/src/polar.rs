//! Pairs of channels as radius and angle, with at most sixteen angles: their products with queries by tables of sixteen
//! entries that fill one vector.

use crate::attention::PAGE_TOKENS;
use crate::columns::{DIRECT_ROWS, Rows, Scores, Sink, Sums, Tile, VECTORS};
use crate::dispatch;
use crate::planes::Planes;
use crate::simd::{LANES, Portable, Simd};
use crate::transpose::Turn;

/// Loads from a table of sixteen.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Permute: Simd {
    /// `table[index[i] % 16]`, sixteen indices.
    unsafe fn permute(table: Self::F, index: *const u16) -> Self::F;
    /// Sixteen numbers.
    unsafe fn load_u16(p: *const u16) -> Self::I;
}

impl Permute for Portable {
    #[inline(always)]
    unsafe fn permute(table: Self::F, index: *const u16) -> Self::F {
        // SAFETY: by the contract.
        std::array::from_fn(|i| table[usize::from(unsafe { *index.add(i) } & 15)])
    }
    #[inline(always)]
    unsafe fn load_u16(p: *const u16) -> Self::I {
        // SAFETY: by the contract.
        std::array::from_fn(|i| i32::from(unsafe { *p.add(i) }))
    }
}

#[cfg(target_arch = "x86_64")]
impl Permute for crate::simd::Avx2 {
    #[inline(always)]
    unsafe fn permute(table: Self::F, index: *const u16) -> Self::F {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe {
            let [a, b] = Self::load_u16(index);
            // Bit three says which half of the table; blending looks at the sign.
            let (high_a, high_b) = (_mm256_slli_epi32::<28>(a), _mm256_slli_epi32::<28>(b));
            let [low, high] = table;
            let (low_a, low_b) = (_mm256_permutevar8x32_ps(low, a), _mm256_permutevar8x32_ps(low, b));
            let (top_a, top_b) = (_mm256_permutevar8x32_ps(high, a), _mm256_permutevar8x32_ps(high, b));
            [
                _mm256_blendv_ps(low_a, top_a, _mm256_castsi256_ps(high_a)),
                _mm256_blendv_ps(low_b, top_b, _mm256_castsi256_ps(high_b)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_u16(p: *const u16) -> Self::I {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe {
            [_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())), _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(8).cast()))]
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Permute for crate::simd::Avx512 {
    #[inline(always)]
    unsafe fn permute(table: Self::F, index: *const u16) -> Self::F {
        // SAFETY: by the contract.
        unsafe { std::arch::x86_64::_mm512_permutexvar_ps(Self::load_u16(index), table) }
    }
    #[inline(always)]
    unsafe fn load_u16(p: *const u16) -> Self::I {
        use std::arch::x86_64::*;
        // SAFETY: by the contract.
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())) }
    }
}

/// Horner's scheme, the highest power first.
#[inline(always)]
unsafe fn polynomial<S: Simd>(x: S::F, factors: [f32; 5]) -> S::F {
    // SAFETY: the features are the dispatcher's business.
    unsafe {
        let mut sum = S::splat(factors[0]);
        for &factor in &factors[1..] {
            sum = S::fma(sum, x, S::splat(factor));
        }
        sum
    }
}

/// Sine and cosine of angles of a few turns, absolute error below 3e-7.
#[inline(always)]
unsafe fn sin_cos<S: Simd>(x: S::F) -> (S::F, S::F) {
    // SAFETY: the features are the dispatcher's business.
    unsafe {
        let quarter = S::round(S::mul(x, S::splat(std::f32::consts::FRAC_2_PI)));
        // π/2 in two parts, so that the difference keeps its low bits.
        let r = S::fma(quarter, S::splat(-1.570_796_4), x);
        let r = S::fma(quarter, S::splat(4.371_139e-8), r);
        let square = S::mul(r, r);
        let sin = polynomial::<S>(square, [2.755_731_9e-6, -1.984_127e-4, 8.333_333e-3, -1.666_666_7e-1, 1.0]);
        let sin = S::mul(sin, r);
        let cos = polynomial::<S>(square, [2.480_158_7e-5, -1.388_888_9e-3, 4.166_666_8e-2, -0.5, 1.0]);
        // The quarter turn, from -2 to 2.
        let turn = S::fma(S::round(S::mul(quarter, S::splat(0.25))), S::splat(-4.0), quarter);
        let half = S::lt(S::splat(1.5), S::abs(turn));
        let (left, right) = (S::lt(S::splat(0.5), turn), S::lt(turn, S::splat(-0.5)));
        let odd = (left | right) & !half;
        let zero = S::splat(0.0);
        let (a, b) = (S::select(odd, cos, sin), S::select(odd, sin, cos));
        let sin = S::select(half | right, S::sub(zero, a), a);
        let cos = S::select(half | left, S::sub(zero, b), b);
        (sin, cos)
    }
}

dispatch! {
    /// `out[i] = scale[i] * table[codes[i] % 16]`, a multiple of sixteen.
    ///
    /// # Panics
    /// If the lengths are not equal multiples of sixteen.
    pub fn spread(table: &[f32; 16], codes: &[u16], scale: &[f32], out: &mut [f32]) = spread_body
}

#[inline(always)]
unsafe fn spread_body<S: Permute>(table: &[f32; 16], codes: &[u16], scale: &[f32], out: &mut [f32]) {
    assert!(codes.len() == out.len() && scale.len() == out.len() && out.len().is_multiple_of(LANES));
    // SAFETY: lengths asserted above.
    unsafe {
        let table = S::load(table.as_ptr());
        for i in (0..out.len()).step_by(LANES) {
            let found = S::permute(table, codes.as_ptr().add(i));
            S::store(out.as_mut_ptr().add(i), S::mul(S::load(scale.as_ptr().add(i)), found));
        }
    }
}

dispatch! {
    /// **Adds** blocks of sixteen channels in recursive polar coordinates to `[16][PAGE_TOKENS]`: from a radius, by the
    /// cosine and sine of an angle, two, and so on for four levels. `tables` are cosines and sines by code, those between
    /// single coordinates first; `codes` the eight, four, two and one angles, `[15][tokens]`; `radii` is `[tokens]`, a
    /// multiple of sixteen.
    ///
    /// # Panics
    /// If the slices are too short.
    pub fn add_block(tables: &[[[f32; 16]; 2]; 4], codes: &[u16], radii: &[f32], to: &mut [f32]) = add_block_body
}

#[inline(always)]
unsafe fn add_block_body<S: Permute>(tables: &[[[f32; 16]; 2]; 4], codes: &[u16], radii: &[f32], to: &mut [f32]) {
    let tokens = radii.len();
    assert!(tokens.is_multiple_of(LANES) && tokens <= PAGE_TOKENS && codes.len() >= 15 * tokens);
    assert!(to.len() >= 16 * PAGE_TOKENS);
    for v in (0..tokens).step_by(LANES) {
        // SAFETY: lengths asserted above.
        unsafe {
            let mut rows = [S::load(radii.as_ptr().add(v)); 16];
            for (level, first) in [(3, 14), (2, 12), (1, 8), (0, 0)] {
                let [cos, sin] = &tables[level];
                let (cos, sin) = (S::load(cos.as_ptr()), S::load(sin.as_ptr()));
                // From the last, so that a parent is read before its place is taken.
                for node in (0..8usize >> level).rev() {
                    let (radius, code) = (rows[node], codes.as_ptr().add((first + node) * tokens + v));
                    rows[2 * node] = S::mul(radius, S::permute(cos, code));
                    rows[2 * node + 1] = S::mul(radius, S::permute(sin, code));
                }
            }
            for (c, &row) in rows.iter().enumerate() {
                let to = to.as_mut_ptr().add(c * PAGE_TOKENS + v);
                S::store(to, S::add(S::load(to), row));
            }
        }
    }
}

/// Encoded blocks of sixteen channels of a page of [`PAGE_TOKENS`], as [`add_block`] has them unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    /// As for [`add_block`].
    pub tables: &'a [[[f32; 16]; 2]; 4],
    /// Per block: eight angles of four bits and seven of two, packed in planes, and what the radii take.
    pub codes: &'a [u8],
    /// `[blocks][PAGE_TOKENS]`.
    pub radii: &'a [f32],
}

impl Blocks<'_> {
    /// Bytes of a block.
    const STRIDE: usize = 8 * (8 * 4 + 7 * 2) + 2 * PAGE_TOKENS;

    fn blocks(&self) -> usize {
        self.radii.len() / PAGE_TOKENS
    }

    fn assert(&self, width: usize) {
        assert!(self.codes.len() >= self.blocks() * Self::STRIDE && self.blocks() * LANES <= width);
    }
}

#[inline(always)]
unsafe fn each<S: Planes, K: Sink<S>>(blocks: Blocks<'_>, sink: &mut K) {
    // SAFETY: there are as many bytes as `Blocks::assert` says.
    unsafe {
        let mut codes = [[0u8; PAGE_TOKENS]; 15];
        for b in 0..blocks.blocks() {
            let packed = blocks.codes.as_ptr().add(b * Blocks::STRIDE);
            let (fine, coarse) = codes.split_at_mut(8);
            for (i, to) in fine.iter_mut().enumerate() {
                S::istore(to.as_mut_ptr().cast(), S::fields::<4>(packed.add(32 * i)));
            }
            for (i, to) in coarse.iter_mut().enumerate() {
                S::istore(to.as_mut_ptr().cast(), S::fields::<2>(packed.add(256 + 16 * i)));
            }
            for v in 0..VECTORS {
                let mut rows = [S::load(blocks.radii.as_ptr().add(b * PAGE_TOKENS + v * LANES)); 16];
                for (level, first) in [(3, 14), (2, 12), (1, 8), (0, 0)] {
                    let [cos, sin] = &blocks.tables[level];
                    let (cos, sin) = (S::load(cos.as_ptr()), S::load(sin.as_ptr()));
                    // From the last, so that a parent is read before its place is taken.
                    for node in (0..8usize >> level).rev() {
                        let (radius, code) = (rows[node], S::load_u8(codes[first + node].as_ptr().add(v * LANES)));
                        rows[2 * node] = S::mul(radius, S::pick(cos, code));
                        rows[2 * node + 1] = S::mul(radius, S::pick(sin, code));
                    }
                }
                sink.take(v, b * LANES, &rows);
            }
        }
    }
}

dispatch! {
    /// **Adds** to `scores`, `[rows][PAGE_TOKENS]`, the products with queries `[rows][width]`, at most [`DIRECT_ROWS`]: those of
    /// [`crate::columns::score`] with what [`write_blocks`] decodes.
    ///
    /// # Panics
    /// If the slices are too short or the rows too many.
    pub fn score_blocks(blocks: Blocks<'_>, q: &[f32], width: usize, scores: &mut [f32]) = score_blocks_body
}

#[inline(always)]
unsafe fn score_blocks_body<S: Planes>(blocks: Blocks<'_>, q: &[f32], width: usize, scores: &mut [f32]) {
    let rows = q.len() / width;
    blocks.assert(width);
    assert!(rows <= DIRECT_ROWS && scores.len() >= rows * PAGE_TOKENS);
    // SAFETY: lengths asserted above.
    unsafe {
        match rows {
            0 => {}
            1 => score_block_rows::<S, 1>(blocks, q, width, scores),
            2 => score_block_rows::<S, 2>(blocks, q, width, scores),
            3 => score_block_rows::<S, 3>(blocks, q, width, scores),
            _ => score_block_rows::<S, 4>(blocks, q, width, scores),
        }
    }
}

#[inline(always)]
unsafe fn score_block_rows<S: Planes, const R: usize>(blocks: Blocks<'_>, q: &[f32], width: usize, scores: &mut [f32]) {
    // SAFETY: there are R rows.
    unsafe {
        let mut sink = Scores::<S, R>::new(q.as_ptr(), width);
        each::<S, _>(blocks, &mut sink);
        sink.add_to(scores.as_mut_ptr());
    }
}

dispatch! {
    /// **Adds** `Σ weight · value` to `out`, `[rows][width]`, for at most [`DIRECT_ROWS`] rows of `weights`,
    /// `[rows][PAGE_TOKENS]`: the sums of [`crate::attention::accumulate_page`] over what [`write_block_rows`] decodes.
    ///
    /// # Panics
    /// If the slices are too short or the rows too many.
    pub fn accumulate_blocks(blocks: Blocks<'_>, weights: &[f32], rows: usize, width: usize, out: &mut [f32]) =
        accumulate_blocks_body
}

#[inline(always)]
unsafe fn accumulate_blocks_body<S: Planes + Turn>(
    blocks: Blocks<'_>,
    weights: &[f32],
    rows: usize,
    width: usize,
    out: &mut [f32],
) {
    blocks.assert(width);
    assert!(rows <= DIRECT_ROWS && weights.len() >= rows * PAGE_TOKENS && out.len() >= rows * width);
    let (weights, out) = (weights.as_ptr(), out.as_mut_ptr());
    // SAFETY: lengths asserted above.
    unsafe {
        match rows {
            0 => {}
            1 => each::<S, _>(blocks, &mut Sums::<1> { weights, out, width }),
            2 => each::<S, _>(blocks, &mut Sums::<2> { weights, out, width }),
            3 => each::<S, _>(blocks, &mut Sums::<3> { weights, out, width }),
            _ => each::<S, _>(blocks, &mut Sums::<4> { weights, out, width }),
        }
    }
}

dispatch! {
    /// Writes `[channels][PAGE_TOKENS]`: what [`add_block`] adds to zeros.
    ///
    /// # Panics
    /// If the slices are too short.
    pub fn write_blocks(blocks: Blocks<'_>, to: &mut [f32]) = write_blocks_body
}

#[inline(always)]
unsafe fn write_blocks_body<S: Planes>(blocks: Blocks<'_>, to: &mut [f32]) {
    blocks.assert(to.len() / PAGE_TOKENS);
    // SAFETY: lengths asserted above.
    unsafe { each::<S, _>(blocks, &mut Tile(to.as_mut_ptr())) }
}

dispatch! {
    /// Writes `[PAGE_TOKENS][width]`: what [`add_block`] adds to zeros.
    ///
    /// # Panics
    /// If the slices are too short.
    pub fn write_block_rows(blocks: Blocks<'_>, to: &mut [f32], width: usize) = write_block_rows_body
}

#[inline(always)]
unsafe fn write_block_rows_body<S: Planes + Turn>(blocks: Blocks<'_>, to: &mut [f32], width: usize) {
    blocks.assert(width);
    assert!(to.len() >= PAGE_TOKENS * width);
    // SAFETY: lengths asserted above.
    unsafe { each::<S, _>(blocks, &mut Rows { to: to.as_mut_ptr(), width }) }
}

/// Pairs of channels of a page's keys.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// The two channels of each pair.
    pub channels: &'a [[usize; 2]],
    /// Cosines, then sines of the sixteen angles of each pair, `[pairs][2][16]`: see [`tables`].
    pub tables: &'a [f32],
    /// `[pairs][PAGE_TOKENS]`.
    pub radii: &'a [f32],
    /// Which of the sixteen, `[pairs][PAGE_TOKENS]`.
    pub angles: &'a [u16],
}

dispatch! {
    /// Cosines and sines of the sixteen angles `(i + 1/2) step + first`, `[pairs][2][16]`, for `grid` of `[pairs]` of
    /// first and step.
    ///
    /// # Panics
    /// If `tables` is too short.
    pub fn tables(grid: &[[f32; 2]], tables: &mut [f32]) = tables_body
}

#[inline(always)]
unsafe fn tables_body<S: Simd>(grid: &[[f32; 2]], tables: &mut [f32]) {
    assert!(tables.len() >= grid.len() * 2 * LANES);
    let middles: [f32; LANES] = std::array::from_fn(|i| i as f32 + 0.5);
    for (&[first, step], table) in grid.iter().zip(tables.chunks_exact_mut(2 * LANES)) {
        // SAFETY: the chunk has twice sixteen elements.
        unsafe {
            let angles = S::fma(S::load(middles.as_ptr()), S::splat(step), S::splat(first));
            let (sin, cos) = sin_cos::<S>(angles);
            S::store(table.as_mut_ptr(), cos);
            S::store(table.as_mut_ptr().add(LANES), sin);
        }
    }
}

dispatch! {
    /// `out[i] = (codes[i] + 1/2) step + first`, a multiple of sixteen.
    ///
    /// # Panics
    /// If the lengths are not equal multiples of sixteen.
    pub fn middles(codes: &[u16], first: f32, step: f32, out: &mut [f32]) = middles_body
}

#[inline(always)]
unsafe fn middles_body<S: Permute>(codes: &[u16], first: f32, step: f32, out: &mut [f32]) {
    assert!(codes.len() == out.len() && out.len().is_multiple_of(LANES));
    for i in (0..out.len()).step_by(LANES) {
        // SAFETY: lengths asserted above.
        unsafe {
            let code = S::add(S::to_f32(S::load_u16(codes.as_ptr().add(i))), S::splat(0.5));
            S::store(out.as_mut_ptr().add(i), S::fma(code, S::splat(step), S::splat(first)));
        }
    }
}

dispatch! {
    /// **Adds** to `scores`, `[rows][PAGE_TOKENS]`, the products of queries `[rows][width]` with the pairs, in order:
    /// `radius * (q[a] cos + q[b] sin)`, the sum in brackets from a table of sixteen.
    ///
    /// # Panics
    /// If the slices are too short.
    pub fn score_pairs(q: &[f32], width: usize, pairs: Pairs<'_>, scores: &mut [f32]) = score_pairs_body
}

#[inline(always)]
unsafe fn score_pairs_body<S: Permute>(q: &[f32], width: usize, pairs: Pairs<'_>, scores: &mut [f32]) {
    let (n, rows) = (pairs.channels.len(), q.len() / width);
    assert!(pairs.channels.iter().flatten().all(|&c| c < width) && pairs.tables.len() >= n * 2 * LANES);
    assert!(pairs.radii.len() >= n * PAGE_TOKENS && pairs.angles.len() >= n * PAGE_TOKENS);
    assert!(scores.len() >= rows * PAGE_TOKENS);
    let mut at = 0;
    while at < rows {
        let (q, scores) = (&q[at * width..], &mut scores[at * PAGE_TOKENS..]);
        // SAFETY: lengths asserted above; `rows - at` rows are left.
        unsafe {
            if S::REGISTERS >= 32 && rows - at >= 3 {
                pair_rows::<S, 3>(q, width, pairs, scores);
                at += 3;
            } else {
                pair_rows::<S, 1>(q, width, pairs, scores);
                at += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn pair_rows<S: Permute, const R: usize>(q: &[f32], width: usize, pairs: Pairs<'_>, scores: &mut [f32]) {
    // SAFETY: there are R rows and as many pairs as the caller checked.
    unsafe {
        let mut sums = [[S::splat(0.0); VECTORS]; R];
        for (p, &[a, b]) in pairs.channels.iter().enumerate() {
            let table = pairs.tables.as_ptr().add(p * 2 * LANES);
            let (cos, sin) = (S::load(table), S::load(table.add(LANES)));
            let at = p * PAGE_TOKENS;
            for (r, sums) in sums.iter_mut().enumerate() {
                let q = q.as_ptr().add(r * width);
                let table = S::fma(S::splat(*q.add(a)), cos, S::mul(S::splat(*q.add(b)), sin));
                for (v, sum) in sums.iter_mut().enumerate() {
                    let found = S::permute(table, pairs.angles.as_ptr().add(at + v * LANES));
                    *sum = S::fma(S::load(pairs.radii.as_ptr().add(at + v * LANES)), found, *sum);
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
mod tests {
    use super::*;
    use crate::Isa;
    use crate::{attention, columns};

    #[test]
    fn sines_are_close_and_the_same_everywhere() {
        let grid: Vec<[f32; 2]> = (0..200).map(|i| [i as f32 * 0.1 - 9.0, 0.4]).collect();
        let mut portable = vec![0.0; grid.len() * 32];
        tables(Isa::Portable, &grid, &mut portable);
        for (&[first, step], table) in grid.iter().zip(portable.chunks_exact(32)) {
            for i in 0..16 {
                let angle = f64::from((i as f32 + 0.5).mul_add(step, first));
                assert!((f64::from(table[i]) - angle.cos()).abs() < 3e-7, "cos {angle}");
                assert!((f64::from(table[16 + i]) - angle.sin()).abs() < 3e-7, "sin {angle}");
            }
        }
        for isa in Isa::available() {
            let mut found = vec![0.0; grid.len() * 32];
            tables(isa, &grid, &mut found);
            let same = found.iter().zip(&portable).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{isa}");
        }
    }

    #[test]
    fn scores_are_products_with_the_pairs() {
        let channels: Vec<[usize; 2]> = (0..24).map(|i| [i, i + 24]).collect();
        let grid: Vec<[f32; 2]> = (0..24).map(|i| [i as f32 * 0.2, 0.3]).collect();
        let mut table = vec![0.0; 24 * 32];
        tables(Isa::Portable, &grid, &mut table);
        let angles: Vec<u16> = (0..24 * 64).map(|i| (i * 7 % 16) as u16).collect();
        let radii: Vec<f32> = (0..24 * 64).map(|i| (i * 13 % 29) as f32 / 10.0).collect();
        let q: Vec<f32> = (0..5 * 48).map(|i| (i * 11 % 31) as f32 / 15.0 - 1.0).collect();
        let pairs = Pairs { channels: &channels, tables: &table, radii: &radii, angles: &angles };
        let mut expected = vec![0.25f32; 5 * 64];
        score_pairs(Isa::Portable, &q, 48, pairs, &mut expected);
        for (row, q) in q.chunks_exact(48).enumerate() {
            for t in 0..64 {
                let exact: f64 = (0..24)
                    .map(|p| {
                        let i = p * 64 + t;
                        let angle = f64::from((f32::from(angles[i]) + 0.5).mul_add(grid[p][1], grid[p][0]));
                        f64::from(radii[i]) * (f64::from(q[p]) * angle.cos() + f64::from(q[p + 24]) * angle.sin())
                    })
                    .sum();
                assert!((f64::from(expected[row * 64 + t]) - exact - 0.25).abs() < 2e-5);
            }
        }
        for isa in Isa::available() {
            let mut scores = vec![0.25; 5 * 64];
            score_pairs(isa, &q, 48, pairs, &mut scores);
            assert_eq!(scores, expected, "{isa}");
        }
    }

    #[test]
    fn spread_and_middles_agree_everywhere() {
        let codes: Vec<u16> = (0..48).map(|i| i * 5 % 16).collect();
        let table: [f32; 16] = std::array::from_fn(|i| i as f32 * 1.5 - 3.0);
        let scale: Vec<f32> = (0..48).map(|i| i as f32).collect();
        for isa in Isa::available() {
            let mut out = vec![0.0; 48];
            spread(isa, &table, &codes, &scale, &mut out);
            assert!((0..48).all(|i| out[i] == scale[i] * table[usize::from(codes[i])]), "{isa}");
            middles(isa, &codes, 1.0, 0.5, &mut out);
            assert!((0..48).all(|i| out[i] == (f32::from(codes[i]) + 0.5) * 0.5 + 1.0), "{isa}");
        }
    }

    /// Read from the codes, blocks are what they are unpacked, to the bit, and so are products with them.
    #[test]
    fn packed_blocks_are_the_unpacked_ones() {
        let table = |seed: usize| [0, 1].map(|k| std::array::from_fn(|i| ((i * 7 + seed + k) % 17) as f32 / 8.0 - 1.0));
        let tables = [0, 1, 2, 3].map(table);
        let (width, n) = (48, 3);
        let codes: Vec<u8> = (0..n * Blocks::STRIDE).map(|i| (i * i * 7 + i * 131 + i / 9) as u8).collect();
        let radii: Vec<f32> = (0..n * PAGE_TOKENS).map(|i| (i % 23) as f32 / 9.0).collect();
        let mut expected = vec![0.0; width * PAGE_TOKENS];
        for b in 0..n {
            let mut angles = vec![0u16; 15 * PAGE_TOKENS];
            for (i, angle) in angles.iter_mut().enumerate() {
                let (node, t) = (i / PAGE_TOKENS, i % PAGE_TOKENS);
                let (plane, at) = if node < 8 { (4, 32 * node) } else { (2, 256 + 16 * (node - 8)) };
                let byte = codes[b * Blocks::STRIDE + at + t % (8 * plane)];
                *angle = u16::from(byte >> (t / (8 * plane) * plane) & ((1 << plane) - 1));
            }
            let radii = &radii[b * PAGE_TOKENS..][..PAGE_TOKENS];
            add_block(Isa::Portable, &tables, &angles, radii, &mut expected[b * LANES * PAGE_TOKENS..]);
        }
        let mut turned = vec![0.0; PAGE_TOKENS * width];
        (0..turned.len()).for_each(|i| turned[i] = expected[i % width * PAGE_TOKENS + i / width]);
        let blocks = Blocks { tables: &tables, codes: &codes, radii: &radii };
        let x: Vec<f32> = (0..4 * PAGE_TOKENS).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let mut products = vec![0.5; 4 * PAGE_TOKENS];
        columns::score(Isa::Portable, &x[..4 * width], width, &expected, width, &mut products);
        let mut sums = vec![0.5; 4 * width];
        let bytes: Vec<u8> = turned.iter().flat_map(|x| x.to_le_bytes()).collect();
        let visible = [attention::Visible { from: 0, to: 64 }; 4];
        attention::accumulate_page(Isa::Portable, &x, &bytes, attention::Element::F32, width, &visible, &mut sums);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for isa in Isa::available() {
            let mut tile = vec![f32::NAN; width * PAGE_TOKENS];
            write_blocks(isa, blocks, &mut tile);
            assert_eq!(bits(&tile), bits(&expected), "{isa}");
            write_block_rows(isa, blocks, &mut tile, width);
            assert_eq!(bits(&tile), bits(&turned), "{isa}");
            for rows in 1..=4 {
                let mut scores = vec![0.5; rows * PAGE_TOKENS];
                score_blocks(isa, blocks, &x[..rows * width], width, &mut scores);
                assert_eq!(bits(&scores), bits(&products[..rows * PAGE_TOKENS]), "{isa} {rows}");
                let mut out = vec![0.5; rows * width];
                accumulate_blocks(isa, blocks, &x, rows, width, &mut out);
                assert_eq!(bits(&out), bits(&sums[..rows * width]), "{isa} {rows}");
                let mut out = vec![0.5; rows * width];
                columns::accumulate(isa, &expected, &x, rows, width, &mut out);
                assert_eq!(bits(&out), bits(&sums[..rows * width]), "{isa} {rows}, a tile");
            }
        }
    }
}
