//! Triplets of coordinates as a direction on the octahedron and a length: OCTOPUS. Wants rotated rows.

mod map;

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::math::lloyd::nearest;
use super::super::stage::{Args, Built, Context, StageEntry, StageError};
use super::fields::{self, Runs, put_halves};
use super::tiled;
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::columns::{self, DIRECT_ROWS};
use cachalot_kernels::octants::{self, Octants, Packed};
use cachalot_kernels::simd::LANES;
use cachalot_kernels::transpose::{add_transposed, write_transposed};
use cachalot_kernels::triplets::{Triplets, add_triplets};
use map::{length_levels, map, side_levels, unmap};
use std::sync::Arc;

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "octahedral",
    summary: "directions and lengths of triplets on the octahedron, for rotated rows; octahedral(bits=3)",
    build,
    calibrate: None,
};

/// Per triplet of channels, the last padded with zeros: codes of the two sides of its direction with a bit more than
/// nominal, of its length with a bit less, each `[tokens]` fields; then the lengths of the rows as half floats.
#[derive(Clone, Debug)]
struct Octahedral {
    shape: Shape,
    side_bits: usize,
    length_bits: usize,
    /// Levels of a side of the direction, ascending.
    sides: Vec<f64>,
    /// Levels of the length of a triplet of a unit row.
    lengths: Vec<f64>,
    /// The directions, `[second side][first side]`.
    units: Vec<[f64; 3]>,
    /// Their three coordinates and a zero.
    directions: Vec<[f32; 4]>,
    /// The same, to be read from the codes.
    octants: Option<Octants>,
    length_table: [f32; 16],
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let bits = args.integer("bits", 3, 2..=4)?;
    args.done()?;
    if context.channels < 8 {
        return Err(args.error(format!("{} channels are too few; eight or more are needed", context.channels)));
    }
    let (side_bits, length_bits) = (bits + 1, bits - 1);
    let sides = side_levels(1 << side_bits);
    let lengths = length_levels(context.channels, 1 << length_bits);
    let units: Vec<_> = sides.iter().flat_map(|&eta| sides.iter().map(move |&xi| unmap(xi, eta))).collect();
    let directions: Vec<_> = units.iter().map(|n| [n[0] as f32, n[1] as f32, n[2] as f32, 0.0]).collect();
    let mut length_table = [0.0; 16];
    length_table.iter_mut().zip(&lengths).for_each(|(to, &x)| *to = x as f32);
    let shape = context.shape();
    let octants = Octants::new(&directions, side_bits);
    let part = Octahedral { shape, side_bits, length_bits, sides, lengths, units, directions, octants, length_table };
    Ok(Built::Part(Arc::new(part)))
}

/// The middle one of nine.
const MIDDLE: usize = 4;

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

impl Octahedral {
    fn triplets(&self) -> usize {
        self.shape.channels.div_ceil(3)
    }

    fn triplet_bytes(&self) -> usize {
        2 * fields::bytes(self.side_bits, self.shape.tokens) + fields::bytes(self.length_bits, self.shape.tokens)
    }

    /// Codes of a triplet of a unit row: of the nine directions about the nearest of each side, the one that points
    /// furthest along it, then the length nearest to how far.
    fn code(&self, t: [f64; 3]) -> [usize; 3] {
        let sides = map(t).map(|side| nearest(&self.sides, side));
        let last = self.sides.len() - 1;
        // Beyond the last level the last once more. All nine are taken before the best is looked for: which one it is cannot
        // be foretold.
        let about = sides.map(|code| [code.saturating_sub(1), code, (code + 1).min(last)]);
        let along = about[0].map(|i| about[1].map(|j| dot(t, self.units[j << self.side_bits | i])));
        let best = along.as_flattened().iter().fold(f64::NEG_INFINITY, |best, &along| best.max(along));
        // In a tie the nearest of each side stays.
        let at = along.as_flattened().iter().position(|&along| along == best).unwrap_or(MIDDLE);
        let at = if along.as_flattened()[MIDDLE] == best { MIDDLE } else { at };
        [about[0][at / 3], about[1][at % 3], nearest(&self.lengths, best)]
    }

    /// Adds to every channel's row of tokens, `[channels][PAGE_TOKENS]`.
    fn add_rows(&self, isa: Isa, page: &[u8], codes: &mut Vec<u16>, rows: &mut [f32]) {
        let Shape { tokens, channels, .. } = self.shape;
        let (n, each) = (self.triplets() * tokens, self.triplet_bytes());
        codes.resize(2 * n, 0);
        let (direction, part) = codes.split_at_mut(n);
        let (packed, lengths) = page.split_at(self.triplets() * each);
        let side = fields::bytes(self.side_bits, tokens);
        let runs = Runs { stride: each, tokens };
        fields::unpack_spaced(isa, self.side_bits, packed, runs, 0, direction);
        fields::unpack_spaced(isa, self.side_bits, &packed[side..], runs, self.side_bits, direction);
        fields::unpack_spaced(isa, self.length_bits, &packed[2 * side..], runs, 0, part);
        let mut row_lengths = [0.0; PAGE_TOKENS];
        fields::read_halves(isa, &lengths[..2 * tokens], &mut row_lengths[..tokens]);
        let (directions, parts, lengths) = (&self.directions, &self.length_table, &row_lengths[..tokens]);
        add_triplets(isa, Triplets { directions, parts, lengths, direction, part }, channels, rows);
    }

