//! Keys at one and a half bits: the wide channels at two bits, the others as signs of their spectrum (VidKV, Tao et al.,
//! 2025).

mod waves;

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::stage::{Args, Built, Context, StageEntry, StageError};
use super::fields::{half, read_halves};
use super::lanes::add_combination;
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::codes::{Bits, Codes, Given, Grid, Levels, decode, multiply, pack, packed_bytes, unpack};
use cachalot_kernels::simd::LANES;
use std::sync::Arc;
use waves::waves;

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "spectral",
    summary: "keys: the widest channels at two bits, the spectrum of the others as signs; spectral(bits=1.5)",
    build,
    calibrate: None,
};

/// Tokens that share a scale.
const GROUP: usize = 32;

/// A page is a bit a channel, set for the `wide` ones that reach furthest over the page; their codes of two bits; their
/// steps and minima, `[wide][groups]` half floats each; the signs of the spectrum of the others along the channels; its
/// mean magnitudes, `[narrow][groups]` half floats.
#[derive(Clone, Debug)]
struct Spectral {
    shape: Shape,
    wide: usize,
    narrow: usize,
    /// The real Fourier basis of the narrow channels, transposed: `[narrow][padded]`, a channel's share in every wave.
    waves: Vec<f32>,
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let bits = args.number("bits", 1.5, 1.0..=2.0)?;
    args.done()?;
    let (d, tokens) = (context.channels, context.tokens);
    if context.side == Side::Values {
        return Err(args.error("is for keys; values can have ternary()"));
    }
    let step = (512 / tokens).max(8);
    if !tokens.is_multiple_of(GROUP) || !d.is_multiple_of(step) || !(2 * step..=256).contains(&d) {
        return Err(args.error(format!(
            "pages of {tokens} tokens and {d} channels do not part into groups of {GROUP} tokens and {step} channels, \
             at most 256"
        )));
    }
    let wide = match (d as f32 * (bits - 1.0)) as usize {
        0 => 32,
        wide => wide,
    };
    let wide = wide.next_multiple_of(step).clamp(step, d - step);
    let narrow = d - wide;
    Ok(Built::Part(Arc::new(Spectral { shape: context.shape(), wide, narrow, waves: waves(narrow) })))
}

/// A matrix of the page: its levels' bytes, and scales `[groups of tokens][rows]`.
struct Block<'a> {
    codes: &'a [u8],
    scales: Vec<f32>,
    offsets: Vec<f32>,
}

impl Spectral {
    fn groups(&self) -> usize {
        self.shape.tokens / GROUP
    }

    fn padded(&self) -> usize {
        self.narrow.next_multiple_of(LANES)
    }

    /// Bytes of the bits, the wide codes, steps and minima, the signs, the magnitudes.
    fn sizes(&self) -> [usize; 5] {
        let Shape { tokens, channels, .. } = self.shape;
        let scales = 2 * self.groups();
        [
            channels.div_ceil(8).next_multiple_of(4),
            packed_bytes(Bits::B2, self.wide * tokens),
            2 * scales * self.wide,
            packed_bytes(Bits::B1, self.narrow * tokens),
            scales * self.narrow,
        ]
    }

    /// The channels of each kind, both in order; as many as there must be, whatever the bytes say.
    fn channels(&self, bits: &[u8]) -> (Vec<usize>, Vec<usize>) {
        let d = self.shape.channels;
        let (mut wide, mut narrow): (Vec<_>, Vec<_>) = (0..d).partition(|c| bits[c / 8] >> (c % 8) & 1 == 1);
        while wide.len() > self.wide {
            narrow.extend(wide.pop());
        }
        while wide.len() < self.wide {
            wide.extend(narrow.pop());
        }
        (wide, narrow)
    }

