//! Recursive polar coordinates: PolarQuant of Han et al., 2025. Wants rotated rows, whose coordinates are nearly
//! independent and normal.

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::math::elementary::{atan2, sin_cos};
use super::super::stage::{Args, Built, Context, StageEntry, StageError};
use super::fields::{self, put_halves};
use super::tiled;
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::columns::DIRECT_ROWS;
use cachalot_kernels::polar::{Blocks, accumulate_blocks, add_block, score_blocks, write_block_rows, write_blocks};
use cachalot_kernels::transpose::add_transposed;
use std::f64::consts::{PI, TAU};
use std::sync::Arc;

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "polar",
    summary: "recursive polar coordinates of blocks of 16 channels, for rotated rows",
    build,
    calibrate: None,
};

/// Coordinates of a block, a radius and fifteen angles.
const BLOCK: usize = 16;
/// Bits of the angles between single coordinates; those between radii have two.
const FINE: usize = 4;
const COARSE: usize = 2;
/// Parts of a length within which an angle may be on either side of a bound: far more than numbers are rounded by.
const CLOSE: f64 = 1e-9;
/// The angle of a coarse code between radii of two, four and eight coordinates: the best four levels of the density
/// `sinⁿ 2ψ` with `n = 1, 3, 7` (Lloyd-Max), symmetric about a quarter of π.
const LEVELS: [[f64; 2]; 3] = [[0.3098, 0.6340], [0.4262, 0.6744], [0.5242, 0.7059]];

/// Per block of sixteen channels: the codes of the eight, four, two and one angles, each `[tokens]` fields, then the radii
/// as half floats.
#[derive(Clone, Debug)]
struct Polar {
    shape: Shape,
    /// Cosines and sines by code, for angles between coordinates and then the three levels of radii.
    tables: [[[f32; 16]; 2]; 4],
    /// Angles that part two codes, for the levels of radii.
    bounds: [[f64; 3]; 3],
    /// Tangents of what parts the codes of a quadrant, for angles between coordinates and then the three levels of radii.
    tangents: [[f64; 3]; 4],
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    args.done()?;
    if !context.channels.is_multiple_of(BLOCK) {
        return Err(args.error(format!("{} channels are no blocks of {BLOCK}; choose another part", context.channels)));
    }
    Ok(Built::Part(Arc::new(polar(context.shape()))))
}

fn polar(shape: Shape) -> Polar {
    let levels = LEVELS.map(|[a, b]| [a, b, PI / 2.0 - b, PI / 2.0 - a]);
    let table = |angles: &[f64]| {
        let mut table = [[0.0; 16]; 2];
        for (code, &angle) in angles.iter().enumerate() {
            let (sin, cos) = sin_cos(angle);
            (table[0][code], table[1][code]) = (cos as f32, sin as f32);
        }
        table
    };
    let fine: Vec<f64> = (0..1 << FINE).map(|code| (f64::from(code) + 0.5) * TAU / 16.0).collect();
    let tables = [table(&fine), table(&levels[0]), table(&levels[1]), table(&levels[2])];
    let bounds = levels.map(|[a, b, c, d]| [(a + b) / 2.0, (b + c) / 2.0, (c + d) / 2.0]);
    let tangent = |angle| {
        let (sin, cos) = sin_cos(angle);
        sin / cos
    };
    let fine = [1.0, 2.0, 3.0].map(|i| i * TAU / 16.0);
    let tangents = [fine, bounds[0], bounds[1], bounds[2]].map(|bounds| bounds.map(tangent));
    Polar { shape, tables, bounds, tangents }
}

/// Bits of the angles of a level.
fn bits(level: usize) -> usize {
    if level == 0 { FINE } else { COARSE }
}

impl Polar {
    /// Bytes of the angles of a block at one level, `8 >> level` of them.
    fn span(&self, level: usize) -> usize {
        fields::bytes(bits(level), self.shape.tokens) * (BLOCK >> 1 >> level)
    }

    fn block_bytes(&self) -> usize {
        (0..4).map(|level| self.span(level)).sum::<usize>() + 2 * self.shape.tokens
    }

