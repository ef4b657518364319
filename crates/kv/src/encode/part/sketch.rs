//! Signs of random projections: QJL (Zandieh et al., 2024) on its own, the residual stage of TurboQuant's inner-product
//! variant (Zandieh et al., 2025) after another part.

mod matrix;

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::stage::{Args, Built, Context, StageEntry, StageError};
use super::fields::{put_halves, read_halves};
use super::lanes::{add_combination, take_apart};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::codes::{
    Bits, Codes, Given, Grid, Levels, Scratch, multiply, pack, packed_bytes, reads_packed, round, unpack,
};
use matrix::Matrix;
use std::sync::Arc;

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "sketch",
    summary: "keys: signs of random projections, sketch(m=N or times=1 (times the channels), outliers=0, \
              outlier_m=m or outlier_times=N, seed=0)",
    build,
    calibrate: None,
};

/// Rows of a reduce group of the integer kernel.
const GROUP: usize = 256;

/// `q · k ≈ c |k| Σ_i (S q)_i sign((S k)_i)`, and the same for the part of a key within the outlier channels.
///
/// A page is the signs `[m][tokens]`, the signs of the outliers `[outlier_m][tokens]`, the lengths of the keys and of
/// what lies in their outlier channels as half floats, the numbers of these channels as bytes.
#[derive(Clone, Debug)]
struct Sketch {
    shape: Shape,
    matrix: Arc<Matrix>,
    outliers: usize,
    all: Signs,
    /// Of the outliers' part.
    few: Signs,
}

/// Signs of the first projections.
#[derive(Clone, Debug)]
struct Signs {
    m: usize,
    /// Ends of the kernel's groups of them.
    ends: Vec<usize>,
    /// See [`Matrix::constant`].
    constant: f32,
}

impl Signs {
    fn of(matrix: &Matrix, m: usize) -> Signs {
        let ends = (0..m).step_by(GROUP).map(|first| (first + GROUP).min(m)).collect();
        Signs { m, ends, constant: if m > 0 { matrix.constant(m) } else { 0.0 } }
    }

    /// Signs as levels of zero and two, which count from one.
    fn grid<'a>(&'a self, lanes: &'a [usize; 1], lane_scale: &'a [f32]) -> Grid<'a> {
        Grid {
            reduce: self.m,
            lanes: lanes[0],
            zero: 1,
            reduce_groups: &self.ends,
            lane_groups: lanes,
            fold_scale: &[],
            fold_offset: &[],
            lane_scale,
            lane_offset: &[],
        }
    }
}

/// What the bits of signs are.
const LEVELS: [u8; 16] = [0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let (d, tokens) = (context.channels, context.tokens);
    let m = match args.integer("m", 0, 0..=4096)? {
        0 => d * args.integer("times", 1, 1..=16)?,
        m => m,
    };
    let outliers = args.integer("outliers", 0, 0..=d.min(64))?;
    let outlier_m = match args.integer("outlier_times", 0, 0..=16)? {
        0 => args.integer("outlier_m", if outliers > 0 { m } else { 0 }, 0..=4096)?,
        times => times * d,
    };
    let seed = args.integer("seed", 0, 0..=u32::MAX as usize)?;
    args.done()?;
    if context.side == Side::Values {
        return Err(args.error("estimates scores, so it is for keys; write values in another format"));
    }
    for (name, m) in [("m", m), ("outlier_m", outlier_m)] {
        if !(m * tokens).is_multiple_of(512) || !m.is_multiple_of(16) {
            return Err(args.error(format!("{name}={m} signs do not fill whole words; choose a multiple of 32")));
        }
    }
    if outlier_m > m || (outlier_m == 0) != (outliers == 0) || d > 256 {
        return Err(
            args.error("outlier_m is at most m, and not zero where there are outliers, of at most 256 channels")
        );
    }
    let matrix = Matrix::shared(d, m, seed as u64);
    let (all, few) = (Signs::of(&matrix, m), Signs::of(&matrix, outlier_m));
    Ok(Built::Part(Arc::new(Sketch { shape: context.shape(), matrix, outliers, all, few })))
}

/// Where the bytes of a page lie.
struct Fields<'a> {
    signs: &'a [u8],
    outlier_signs: &'a [u8],
    /// Those of the tokens, then zeros.
    lengths: [f32; PAGE_TOKENS],
    outlier_lengths: [f32; PAGE_TOKENS],
    channels: &'a [u8],
}

impl Sketch {
    fn sizes(&self) -> [usize; 4] {
        let tokens = self.shape.tokens;
        let lengths = 2 * tokens * if self.outliers > 0 { 2 } else { 1 };
        let signs = |m: usize| packed_bytes(Bits::B1, m * tokens);
        [signs(self.all.m), signs(self.few.m), lengths, self.outliers.next_multiple_of(4)]
    }

