//! Products of many rows with a page that is decoded once, to a tile.

use super::super::codec::{Part, Queries, Work};
use super::lanes::accumulate_tile;
use cachalot_kernels::Isa;
use cachalot_kernels::columns;

/// Adds the scores of decoded keys: one chain of fused multiply-adds over the channels.
pub(super) fn score(part: &dyn Part, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
    let shape = part.shape();
    with_tile(part, isa, page, work, |tile| {
        columns::score(isa, &queries.q[..queries.rows * shape.width()], shape.width(), tile, shape.channels, scores);
    });
}

/// Adds the weighted sums of decoded values: one chain of fused multiply-adds over the tokens.
pub(super) fn accumulate(
    part: &dyn Part,
    isa: Isa,
    page: &[u8],
    weights: &[f32],
    rows: usize,
    work: &mut Work,
    out: &mut [f32],
) {
    with_tile(part, isa, page, work, |tile| accumulate_tile(isa, tile, part.shape(), weights, rows, out));
}

fn with_tile(part: &dyn Part, isa: Isa, page: &[u8], work: &mut Work, then: impl FnOnce(&[f32])) {
    let mut tile = std::mem::take(&mut work.tile);
    // What it held does not matter: all of it is set.
    tile.resize(part.shape().tile_len(), 0.0);
    part.write_tile(isa, page, work, &mut tile);
    then(&tile);
    work.tile = tile;
}
