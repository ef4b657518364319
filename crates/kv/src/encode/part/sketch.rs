//! Signs of random projections: QJL (Zandieh et al., 2024) on its own, the residual stage of TurboQuant's inner-product
//! variant (Zandieh et al., 2025) after another part.

mod matrix;

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::stage::{Args, Built, Context, StageEntry, StageError};
use super::fields::{put_halves, read_halves};
use super::lanes::{add_combination, add_scaled};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::codes::{Bits, Codes, Given, Grid, Levels, Scratch, multiply, pack, packed_bytes, unpack};
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
    outlier_m: usize,
}

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
    Ok(Built::Part(Arc::new(Sketch { shape: context.shape(), matrix, outliers, outlier_m })))
}

/// Where the bytes of a page lie.
struct Fields<'a> {
    signs: &'a [u8],
    outlier_signs: &'a [u8],
    lengths: Vec<f32>,
    outlier_lengths: Vec<f32>,
    channels: Vec<usize>,
}

impl Sketch {
    fn sizes(&self) -> [usize; 4] {
        let tokens = self.shape.tokens;
        let lengths = 2 * tokens * if self.outliers > 0 { 2 } else { 1 };
        let signs = |m: usize| packed_bytes(Bits::B1, m * tokens);
        [signs(self.matrix.m), signs(self.outlier_m), lengths, self.outliers.next_multiple_of(4)]
    }

    fn fields<'a>(&self, isa: Isa, page: &'a [u8]) -> Fields<'a> {
        let [signs, outlier_signs, lengths, _] = self.sizes();
        let (signs, rest) = page.split_at(signs);
        let (outlier_signs, rest) = rest.split_at(outlier_signs);
        let (lengths, rest) = rest.split_at(lengths);
        let mut whole = vec![0.0; lengths.len() / 2];
        read_halves(isa, lengths, &mut whole);
        let outlier_lengths = whole.split_off(self.shape.tokens);
        // What is left of a key without its outliers; rounding may make that negative.
        let inner = |(&a, &b): (&f32, &f32)| (a * a - b * b).max(0.0).sqrt();
        let lengths = match self.outliers {
            0 => whole,
            _ => whole.iter().zip(&outlier_lengths).map(inner).collect(),
        };
        let last = self.shape.channels - 1;
        let channels = rest[..self.outliers].iter().map(|&c| usize::from(c).min(last)).collect();
        Fields { signs, outlier_signs, lengths, outlier_lengths, channels }
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

    /// `scores += factors · signs`, `[rows][m of all]` factors.
    #[allow(clippy::too_many_arguments)]
    fn estimate(
        &self,
        isa: Isa,
        (signs, lengths, m): (&[u8], &[f32], usize),
        factors: &[f32],
        rows: usize,
        levels: &mut Levels,
        kernel: &mut Scratch,
        scores: &mut [f32],
    ) {
        let tokens = self.shape.tokens;
        let mut table = [0; 16];
        table[1] = 2;
        levels.resize(m * tokens, 0);
        unpack(isa, Bits::B1, signs, Some(&table), levels);
        let ends: Vec<usize> = (0..m).step_by(GROUP).map(|first| (first + GROUP).min(m)).collect();
        let constant = self.matrix.constant(m);
        let lane_scale: Vec<f32> = ends.iter().flat_map(|_| lengths.iter().map(|l| l * constant)).collect();
        let grid = Grid {
            reduce: m,
            lanes: tokens,
            zero: 1,
            reduce_groups: &ends,
            lane_groups: &[tokens],
            fold_scale: &[],
            fold_offset: &[],
            lane_scale: &lane_scale,
            lane_offset: &[],
        };
        let given = Given::Plain { x: factors, stride: self.matrix.m };
        multiply(isa, &grid, Codes::Levels(levels), given, rows, kernel, scores, PAGE_TOKENS);
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
            n => format!(", and of {} projections of the {n} widest channels of a page", self.outlier_m),
        };
        format!("signs of {} random projections{outliers}", self.matrix.m)
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
        self.put_signs(&inner, self.matrix.m, to_signs);
        self.put_signs(&outer, self.outlier_m, to_outlier_signs);
        let lengths = x.chunks_exact(d).map(length).chain(outer.chunks_exact(d).map(length));
        put_halves(to_lengths, lengths);
        to_channels.fill(0);
        to_channels.iter_mut().zip(&widest).for_each(|(to, &c)| *to = c as u8);
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let Shape { tokens, channels: d, .. } = self.shape;
        let fields = self.fields(Isa::Portable, page);
        let mut add = |packed: &[u8], lengths: &[f32], m: usize, wanted: &dyn Fn(usize) -> bool| {
            let mut signs = vec![0; m * tokens];
            unpack(Isa::Portable, Bits::B1, packed, None, &mut signs);
            let constant = self.matrix.constant(m);
            for (token, (x, length)) in x.chunks_exact_mut(d).zip(lengths).enumerate() {
                let mut sum = vec![0.0f32; d];
                for i in 0..m {
                    let sign = if signs[(i / 4 * tokens + token) * 4 + i % 4] == 0 { -1.0 } else { 1.0 };
                    sum.iter_mut().zip(self.matrix.row(i)).for_each(|(sum, s)| *sum += sign * s);
                }
                for c in (0..d).filter(|&c| wanted(c)) {
                    x[c] += length * constant * sum[c];
                }
            }
        };
        add(fields.signs, &fields.lengths, self.matrix.m, &|c| !fields.channels.contains(&c));
        add(fields.outlier_signs, &fields.outlier_lengths, self.outlier_m, &|c| fields.channels.contains(&c));
    }

    fn fused(&self) -> bool {
        true
    }

    fn prepare(&self, isa: Isa, q: &[f32], rows: usize, state: &mut Vec<f32>) {
        let m = self.matrix.m;
        state.clear();
        state.resize(rows * m, 0.0);
        for (q, u) in q.chunks_exact(self.shape.width()).zip(state.chunks_exact_mut(m)) {
            add_combination(isa, &q[..self.shape.channels], self.matrix.columns(), u);
        }
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let (rows, m, fields) = (queries.rows, self.matrix.m, self.fields(isa, page));
        let Work { levels, kernel, floats, .. } = work;
        let signs = (fields.signs, &fields.lengths[..], m);
        if self.outliers == 0 {
            self.estimate(isa, signs, queries.state, rows, levels, kernel, scores);
            return;
        }
        // The share of the outlier channels in every projection, and what is left of it.
        floats.clear();
        floats.resize(2 * rows * m, 0.0);
        let (outer, inner) = floats.split_at_mut(rows * m);
        for (row, (outer, inner)) in outer.chunks_exact_mut(m).zip(inner.chunks_exact_mut(m)).enumerate() {
            for &c in &fields.channels {
                add_scaled(isa, queries.q[row * self.shape.width() + c], self.matrix.column(c), outer);
            }
            inner.copy_from_slice(&queries.state[row * m..][..m]);
            add_scaled(isa, -1.0, outer, inner);
        }
        self.estimate(isa, signs, inner, rows, levels, kernel, scores);
        let signs = (fields.outlier_signs, &fields.outlier_lengths[..], self.outlier_m);
        self.estimate(isa, signs, outer, rows, levels, kernel, scores);
    }
}