    fn blocks<'a>(&self, isa: Isa, page: &'a [u8]) -> (Block<'a>, Block<'a>) {
        let [bits, codes, grid, signs, _] = self.sizes();
        let (_, rest) = page.split_at(bits);
        let (codes, rest) = rest.split_at(codes);
        let (grid, rest) = rest.split_at(grid);
        let (signs, magnitudes) = rest.split_at(signs);
        let groups = self.groups();
        // `[rows][groups]` to `[groups][rows]`.
        let turned = |bytes: &[u8]| {
            let rows = bytes.len() / 2 / groups;
            let (mut values, mut turned) = (vec![0.0; rows * groups], vec![0.0; rows * groups]);
            read_halves(isa, &bytes[..2 * values.len()], &mut values);
            for (row, values) in values.chunks_exact(groups).enumerate() {
                values.iter().enumerate().for_each(|(g, &x)| turned[g * rows + row] = x);
            }
            turned
        };
        let (steps, minima) = grid.split_at(grid.len() / 2);
        let wide = Block { codes, scales: turned(steps), offsets: turned(minima) };
        (wide, Block { codes: signs, scales: turned(magnitudes), offsets: Vec::new() })
    }

    /// Calls `each` with the grid and the levels of both matrices.
    fn matrices(&self, isa: Isa, page: &[u8], levels: &mut Levels, mut each: impl FnMut(bool, &Grid<'_>, &[u8])) {
        let tokens = self.shape.tokens;
        let (wide, narrow) = self.blocks(isa, page);
        let lane_groups: Vec<usize> = (1..=self.groups()).map(|g| g * GROUP).collect();
        for (is_wide, block) in [(true, wide), (false, narrow)] {
            let reduce = if is_wide { self.wide } else { self.narrow };
            levels.resize(reduce * tokens, 0);
            let mut table = [0; 16];
            table[1] = 2;
            let (bits, table) = if is_wide { (Bits::B2, None) } else { (Bits::B1, Some(&table)) };
            unpack(isa, bits, block.codes, table, levels);
            let grid = Grid {
                reduce,
                lanes: tokens,
                zero: u8::from(!is_wide),
                reduce_groups: &[reduce],
                lane_groups: &lane_groups,
                fold_scale: &block.scales,
                fold_offset: &block.offsets,
                lane_scale: &[],
                lane_offset: &[],
            };
            each(is_wide, &grid, levels);
        }
    }

    /// Every channel's row of tokens.
    fn rows(&self, isa: Isa, page: &[u8], work: &mut Work, mut each: impl FnMut(usize, &[f32])) {
        let tokens = self.shape.tokens;
        let (wide, narrow) = self.channels(page);
        let Work { levels, floats, .. } = work;
        self.matrices(isa, page, levels, |is_wide, grid, levels| {
            floats.clear();
            floats.resize(grid.reduce * tokens, 0.0);
            decode(isa, grid, levels, floats, tokens);
            if is_wide {
                wide.iter().zip(floats.chunks_exact(tokens)).for_each(|(&c, row)| each(c, row));
                return;
            }
            let mut row = [0.0; PAGE_TOKENS];
            for (&c, waves) in narrow.iter().zip(self.waves.chunks_exact(self.padded())) {
                let row = &mut row[..tokens];
                row.fill(0.0);
                add_combination(isa, &waves[..self.narrow], floats, row);
                each(c, row);
            }
        });
    }
}