    fn fields<'a>(&self, isa: Isa, page: &'a [u8]) -> Fields<'a> {
        let [signs, outlier_signs, lengths, _] = self.sizes();
        let (signs, rest) = page.split_at(signs);
        let (outlier_signs, rest) = rest.split_at(outlier_signs);
        let (lengths, rest) = rest.split_at(lengths);
        let tokens = self.shape.tokens;
        let (mut whole, mut outlier_lengths) = ([0.0; PAGE_TOKENS], [0.0; PAGE_TOKENS]);
        read_halves(isa, &lengths[..2 * tokens], &mut whole[..tokens]);
        if self.outliers > 0 {
            read_halves(isa, &lengths[2 * tokens..], &mut outlier_lengths[..tokens]);
            // What is left of a key without its outliers; rounding may make that negative.
            for (a, b) in whole.iter_mut().zip(&outlier_lengths) {
                *a = (*a * *a - b * b).max(0.0).sqrt();
            }
        }
        Fields { signs, outlier_signs, lengths: whole, outlier_lengths, channels: &rest[..self.outliers] }
    }

    /// The outlier channels of a page.
    fn channels(&self, fields: &Fields<'_>) -> impl Iterator<Item = usize> {
        let last = self.shape.channels - 1;
        fields.channels.iter().map(move |&c| usize::from(c).min(last))
    }

    /// Signs as levels of zero and two, which count from one; packed `[m/4][tokens][4]`.
    fn put_signs(&self, x: &[f32], m: usize, to: &mut [u8]) {
        let tokens = self.shape.tokens;
        let mut codes = vec![0u8; m * tokens];
        for (token, row) in x.chunks_exact(self.shape.channels).enumerate() {
            for (i, positive) in self.matrix.signs(row).into_iter().enumerate().take(m) {
                codes[(i / 4 * tokens + token) * 4 + i % 4] = u8::from(positive);
            }
        }
        pack(Bits::B1, &codes, to);
    }

    /// `scores += factors · signs`.
    #[allow(clippy::too_many_arguments)]
    fn estimate(
        &self,
        isa: Isa,
        (signs, packed, lengths): (&Signs, &[u8], &[f32; PAGE_TOKENS]),
        factors: Given<'_>,
        rows: usize,
        levels: &mut Levels,
        kernel: &mut Scratch,
        scores: &mut [f32],
    ) {
        let lanes = [self.shape.tokens];
        let scaled = lengths.map(|length| length * signs.constant);
        let (one, several);
        let lane_scale = match signs.ends.len() {
            1 => {
                one = &scaled[..lanes[0]];
                one
            }
            groups => {
                several = scaled[..lanes[0]].repeat(groups);
                &several[..]
            }
        };
        let grid = signs.grid(&lanes, lane_scale);
        let codes = match reads_packed(isa, &grid, rows) {
            true => Codes::Packed { bits: Bits::B1, packed, table: Some(&LEVELS) },
            false => {
                levels.resize(signs.m * lanes[0], 0);
                unpack(isa, Bits::B1, packed, Some(&LEVELS), levels);
                Codes::Levels(levels)
            }
        };
        multiply(isa, &grid, codes, factors, rows, kernel, scores, PAGE_TOKENS);
    }
}

