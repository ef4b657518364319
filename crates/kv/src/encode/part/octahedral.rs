//! Triplets of coordinates as a direction on the octahedron and a length: OCTOPUS. Wants rotated rows.

mod directions;
mod map;

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
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
use directions::{AT_ONCE, Directions, codes};
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
    levels: Directions,
    /// Three coordinates and a zero, `[second side][first side]`.
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
    let levels = Directions::new(context.channels, side_bits, length_bits);
    let directions = levels.rows();
    let mut length_table = [0.0; 16];
    length_table.iter_mut().zip(levels.lengths()).for_each(|(to, &x)| *to = x as f32);
    let shape = context.shape();
    let octants = Octants::new(&directions, side_bits);
    let part = Octahedral { shape, side_bits, length_bits, levels, directions, octants, length_table };
    Ok(Built::Part(Arc::new(part)))
}

impl Octahedral {
    fn triplets(&self) -> usize {
        self.shape.channels.div_ceil(3)
    }

    fn triplet_bytes(&self) -> usize {
        2 * fields::bytes(self.side_bits, self.shape.tokens) + fields::bytes(self.length_bits, self.shape.tokens)
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
        16 * self.directions.len() + 64 + self.levels.bytes()
    }

    fn encode(&self, x: &[f32], _hints: Hints<'_>, to: &mut [u8]) {
        to.fill(0);
        let Shape { tokens, channels, .. } = self.shape;
        let triplets = self.triplets();
        let isa = Isa::detect();
        let length = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        let lengths: Vec<f64> = x.chunks_exact(channels).map(length).collect();
        // `[part][tokens]` of one triplet after the other.
        let mut fields = [0u16; 3 * PAGE_TOKENS];
        let (to_codes, to_lengths) = to.split_at_mut(triplets * self.triplet_bytes());
        for (i, to) in to_codes.chunks_exact_mut(self.triplet_bytes()).enumerate() {
            let channels_here = 3 * i..(3 * i + 3).min(channels);
            for first in (0..tokens).step_by(AT_ONCE) {
                let mut t = [[0.0; AT_ONCE]; 3];
                let here = AT_ONCE.min(tokens - first);
                for (lane, token) in (first..first + here).enumerate() {
                    let unit = if lengths[token] > 0.0 { 1.0 / lengths[token] } else { 0.0 };
                    let row = &x[token * channels..][..channels];
                    for (t, &x) in t.iter_mut().zip(&row[channels_here.clone()]) {
                        t[lane] = f64::from(x) * unit;
                    }
                }
                for (part, codes) in codes(isa, &self.levels, &t).into_iter().enumerate() {
                    fields[part * PAGE_TOKENS + first..][..here].copy_from_slice(&codes[..here]);
                }
            }
            let mut at = 0;
            for (part, bits) in [self.side_bits, self.side_bits, self.length_bits].into_iter().enumerate() {
                let next = at + fields::bytes(bits, tokens);
                fields::pack(bits, &fields[part * PAGE_TOKENS..][..tokens], &mut to[at..next]);
                at = next;
            }
        }
        put_halves(to_lengths, lengths.into_iter().map(|length| length as f32));
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
