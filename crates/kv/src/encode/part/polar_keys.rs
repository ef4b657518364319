//! Rotary pairs of keys as radius and angle: PolarQuant of Wu et al., 2025.

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::math::elementary::atan2;
use super::super::stage::{Args, Built, Context, StageEntry, StageError};
use super::fields::{self, halves};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::polar::{Pairs, middles, score_pairs, spread, tables};
use half::f16;
use std::f64::consts::TAU;
use std::sync::Arc;

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "keypolar",
    summary: "keys: rotary pairs as radius and angle on grids over the page; keypolar(radius=4, angle=4)",
    build,
    calibrate: None,
};

/// Per pair of channels that turn together: codes of the radii, codes of the angles, each `[tokens]` fields, then the
/// smallest radius, the step of the radii, the smallest angle and the step of the angles as half floats.
#[derive(Clone, Debug)]
struct PolarKeys {
    shape: Shape,
    pairs: Vec<[usize; 2]>,
    radius_bits: usize,
    angle_bits: usize,
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let radius_bits = args.integer("radius", 4, 1..=8)?;
    let angle_bits = args.integer("angle", 4, 1..=4)?;
    args.done()?;
    if context.side == Side::Values {
        return Err(args.error("is for keys after rotary position; write values in another format"));
    }
    let d = context.channels;
    // Channels that do not turn are paired among themselves.
    let rotated = context.rope.map_or(d, |rope| rope.rotated()).min(d);
    let paired = |first: usize, n: usize| (0..n / 2).map(move |i| [first + i, first + n / 2 + i]);
    if !d.is_multiple_of(2) || !rotated.is_multiple_of(2) {
        return Err(args.error(format!("{d} channels, {rotated} of them rotated, are no pairs")));
    }
    let pairs = paired(0, rotated).chain(paired(rotated, d - rotated)).collect();
    Ok(Built::Part(Arc::new(PolarKeys { shape: context.shape(), pairs, radius_bits, angle_bits })))
}

/// The largest half float that is not larger, the smallest that is not smaller.
fn outwards(x: f64) -> (f16, f16) {
    let near = f16::from_f64(x.clamp(-65504.0, 65504.0));
    let next = |up: bool| {
        let bits = near.to_bits();
        let away = (near.to_f64() > 0.0) == up;
        match near.to_f64() == 0.0 {
            true => f16::from_bits(if up { 1 } else { 0x8001 }),
            false if away && near.to_f64().abs() < 65504.0 => f16::from_bits(bits + 1),
            false if away => near,
            false => f16::from_bits(bits - 1),
        }
    };
    match near.to_f64() - x {
        off if off > 0.0 => (next(false), near),
        off if off < 0.0 => (near, next(true)),
        _ => (near, near),
    }
}

/// Codes of `x` in cells of equal width, the start of the first and the width.
fn cells(bits: usize, x: &[f64]) -> (Vec<u16>, [f16; 2]) {
    let top = x.iter().fold(f64::NEG_INFINITY, |top, &x| top.max(x));
    let (first, _) = outwards(x.iter().fold(f64::INFINITY, |least, &x| least.min(x)));
    let (_, step) = outwards((top - first.to_f64()).max(0.0) / f64::from(1 << bits));
    let last = f64::from((1 << bits) - 1);
    // With a step of zero the quotient is not a number, which becomes zero.
    let code = |x: &f64| ((x - first.to_f64()) / step.to_f64()).clamp(0.0, last) as u16;
    (x.iter().map(code).collect(), [first, step])
}

/// Angles from 0 or from -π, whichever spans less: a cluster about the one cut does not straddle the other.
fn least_span(mut angles: Vec<f64>) -> Vec<f64> {
    let span = |angles: &[f64]| {
        let ends = angles.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
        ends.1 - ends.0
    };
    let turned: Vec<f64> = angles.iter().map(|&x| if x < 0.0 { x + TAU } else { x }).collect();
    if span(&turned) <= span(&angles) {
        angles = turned;
    }
    angles
}

/// What a page says of its pairs, widened.
struct Widened<'a> {
    tables: &'a mut [f32],
    radii: &'a mut [f32],
}

impl PolarKeys {
    fn sizes(&self) -> [usize; 2] {
        [self.radius_bits, self.angle_bits].map(|bits| fields::bytes(bits, self.shape.tokens))
    }

    fn pair_bytes(&self) -> usize {
        self.sizes().iter().sum::<usize>() + 8
    }