impl Part for Sketch {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        let [signs, outlier_signs, lengths, channels] = self.sizes();
        let items =
            [("signs", signs), ("outlier signs", outlier_signs), ("lengths", lengths), ("outlier channels", channels)];
        items.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(what, bytes)| Item::new(what, bytes)).collect()
    }

    fn describe(&self) -> String {
        let outliers = match self.outliers {
            0 => String::new(),
            n => format!(", and of {} projections of the {n} widest channels of a page", self.few.m),
        };
        format!("signs of {} random projections{outliers}", self.all.m)
    }

    fn shared_bytes(&self) -> usize {
        self.matrix.bytes()
    }

    fn encode(&self, x: &[f32], _hints: Hints<'_>, to: &mut [u8]) {
        let d = self.shape.channels;
        let [signs, outlier_signs, lengths, _] = self.sizes();
        let (to_signs, rest) = to.split_at_mut(signs);
        let (to_outlier_signs, rest) = rest.split_at_mut(outlier_signs);
        let (to_lengths, to_channels) = rest.split_at_mut(lengths);
        let square = |x: &f32| f64::from(*x) * f64::from(*x);
        let length = |x: &[f32]| x.iter().map(square).sum::<f64>().sqrt() as f32;

        let mut power = vec![0.0f64; d];
        x.chunks_exact(d).for_each(|row| power.iter_mut().zip(row).for_each(|(p, x)| *p += square(x)));
        let mut widest: Vec<usize> = (0..d).collect();
        widest.sort_by(|&a, &b| power[b].total_cmp(&power[a]));
        widest.truncate(self.outliers);
        widest.sort_unstable();

        let mut inner = x.to_vec();
        let mut outer = vec![0.0; if self.outliers > 0 { x.len() } else { 0 }];
        for (inner, outer) in inner.chunks_exact_mut(d).zip(outer.chunks_exact_mut(d)) {
            widest.iter().for_each(|&c| std::mem::swap(&mut inner[c], &mut outer[c]));
        }
        self.put_signs(&inner, self.all.m, to_signs);
        self.put_signs(&outer, self.few.m, to_outlier_signs);
        let lengths = x.chunks_exact(d).map(length).chain(outer.chunks_exact(d).map(length));
        put_halves(to_lengths, lengths);
        to_channels.fill(0);
        to_channels.iter_mut().zip(&widest).for_each(|(to, &c)| *to = c as u8);
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let Shape { tokens, channels: d, .. } = self.shape;
        let fields = self.fields(Isa::Portable, page);
        let mut add =
            |packed: &[u8], lengths: &[f32], Signs { m, constant, .. }: &Signs, wanted: &dyn Fn(usize) -> bool| {
                let mut signs = vec![0; m * tokens];
                unpack(Isa::Portable, Bits::B1, packed, None, &mut signs);
                for (token, (x, length)) in x.chunks_exact_mut(d).zip(lengths).enumerate() {
                    let mut sum = vec![0.0f32; d];
                    for i in 0..*m {
                        let sign = if signs[(i / 4 * tokens + token) * 4 + i % 4] == 0 { -1.0 } else { 1.0 };
                        sum.iter_mut().zip(self.matrix.row(i)).for_each(|(sum, s)| *sum += sign * s);
                    }
                    for c in (0..d).filter(|&c| wanted(c)) {
                        x[c] += length * constant * sum[c];
                    }
                }
            };
        let outer = |c: usize| self.channels(&fields).any(|outer| outer == c);
        add(fields.signs, &fields.lengths, &self.all, &|c| !outer(c));
        add(fields.outlier_signs, &fields.outlier_lengths, &self.few, &outer);
    }

    fn fused(&self) -> bool {
        true
    }

    fn prepare(&self, isa: Isa, q: &[f32], rows: usize, state: &mut Vec<f32>) {
        let m = self.all.m;
        let mut factors = vec![0.0; rows * m];
        for (q, u) in q.chunks_exact(self.shape.width()).zip(factors.chunks_exact_mut(m)) {
            add_combination(isa, &q[..self.shape.channels], self.matrix.columns(), u);
        }
        match self.outliers {
            // Every page has the same products with them.
            0 => {
                let (lanes, lengths) = ([self.shape.tokens], vec![0.0; self.shape.tokens * self.all.ends.len()]);
                round(isa, &self.all.grid(&lanes, &lengths), &factors, m, rows, state);
            }
            _ => *state = factors,
        }
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let (rows, m, fields) = (queries.rows, self.all.m, self.fields(isa, page));
        let Work { levels, kernel, floats, .. } = work;
        let all = (&self.all, fields.signs, &fields.lengths);
        if self.outliers == 0 {
            self.estimate(isa, all, Given::Rounded(queries.state), rows, levels, kernel, scores);
            return;
        }
        // The share of the outlier channels in every projection, and what is left of it.
        floats.clear();
        floats.resize(2 * rows * m, 0.0);
        let (outer, inner) = floats.split_at_mut(rows * m);
        let columns: Vec<&[f32]> = self.channels(&fields).map(|c| self.matrix.column(c)).collect();
        let mut factors = vec![0.0; columns.len()];
        for (row, (outer, inner)) in outer.chunks_exact_mut(m).zip(inner.chunks_exact_mut(m)).enumerate() {
            let q = &queries.q[row * self.shape.width()..];
            factors.iter_mut().zip(self.channels(&fields)).for_each(|(factor, c)| *factor = q[c]);
            take_apart(isa, &queries.state[row * m..][..m], &factors, &columns, outer, inner);
        }
        self.estimate(isa, all, Given::Plain { x: inner, stride: m }, rows, levels, kernel, scores);
        let few = (&self.few, fields.outlier_signs, &fields.outlier_lengths);
        self.estimate(isa, few, Given::Plain { x: outer, stride: m }, rows, levels, kernel, scores);
    }
}
