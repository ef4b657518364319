//! Blocks of sixteen channels in polar coordinates, read from their codes.

use crate::attention::PAGE_TOKENS;
use crate::columns::{DIRECT_ROWS, Rows, Scores, Sink, Sums, Tile, VECTORS, of_rows};
use crate::dispatch;
use crate::planes::Planes;
use crate::simd::LANES;
use crate::transpose::Turn;

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
    pub(super) const STRIDE: usize = 8 * (8 * 4 + 7 * 2) + 2 * PAGE_TOKENS;

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
    unsafe { of_rows!(rows, R => score_block_rows::<S, R>(blocks, q, width, scores)) }
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
    unsafe { of_rows!(rows, R => each::<S, _>(blocks, &mut Sums::<R> { weights, out, width })) }
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