impl Part for Spectral {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        let [bits, codes, grid, signs, magnitudes] = self.sizes();
        let all = [("wide channels", bits), ("codes", codes), ("scales and minima", grid), ("signs", signs)];
        let padding = (bits + codes + grid + signs + magnitudes).next_multiple_of(4) - (bits + codes + grid + signs);
        all.into_iter().chain([("magnitudes", padding)]).map(|(what, bytes)| Item::new(what, bytes)).collect()
    }

    fn describe(&self) -> String {
        let (wide, narrow) = (self.wide, self.narrow);
        format!(
            "the {wide} widest channels of a page at 2 bits, the spectrum of {narrow} as signs, groups of {GROUP} tokens"
        )
    }

    fn shared_bytes(&self) -> usize {
        4 * self.waves.len()
    }

    fn encode(&self, x: &[f32], _hints: Hints<'_>, to: &mut [u8]) {
        to.fill(0);
        let Shape { tokens, channels: d, .. } = self.shape;
        let column = |c: usize| x.iter().skip(c).step_by(d).copied();
        let reach = |c: usize| column(c).fold(f32::MIN, f32::max) - column(c).fold(f32::MAX, f32::min);
        let reaches: Vec<f32> = (0..d).map(reach).collect();
        let mut order: Vec<usize> = (0..d).collect();
        order.sort_by(|&a, &b| reaches[b].total_cmp(&reaches[a]));
        order[..self.wide].iter().for_each(|&c| to[c / 8] |= 1 << (c % 8));
        let (wide, narrow) = self.channels(to);

        let [bits, code_bytes, grid, signs, _] = self.sizes();
        let (_, rest) = to.split_at_mut(bits);
        let (to_codes, rest) = rest.split_at_mut(code_bytes);
        let (to_grid, rest) = rest.split_at_mut(grid);
        let (to_signs, to_magnitudes) = rest.split_at_mut(signs);
        let (to_steps, to_minima) = to_grid.split_at_mut(grid / 2);
        let groups = self.groups();
        // Level index of a matrix: four rows of a token side by side.
        let place = |row: usize, token: usize| (row / 4 * tokens + token) * 4 + row % 4;
        let put = |to: &mut [u8], at: usize, x: f32| to[2 * at..2 * at + 2].copy_from_slice(&half(x).to_le_bytes());

        let mut codes = vec![0; self.wide * tokens];
        for (row, &c) in wide.iter().enumerate() {
            let column: Vec<f32> = column(c).collect();
            for (g, group) in column.chunks_exact(GROUP).enumerate() {
                let (least, top) = group.iter().fold((f32::MAX, f32::MIN), |(a, b), &x| (a.min(x), b.max(x)));
                let (least, step) = (half(least).to_f32(), half((top - least) / 3.0).to_f32());
                put(to_steps, row * groups + g, step);
                put(to_minima, row * groups + g, least);
                let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
                for (t, x) in group.iter().enumerate() {
                    codes[place(row, g * GROUP + t)] = ((x - least) * inverse).round_ties_even().clamp(0.0, 3.0) as u8;
                }
            }
        }
        pack(Bits::B2, &codes, to_codes);

        let mut codes = vec![0; self.narrow * tokens];
        let mut sums = vec![0.0f64; self.narrow * groups];
        for (token, row) in x.chunks_exact(d).enumerate() {
            let mut spectrum = vec![0.0f64; self.narrow];
            for (&c, waves) in narrow.iter().zip(self.waves.chunks_exact(self.padded())) {
                spectrum.iter_mut().zip(waves).for_each(|(y, &w)| *y += f64::from(row[c]) * f64::from(w));
            }
            for (j, y) in spectrum.iter().enumerate() {
                codes[place(j, token)] = u8::from(*y > 0.0);
                sums[j * groups + token / GROUP] += y.abs();
            }
        }
        pack(Bits::B1, &codes, to_signs);
        sums.iter().enumerate().for_each(|(at, sum)| put(to_magnitudes, at, (sum / GROUP as f64) as f32));
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let d = self.shape.channels;
        self.rows(Isa::Portable, page, &mut Work::default(), |c, row| {
            x.iter_mut().skip(c).step_by(d).zip(row).for_each(|(x, row)| *x += row);
        });
    }

    fn fused(&self) -> bool {
        true
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let (rows, width, padded) = (queries.rows, self.shape.width(), self.padded());
        let (wide, narrow) = self.channels(page);
        let Work { levels, floats, kernel, .. } = work;
        floats.clear();
        floats.resize(rows * (self.wide + padded), 0.0);
        let (of_wide, of_narrow) = floats.split_at_mut(rows * self.wide);
        for (row, q) in queries.q.chunks_exact(width).enumerate() {
            let to = &mut of_wide[row * self.wide..][..self.wide];
            to.iter_mut().zip(&wide).for_each(|(to, &c)| *to = q[c]);
            // The spectrum of the query's share: the waves are orthonormal.
            let mut share = [0.0; 256];
            share.iter_mut().zip(&narrow).for_each(|(to, &c)| *to = q[c]);
            let to = &mut of_narrow[row * padded..][..padded];
            add_combination(isa, &share[..self.narrow], &self.waves, to);
        }
        self.matrices(isa, page, levels, |is_wide, grid, levels| {
            let (x, stride) = if is_wide { (&*of_wide, self.wide) } else { (&*of_narrow, padded) };
            multiply(isa, grid, Codes::Levels(levels), Given::Plain { x, stride }, rows, kernel, scores, PAGE_TOKENS);
        });
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        self.rows(isa, page, work, |c, row| {
            tile[c * PAGE_TOKENS..].iter_mut().zip(row).for_each(|(to, x)| *to += x);
        });
    }
}