    /// Tables, `[pairs][2][16]`, and radii, `[pairs][PAGE_TOKENS]`, into `floats`; codes of the angles into `codes`.
    fn widen<'a>(&self, isa: Isa, page: &[u8], floats: &'a mut Vec<f32>, codes: &mut Vec<u16>) -> Widened<'a> {
        let n = self.pairs.len();
        let [radius, angle] = self.sizes();
        if self.shape.tokens < PAGE_TOKENS {
            // Tokens that are not there have no radius.
            floats.clear();
            codes.clear();
        }
        floats.resize(n * (32 + PAGE_TOKENS), 0.0);
        codes.resize(n * PAGE_TOKENS, 0);
        let (table, radii) = floats.split_at_mut(n * 32);
        let mut one = [0; PAGE_TOKENS];
        let one = &mut one[..self.shape.tokens];
        let to = table.chunks_exact_mut(32).zip(radii.chunks_exact_mut(PAGE_TOKENS));
        let to = to.zip(codes.chunks_exact_mut(PAGE_TOKENS));
        for (bytes, ((table, radii), angles)) in page.chunks_exact(self.pair_bytes()).zip(to) {
            let mut grid = [0.0; 4];
            grid.iter_mut().zip(halves(&bytes[radius + angle..])).for_each(|(to, x)| *to = x);
            fields::unpack(self.radius_bits, &bytes[..radius], one);
            middles(isa, one, grid[0], grid[1], &mut radii[..one.len()]);
            fields::unpack(self.angle_bits, &bytes[radius..radius + angle], &mut angles[..one.len()]);
            tables(isa, &[[grid[2], grid[3]]], table);
        }
        Widened { tables: table, radii }
    }

    /// The rows of every pair's two channels, `[tokens]` each.
    fn rows(&self, isa: Isa, page: &[u8], work: &mut Work, mut each: impl FnMut(usize, &[f32])) {
        let Work { floats, codes, .. } = work;
        let Widened { tables, radii } = self.widen(isa, page, floats, codes);
        let mut row = [0.0; PAGE_TOKENS];
        for (p, pair) in self.pairs.iter().enumerate() {
            let (radii, angles) = (&radii[p * PAGE_TOKENS..][..PAGE_TOKENS], &codes[p * PAGE_TOKENS..][..PAGE_TOKENS]);
            for (i, &channel) in pair.iter().enumerate() {
                let mut table = [0.0; 16];
                table.copy_from_slice(&tables[p * 32 + i * 16..][..16]);
                spread(isa, &table, angles, radii, &mut row);
                each(channel, &row[..self.shape.tokens]);
            }
        }
    }
}

impl Part for PolarKeys {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        let [radius, angle] = self.sizes().map(|bytes| bytes * self.pairs.len());
        vec![Item::new("radii", radius), Item::new("angles", angle), Item::new("scales", 8 * self.pairs.len())]
    }

    fn describe(&self) -> String {
        let Shape { tokens, .. } = self.shape;
        format!(
            "rotary pairs: radii of {} and angles of {} bits over {tokens} tokens",
            self.radius_bits, self.angle_bits
        )
    }

    fn encode(&self, x: &[f32], _hints: Hints<'_>, to: &mut [u8]) {
        let d = self.shape.channels;
        let [radius, angle] = self.sizes();
        for (&[a, b], to) in self.pairs.iter().zip(to.chunks_exact_mut(self.pair_bytes())) {
            let pair = |row: &[f32]| (f64::from(row[a]), f64::from(row[b]));
            let radii: Vec<f64> = x.chunks_exact(d).map(pair).map(|(x, y)| (x * x + y * y).sqrt()).collect();
            let angles = least_span(x.chunks_exact(d).map(pair).map(|(x, y)| atan2(y, x)).collect());
            let (radii, radius_grid) = cells(self.radius_bits, &radii);
            let (angles, angle_grid) = cells(self.angle_bits, &angles);
            let (to_radii, rest) = to.split_at_mut(radius);
            let (to_angles, to_grid) = rest.split_at_mut(angle);
            fields::pack(self.radius_bits, &radii, to_radii);
            fields::pack(self.angle_bits, &angles, to_angles);
            let grid = radius_grid.iter().chain(&angle_grid);
            to_grid.chunks_exact_mut(2).zip(grid).for_each(|(to, x)| to.copy_from_slice(&x.to_le_bytes()));
        }
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let d = self.shape.channels;
        self.rows(Isa::Portable, page, &mut Work::default(), |channel, row| {
            x.iter_mut().skip(channel).step_by(d).zip(row).for_each(|(x, row)| *x += row);
        });
    }

    fn fused(&self) -> bool {
        true
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let Work { floats, codes, .. } = work;
        let Widened { tables, radii } = self.widen(isa, page, floats, codes);
        let pairs = Pairs { channels: &self.pairs, tables, radii, angles: codes };
        score_pairs(isa, queries.q, self.shape.width(), pairs, scores);
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        self.rows(isa, page, work, |channel, row| {
            tile[channel * PAGE_TOKENS..].iter_mut().zip(row).for_each(|(to, x)| *to += x);
        });
    }
}