    /// The code of an angle: those between radii are in the first quadrant.
    fn code(&self, level: usize, y: f64, x: f64) -> u16 {
        // Turned by right angles into the first quadrant.
        let (quadrant, a, b) = match (x > 0.0, y >= 0.0) {
            _ if level > 0 => (0, x, y),
            (true, true) => (0, x, y),
            (false, true) => (1, y, -x),
            (false, false) => (2, -x, -y),
            (true, false) => (3, -y, x),
        };
        let off = self.tangents[level].map(|tangent| b - a * tangent);
        // Where rounding could tell another side of a bound than the angle itself, the angle is asked.
        let near = CLOSE * (a + b);
        let clear = off.iter().all(|off| off.abs() > near) && (level > 0 || b > near && a > near);
        if clear {
            4 * quadrant + off.iter().filter(|&&off| off > 0.0).count() as u16
        } else {
            self.code_of_angle(level, y, x)
        }
    }

    fn code_of_angle(&self, level: usize, y: f64, x: f64) -> u16 {
        let angle = atan2(y, x);
        if level == 0 {
            let turned = if angle < 0.0 { angle + TAU } else { angle };
            return ((turned * 16.0 / TAU) as u16).min(15);
        }
        self.bounds[level - 1].iter().filter(|&&bound| angle > bound).count() as u16
    }

    /// Adds to every channel's row of tokens, `[channels][PAGE_TOKENS]`.
    fn add_rows(&self, isa: Isa, page: &[u8], codes: &mut Vec<u16>, rows: &mut [f32]) {
        let tokens = self.shape.tokens;
        codes.resize((BLOCK - 1) * tokens, 0);
        let mut radii = [0.0; PAGE_TOKENS];
        let blocks = page.chunks_exact(self.block_bytes()).zip(rows.chunks_exact_mut(BLOCK * PAGE_TOKENS));
        for (bytes, rows) in blocks {
            let (fine, coarse) = bytes.split_at(self.span(0));
            let (to_fine, to_coarse) = codes.split_at_mut(BLOCK / 2 * tokens);
            fields::unpack_runs(isa, FINE, fine, tokens, to_fine);
            fields::unpack_runs(isa, COARSE, coarse, tokens, to_coarse);
            fields::read_halves(isa, &bytes[self.block_bytes() - 2 * tokens..], &mut radii[..tokens]);
            add_block(isa, &self.tables, codes, &radii[..tokens], rows);
        }
    }

    /// Whole pages are read from the codes as they are packed.
    fn with_blocks<T>(
        &self,
        isa: Isa,
        page: &[u8],
        floats: &mut Vec<f32>,
        read: impl FnOnce(Blocks<'_>) -> T,
    ) -> Option<T> {
        let Shape { tokens, channels, .. } = self.shape;
        if tokens != PAGE_TOKENS {
            return None;
        }
        floats.resize(channels / BLOCK * PAGE_TOKENS, 0.0);
        let blocks = page.chunks_exact(self.block_bytes());
        for (block, radii) in blocks.zip(floats.chunks_exact_mut(PAGE_TOKENS)) {
            fields::read_halves(isa, &block[self.block_bytes() - 2 * tokens..], radii);
        }
        Some(read(Blocks { tables: &self.tables, codes: page, radii: floats }))
    }
}

impl Part for Polar {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        let blocks = self.shape.channels / BLOCK;
        let angles = blocks * (self.block_bytes() - 2 * self.shape.tokens);
        vec![Item::new("angles", angles), Item::new("radii", 2 * self.shape.tokens * blocks)]
    }

    fn describe(&self) -> String {
        format!("polar coordinates of blocks of {BLOCK}: angles of 4, 2, 2 and 2 bits, radii in f16")
    }