    /// Whole pages of whole vectors of channels are read from the codes as they are packed.
    fn with_packed<T>(&self, isa: Isa, page: &[u8], read: impl FnOnce(Packed<'_>) -> T) -> Option<T> {
        let Shape { tokens, channels, .. } = self.shape;
        let octants = self.octants.as_ref()?;
        if tokens != PAGE_TOKENS || !channels.is_multiple_of(LANES) {
            return None;
        }
        let (codes, lengths) = page.split_at(self.triplets() * self.triplet_bytes());
        let mut row_lengths = [0.0; PAGE_TOKENS];
        fields::read_halves(isa, lengths, &mut row_lengths);
        Some(read(Packed { octants, parts: &self.length_table, lengths: &row_lengths, codes, channels }))
    }

    /// As [`Octahedral::with_packed`], all channels in a buffer, `[channels][PAGE_TOKENS]`.
    fn with_rows<T>(&self, isa: Isa, page: &[u8], floats: &mut Vec<f32>, read: impl FnOnce(&[f32]) -> T) -> Option<T> {
        // What it held does not matter: all of it is set.
        floats.resize(self.shape.channels * PAGE_TOKENS, 0.0);
        self.with_packed(isa, page, |packed| octants::write(isa, packed, floats))?;
        Some(read(floats))
    }
}

impl Part for Octahedral {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        let codes = self.triplets() * self.triplet_bytes();
        let lengths = 2 * self.shape.tokens;
        let padding = (codes + lengths).next_multiple_of(4) - codes - lengths;
        vec![Item::new("codes", codes), Item::new("lengths", lengths + padding)]
    }

    fn describe(&self) -> String {
        let (side, length) = (self.side_bits, self.length_bits);
        format!(
            "triplets on the octahedron: directions of {side} + {side} bits, lengths of {length}, lengths of rows in f16"
        )
    }

    fn shared_bytes(&self) -> usize {
        16 * self.directions.len() + 24 * self.units.len() + 64 + 8 * (self.sides.len() + self.lengths.len())
    }

    fn encode(&self, x: &[f32], _hints: Hints<'_>, to: &mut [u8]) {
        to.fill(0);
        let Shape { tokens, channels, .. } = self.shape;
        let triplets = self.triplets();
        let mut codes = vec![[0u16; 3]; triplets * tokens];
        let mut lengths = Vec::with_capacity(tokens);
        for (token, row) in x.chunks_exact(channels).enumerate() {
            let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            lengths.push(length as f32);
            let unit = if length > 0.0 { 1.0 / length } else { 0.0 };
            for (i, triplet) in row.chunks(3).enumerate() {
                let mut t = [0.0; 3];
                t.iter_mut().zip(triplet).for_each(|(t, &x)| *t = f64::from(x) * unit);
                codes[i * tokens + token] = self.code(t).map(|code| code as u16);
            }
        }
        let (to_codes, to_lengths) = to.split_at_mut(triplets * self.triplet_bytes());
        for (codes, to) in codes.chunks_exact(tokens).zip(to_codes.chunks_exact_mut(self.triplet_bytes())) {
            let mut at = 0;
            for (part, bits) in [self.side_bits, self.side_bits, self.length_bits].into_iter().enumerate() {
                let fields: Vec<u16> = codes.iter().map(|code| code[part]).collect();
                let next = at + fields::bytes(bits, tokens);
                fields::pack(bits, &fields, &mut to[at..next]);
                at = next;
            }
        }
        put_halves(to_lengths, lengths.into_iter());
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
        let score = |packed: Packed<'_>| octants::score(isa, packed, q, width, scores);
        if queries.rows > DIRECT_ROWS || self.with_packed(isa, page, score).is_none() {
            tiled::score(self, isa, page, queries, work, scores);
        }
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        let width = self.shape.width();
        let sum = |values: &[f32]| columns::accumulate(isa, values, weights, rows, width, out);
        if rows > DIRECT_ROWS || self.with_rows(isa, page, &mut work.floats, sum).is_none() {
            tiled::accumulate(self, isa, page, weights, rows, work, out);
        }
    }

    fn write_tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let Shape { side, channels, .. } = self.shape;
        let turn = |rows: &[f32]| write_transposed(isa, rows, PAGE_TOKENS, channels, PAGE_TOKENS, tile, channels);
        let written = match side {
            Side::Keys => self.with_packed(isa, page, |packed| octants::write(isa, packed, tile)),
            Side::Values => self.with_rows(isa, page, &mut work.floats, turn),
        };
        if written.is_none() {
            tile.fill(0.0);
            self.tile(isa, page, work, tile);
        }
    }
}
