//! Levels that are optimal for a known density: Lloyd-Max quantization of normalized rows, as TurboQuant (arXiv
//! 2504.19874) does after a random rotation.
//!
//! The norm of a group is its scale. Since levels are conditional means, what is decoded is a little too short; `norm` says
//! what the stored norm makes up for.

mod solver;

pub use solver::{Density, Solution, solve};

use super::table::{Table, ZERO};
use super::{Group, GroupQuantizer, Kept, Offset, Packing, Parameters, Store};
use crate::encode::part::matrix::{Axis, Matrix};
use crate::encode::stage::{Args, Built, Context, StageEntry, StageError};
use cachalot_kernels::Isa;

pub(super) const STAGE: StageEntry = StageEntry {
    name: "lloyd",
    summary: "optimal levels of rotated rows with the norm as scale: bits=4 (1 to 4) or levels=N (2 to 16), \
              density=gaussian|beta (of a coordinate of a random unit vector), norm=plain|preserve|unbiased|mse, group=0 \
              (channels of a token, 0 for all)",
    build,
    calibrate: None,
};

/// What the stored norm makes up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Nothing: that of the group.
    Plain,
    /// What is decoded has the norm of the group.
    Preserve,
    /// The product with the group itself is exact: no shrinking of scores.
    Unbiased,
    /// Least squared error.
    Mse,
}

/// Optimal levels of a density.
#[derive(Clone, Debug)]
pub struct Lloyd {
    table: Table,
    density: Density,
    levels: usize,
    norm: Norm,
}

impl Lloyd {
    /// 2 to 16 levels.
    pub fn new(density: Density, levels: usize, norm: Norm) -> Lloyd {
        // Rounded far above the error of anybody's exponential function, so that tables are the same on every machine.
        let rounded = |x: f64| ((x * f64::from(1 << 20)).round() / f64::from(1 << 20)) as f32;
        let values: Vec<f32> = solve(density, levels).levels.iter().map(|&x| rounded(x)).collect();
        Lloyd { table: Table::new(&values), density, levels, norm }
    }
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let bits = args.integer("bits", 4, 1..=4)?;
    let levels = args.integer("levels", 1 << bits, 2..=16)?;
    let group = args.integer("group", 0, 0..=4096)?;
    let norm = match args.word("norm", &["plain", "preserve", "unbiased", "mse"])? {
        "preserve" => Norm::Preserve,
        "unbiased" => Norm::Unbiased,
        "mse" => Norm::Mse,
        _ => Norm::Plain,
    };
    let length = if group == 0 { context.channels } else { group };
    if !context.channels.is_multiple_of(length) {
        let what = format!("groups of {group} channels do not divide {}; take a divisor, or 0", context.channels);
        return Err(args.error(what));
    }
    let density = match args.word("density", &["gaussian", "beta"])? {
        "beta" if length < 4 => return Err(args.error("`density=beta` needs groups of four channels or more")),
        "beta" => Density::Beta(length),
        _ => Density::Gaussian,
    };
    Matrix::finish(args, context, Axis::Token { group }, Lloyd::new(density, levels, norm), false)
}

impl GroupQuantizer for Lloyd {
    fn packing(&self) -> Packing {
        self.table.packing()
    }

    fn zero(&self) -> u8 {
        ZERO
    }

    fn scale(&self) -> Kept {
        Kept::Stored(Store::F16)
    }

    fn offset(&self) -> Offset {
        Offset::None
    }

    fn quantize(&self, _: Group, x: &[f32], codes: &mut [u8]) -> Parameters {
        let square = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        let plain = (square / x.len() as f64).sqrt() * f64::from(self.table.unit());
        let steps = |&x: &f32| if plain > 0.0 { (f64::from(x) / plain) as f32 } else { 0.0 };
        self.table.nearest_each(Isa::detect(), &x.iter().map(steps).collect::<Vec<_>>(), codes);
        let (mut along, mut across) = (0.0, 0.0);
        for (&x, &code) in x.iter().zip(&*codes) {
            let level = f64::from(self.table.level(code));
            along += f64::from(x) * level;
            across += level * level;
        }
        let corrected = match self.norm {
            Norm::Plain => plain,
            Norm::Preserve => (square / across).sqrt(),
            Norm::Unbiased => square / along,
            Norm::Mse => along / across,
        };
        let scale = if corrected.is_finite() && along > 0.0 { corrected } else { plain };
        Parameters { scale: Store::F16.round(scale as f32), offset: 0.0 }
    }

    fn describe(&self) -> String {
        let norm = match self.norm {
            Norm::Plain => "norm",
            Norm::Preserve => "norm that preserves lengths",
            Norm::Unbiased => "norm without bias",
            Norm::Mse => "norm of least error",
        };
        format!("{} optimal levels of {}, f16 {norm}", self.levels, self.density)
    }

    fn shared_bytes(&self) -> usize {
        self.levels
    }
}