    fn encode(&self, x: &[f32], _hints: Hints<'_>, to: &mut [u8]) {
        let Shape { tokens, channels, .. } = self.shape;
        for (block, to) in to.chunks_exact_mut(self.block_bytes()).enumerate() {
            let mut angles = vec![0u16; (BLOCK - 1) * tokens];
            let mut radii = vec![0.0; tokens];
            for (token, row) in x.chunks_exact(channels).enumerate() {
                let mut r: Vec<f64> = row[block * BLOCK..][..BLOCK].iter().map(|&x| f64::from(x)).collect();
                let mut first = 0;
                for level in 0..4 {
                    for (node, pair) in r.chunks_exact(2).enumerate() {
                        angles[(first + node) * tokens + token] = self.code(level, pair[1], pair[0]);
                    }
                    first += r.len() / 2;
                    r = r.chunks_exact(2).map(|pair| (pair[0] * pair[0] + pair[1] * pair[1]).sqrt()).collect();
                }
                radii[token] = r[0] as f32;
            }
            let mut at = 0;
            for (i, angles) in angles.chunks_exact(tokens).enumerate() {
                let bits = bits(usize::from(i >= BLOCK / 2));
                let next = at + fields::bytes(bits, tokens);
                fields::pack(bits, angles, &mut to[at..next]);
                at = next;
            }
            put_halves(&mut to[at..], radii.into_iter());
        }
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let Shape { tokens, channels, .. } = self.shape;
        let mut rows = vec![0.0; channels * PAGE_TOKENS];
        self.add_rows(Isa::Portable, page, &mut Vec::new(), &mut rows);
        add_transposed(Isa::Portable, &rows, PAGE_TOKENS, channels, tokens, x, channels);
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let Shape { side, tokens, channels } = self.shape;
        let Work { codes, floats, .. } = work;
        if side == Side::Keys {
            return self.add_rows(isa, page, codes, tile);
        }
        floats.clear();
        floats.resize(channels * PAGE_TOKENS, 0.0);
        self.add_rows(isa, page, codes, floats);
        add_transposed(isa, floats, PAGE_TOKENS, channels, tokens, tile, self.shape.width());
    }

    fn fused(&self) -> bool {
        true
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let width = self.shape.width();
        let q = &queries.q[..queries.rows * width];
        let score = |blocks: Blocks<'_>| score_blocks(isa, blocks, q, width, scores);
        if queries.rows > DIRECT_ROWS || self.with_blocks(isa, page, &mut work.floats, score).is_none() {
            tiled::score(self, isa, page, queries, work, scores);
        }
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        let width = self.shape.width();
        let sum = |blocks: Blocks<'_>| accumulate_blocks(isa, blocks, weights, rows, width, out);
        if rows > DIRECT_ROWS || self.with_blocks(isa, page, &mut work.floats, sum).is_none() {
            tiled::accumulate(self, isa, page, weights, rows, work, out);
        }
    }

    fn write_tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let Shape { side, channels, .. } = self.shape;
        let write = |blocks: Blocks<'_>| match side {
            Side::Keys => write_blocks(isa, blocks, tile),
            Side::Values => write_block_rows(isa, blocks, tile, channels),
        };
        if self.with_blocks(isa, page, &mut work.floats, write).is_none() {
            tile.fill(0.0);
            self.tile(isa, page, work, tile);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::math::Rng;

    /// Tangents tell the code that the angle tells: anywhere, about all bounds, on the axes and at nothing.
    #[test]
    fn codes_are_those_of_the_angles() {
        let polar = polar(Shape { side: Side::Keys, tokens: PAGE_TOKENS, channels: BLOCK });
        let mut rng = Rng::new(3, 3);
        for level in 0..4 {
            let bounds = (0..16).map(|i| f64::from(i) * TAU / 16.0).chain(polar.bounds.iter().flatten().copied());
            let about = |bound: f64| [-1e-6, -1e-10, -1e-15, 0.0, 1e-15, 1e-10, 1e-6].map(|off| bound + off);
            let mut points: Vec<(f64, f64)> = bounds.flat_map(about).map(sin_cos).collect();
            points.extend((0..2000).map(|_| (rng.normal(), rng.normal())));
            points.extend([(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0), (1e-300, 1e-300)]);
            for (y, x) in points.into_iter().filter(|(y, x)| level == 0 || (*y >= 0.0 && *x >= 0.0)) {
                for length in [1e-30, 1.0, 1e5] {
                    let (y, x) = (length * y, length * x);
                    assert_eq!(polar.code(level, y, x), polar.code_of_angle(level, y, x), "{level}: {y} {x}");
                }
            }
        }
    }
}
