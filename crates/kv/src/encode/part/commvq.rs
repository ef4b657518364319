//! Residual words that turn as keys do: CommVQ (Li et al., 2025).
//!
//! With channels in rotary pairs read as complex numbers, a word is `u_A + i u_B` for two of 64 parameters of a stage. The
//! turn of a position is a product with a complex number, so the word of a turned key is made of the turned parameters.

mod train;

use super::super::codec::{Hints, Item, Part, Shape, Side, Work};
use super::super::stage::{Args, Built, Context, NamedTensor, Samples, StageEntry, StageError};
use super::fields::{self, halves, put_halves};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::residual::{Residual, sum_words};
use cachalot_kernels::transpose::add_transposed;
use std::sync::Arc;
use train::{Stage, train};

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "commvq",
    summary: "residual words that commute with rotary position, from a profile; commvq(bits=2 (1 or 2, an element) or \
              stages=N, iterations=12)",
    build,
    calibrate: Some(calibrate),
};

/// Parameters of a stage, and the bits that name one.
const PARAMETERS: usize = 64;
const BITS: usize = 6;

/// Per stage the numbers `A`, then `B`, each `[tokens]` fields; then the lengths of the rows as half floats.
struct CommVq {
    shape: Shape,
    /// What is added up.
    residual: Residual,
    /// The same for the search of words.
    stages: Vec<Stage>,
}

impl std::fmt::Debug for CommVq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommVq").field("shape", &self.shape).field("stages", &self.stages.len()).finish()
    }
}

struct Options {
    stages: usize,
    iterations: usize,
}

fn options(args: &Args, context: &Context<'_>) -> Result<Options, StageError> {
    let d = context.channels;
    let bits = args.integer("bits", 2, 1..=2)?;
    let stages = match args.integer("stages", 0, 0..=64)? {
        0 => (bits * d + BITS) / (2 * BITS),
        stages => stages,
    };
    let iterations = args.integer("iterations", 12, 1..=200)?;
    args.done()?;
    let rotated = context.rope.map_or(d, |rope| rope.rotated());
    if !d.is_multiple_of(2) || rotated != d {
        return Err(args.error(format!(
            "words turn all {d} channels in pairs, but {rotated} turn in this model; choose another part"
        )));
    }
    Ok(Options { stages, iterations })
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let stages = options(args, context)?.stages;
    let d = context.channels;
    let parameters = context.tensor(args, "parameters", &[stages, PARAMETERS, d])?;
    if parameters.iter().any(|x| !x.is_finite()) {
        return Err(args.error("the profile has parameters that are not finite; calibrate again"));
    }
    let residual = Residual::new(parameters, stages, PARAMETERS, d);
    let rounded = residual.parameters();
    let stages = rounded.chunks_exact(PARAMETERS * d).map(|u| Stage::new(u.to_vec(), d)).collect();
    Ok(Built::Part(Arc::new(CommVq { shape: context.shape(), residual, stages })))
}

fn calibrate(args: &Args, context: &Context<'_>, samples: &Samples<'_>) -> Result<Vec<NamedTensor>, StageError> {
    let Options { stages, iterations } = options(args, context)?;
    let d = context.channels;
    let data = train(samples.rows, d, stages, iterations, samples.seed);
    let name = context.tensor_name("parameters");
    Ok(vec![NamedTensor { name, shape: vec![stages, PARAMETERS, d], data }])
}

/// A row of length one, and its length.
fn normalised(row: &[f32]) -> (Vec<f32>, f32) {
    let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let unit = if length > 0.0 { 1.0 / length } else { 0.0 };
    (row.iter().map(|&x| (f64::from(x) * unit) as f32).collect(), length as f32)
}

impl CommVq {
    /// Bytes of the numbers of a stage.
    fn stage_bytes(&self) -> usize {
        2 * fields::bytes(BITS, self.shape.tokens)
    }

    /// Decoded rows, `[tokens][width]`.
    fn rows(&self, isa: Isa, page: &[u8], work: &mut Work) {
        let (tokens, width) = (self.shape.tokens, self.shape.width());
        let (packed, lengths) = page.split_at(self.stages.len() * self.stage_bytes());
        let Work { floats, codes: numbers, .. } = work;
        numbers.resize(2 * self.stages.len() * tokens, 0);
        fields::unpack_runs(isa, BITS, packed, tokens, numbers);
        let mut of_rows = [0.0; PAGE_TOKENS];
        of_rows.iter_mut().zip(halves(lengths)).for_each(|(to, length)| *to = length);
        floats.clear();
        floats.resize(tokens * width, 0.0);
        sum_words(isa, &self.residual, numbers, &of_rows[..tokens], width, floats);
    }
}

impl Part for CommVq {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        let codes = self.stages.len() * self.stage_bytes();
        vec![Item::new("codes", codes), Item::new("lengths", 2 * self.shape.tokens)]
    }

    fn describe(&self) -> String {
        format!("{} residual words of {} bits that commute with rotary position", self.stages.len(), 2 * BITS)
    }

    fn shared_bytes(&self) -> usize {
        self.residual.bytes() + self.stages.iter().map(Stage::bytes).sum::<usize>()
    }

    fn encode(&self, x: &[f32], _hints: Hints<'_>, to: &mut [u8]) {
        let Shape { tokens, channels, .. } = self.shape;
        let isa = Isa::detect();
        let mut lengths = Vec::with_capacity(tokens);
        let mut codes = vec![0u16; self.stages.len() * 2 * tokens];
        for (token, row) in x.chunks_exact(channels).enumerate() {
            let (mut rest, length) = normalised(row);
            lengths.push(length);
            for (i, stage) in self.stages.iter().enumerate() {
                let (a, b) = stage.nearest(isa, &rest);
                (codes[2 * i * tokens + token], codes[(2 * i + 1) * tokens + token]) = (a as u16, b as u16);
                stage.subtract(a, b, &mut rest);
            }
        }
        let (to_codes, to_lengths) = to.split_at_mut(self.stages.len() * self.stage_bytes());
        for (codes, to) in codes.chunks_exact(tokens).zip(to_codes.chunks_exact_mut(self.stage_bytes() / 2)) {
            fields::pack(BITS, codes, to);
        }
        put_halves(to_lengths, lengths.into_iter());
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let mut work = Work::default();
        self.rows(Isa::Portable, page, &mut work);
        for (x, row) in x.chunks_exact_mut(self.shape.channels).zip(work.floats.chunks_exact(self.shape.width())) {
            x.iter_mut().zip(row).for_each(|(x, row)| *x += row);
        }
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let (width, channels) = (self.shape.width(), self.shape.channels);
        self.rows(isa, page, work);
        match self.shape.side {
            Side::Keys => {
                add_transposed(isa, &work.floats, width, self.shape.tokens, channels, tile, PAGE_TOKENS);
            }
            Side::Values => tile.iter_mut().zip(&work.floats).for_each(|(to, x)| *to += x),
        }
    }
}
