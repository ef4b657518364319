//! Linear layers over packed weights: `y = x Wᵀ + b`.
//!
//! Weights lie in panels of sixteen outputs, in the type the model file gave them. Every output element is computed by
//! the same operations in the same order whatever the instruction set, the number of rows that travel together, and
//! the number of threads:
//! - dense weights: one chain of fused multiply-adds over the inputs in ascending order ([`dense`]);
//! - quantized weights: activations become sixteen-bit integers in blocks of 32 ([`activations`]), then for each
//!   group an exact integer dot product and one or two fused multiply-adds ([`integer`], and [`amx`] with tiles).

pub(crate) mod activations;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod amx;
pub(crate) mod dense;
pub(crate) mod integer;
pub(crate) mod memory;
pub(crate) mod quant;
#[cfg(test)]
mod tests;

pub use dense::DenseType;
pub use quant::QuantSpec;

use crate::{Isa, Team};
use activations::{Activations, PLANES};
use dense::Dense;
use half::{bf16, f16};
use memory::{Output, part};
use quant::Quant;
use std::cell::Cell;

/// Weight bytes below which a task is not worth handing out: about the cost of a region.
const SMALLEST: usize = 24 << 10;
/// Tasks per thread of a region, so that a thread that lost its core for a moment is not waited for.
const TASKS_PER_THREAD: usize = 8;
/// Bytes of quantized activations that a task keeps in the second-level cache while it goes through its panels.
const ROW_BUDGET: usize = 1 << 20;

thread_local! {
    static ACTIVATIONS: Cell<Option<Activations>> = const { Cell::new(None) };
}

/// A weight matrix `[out][in]`, packed for the kernels, with an optional bias. Immutable.
pub struct Linear {
    weights: Weights,
    bias: Option<Vec<f32>>,
}

enum Weights {
    Dense(Dense),
    Quant(Quant),
}

impl Linear {
    /// Packs `w`, row-major `[out][inp]`.
    ///
    /// # Panics
    /// If `w` has not `out * inp` elements or `inp` is 0 (as all constructors).
    pub fn dense_f32(out: usize, inp: usize, w: &[f32]) -> Linear {
        assert_eq!(w.len(), out * inp, "weights of a {out}x{inp} matrix");
        Linear::of(Weights::Dense(Dense::pack(DenseType::F32, out, inp, |row, k| w[row * inp + k].to_le_bytes())))
    }

    /// Packs `w`, row-major `[out][inp]`; it stays two bytes per weight.
    pub fn dense_f16(out: usize, inp: usize, w: &[f16]) -> Linear {
        assert_eq!(w.len(), out * inp, "weights of a {out}x{inp} matrix");
        Linear::of(Weights::Dense(Dense::pack(DenseType::F16, out, inp, |row, k| w[row * inp + k].to_le_bytes())))
    }

    /// Packs `w`, row-major `[out][inp]`; it stays two bytes per weight.
    pub fn dense_bf16(out: usize, inp: usize, w: &[bf16]) -> Linear {
        assert_eq!(w.len(), out * inp, "weights of a {out}x{inp} matrix");
        Linear::of(Weights::Dense(Dense::pack(DenseType::Bf16, out, inp, |row, k| w[row * inp + k].to_le_bytes())))
    }

    /// Packs group-quantized integers, `w = d * (code - zero) + m`.
    ///
    /// `fill(row, codes, d, m)` is called once per row in ascending order and writes the row's `inp` codes (one per
    /// byte), `inp / group` scales and, if `spec.min`, as many minima (otherwise `m` is empty).
    ///
    /// # Panics
    /// If `inp` is not a multiple of 32, if `spec` is none that [`QuantSpec`] describes, or if a code does not fit:
    /// above 15 in four bits, or above `zero + 127`. File formats guarantee all of this.
    pub fn quantized(
        spec: QuantSpec,
        out: usize,
        inp: usize,
        fill: impl FnMut(usize, &mut [u8], &mut [f32], &mut [f32]),
    ) -> Linear {
        Linear::of(Weights::Quant(Quant::pack(spec, out, inp, fill)))
    }

    fn of(weights: Weights) -> Linear {
        Linear { weights, bias: None }
    }

    /// Adds `bias` to every row's outputs.
    ///
    /// # Panics
    /// If it has not `out` elements.
    pub fn with_bias(self, bias: Vec<f32>) -> Linear {
        assert_eq!(bias.len(), self.out(), "bias of a layer with {} outputs", self.out());
        Linear { bias: Some(bias), ..self }
    }

    /// Outputs per row.
    pub fn out(&self) -> usize {
        match &self.weights {
            Weights::Dense(w) => w.out,
            Weights::Quant(w) => w.out,
        }
    }

    /// Inputs per row.
    pub fn inp(&self) -> usize {
        match &self.weights {
            Weights::Dense(w) => w.inp,
            Weights::Quant(w) => w.inp,
        }
    }

    /// Bytes of memory the packed weights and the bias take: what a decode step reads.
    pub fn bytes(&self) -> usize {
        let weights = match &self.weights {
            Weights::Dense(w) => w.bytes(),
            Weights::Quant(w) => w.bytes(),
        };
        weights + self.bias.as_ref().map_or(0, |bias| bias.len() * size_of::<f32>())
    }

    /// One matrix with the outputs of all parts after each other (q, k, v or gate, up), which one pass computes.
    ///
    /// # Errors
    /// Gives the parts back where they differ in kind, quantization or inputs, or where there are none. A part without
    /// bias among parts with one counts as biased by zero.
    pub fn concat(parts: Vec<Linear>) -> Result<Linear, Vec<Linear>> {
        let weights = if let Some(dense) = parts.iter().map(Linear::as_dense).collect::<Option<Vec<_>>>() {
            let same = dense.windows(2).all(|w| w[0].kind == w[1].kind && w[0].inp == w[1].inp);
            same.then(|| Dense::concat(&dense)).flatten().map(Weights::Dense)
        } else if let Some(quant) = parts.iter().map(Linear::as_quant).collect::<Option<Vec<_>>>() {
            let same = quant.windows(2).all(|w| w[0].spec == w[1].spec && w[0].inp == w[1].inp);
            same.then(|| Quant::concat(&quant)).flatten().map(Weights::Quant)
        } else {
            None
        };
        let Some(weights) = weights else { return Err(parts) };
        let biased = parts.iter().any(|part| part.bias.is_some());
        let bias = biased.then(|| {
            let of = |part: &Linear| part.bias.clone().unwrap_or_else(|| vec![0.0; part.out()]);
            parts.iter().flat_map(of).collect()
        });
        Ok(Linear { weights, bias })
    }

    fn as_dense(&self) -> Option<&Dense> {
        match &self.weights {
            Weights::Dense(w) => Some(w),
            Weights::Quant(_) => None,
        }
    }

    fn as_quant(&self) -> Option<&Quant> {
        match &self.weights {
            Weights::Dense(_) => None,
            Weights::Quant(w) => Some(w),
        }
    }

    /// `y[rows][out] = x[rows][inp] Wᵀ + b`.
    ///
    /// Each element of `y` has the same bits whatever `isa`, `rows` and the team. A row with an infinity or NaN comes
    /// out as NaN, the others as always.
    ///
    /// # Panics
    /// If `x` is not whole rows, or `y` has not as many.
    pub fn forward(&self, isa: Isa, team: &Team, x: &[f32], y: &mut [f32]) {
        let (inp, out) = (self.inp(), self.out());
        let rows = x.len() / inp;
        assert_eq!(x.len(), rows * inp, "activations of a layer with {inp} inputs");
        assert_eq!(y.len(), rows * out, "outputs of {rows} rows of {out}");
        if rows == 0 || out == 0 {
            return;
        }
        let y = Output { start: y.as_mut_ptr(), stride: out };
        match &self.weights {
            Weights::Dense(w) => self.forward_dense(w, isa, team, x, y),
            Weights::Quant(w) => {
                let mut activations = ACTIVATIONS.take().unwrap_or_default();
                activations.quantize(isa, team, x, inp, w.spec.group, w.spec.zero);
                self.forward_quant(w, isa, team, &activations, y);
                ACTIVATIONS.set(Some(activations));
            }
        }
    }

    fn forward_dense(&self, w: &Dense, isa: Isa, team: &Team, x: &[f32], y: Output) {
        let rows = x.len() / w.inp;
        let tall = rows.div_ceil(dense::TALL);
        let wide = w.panels().div_ceil(dense::WIDE);
        let chunks = self.chunks(wide, tall, rows, team);
        team.for_each(tall * chunks, |task| {
            let (rows, panels) = (part(rows, tall, task / chunks), part(wide, chunks, task % chunks));
            let panels = panels.start * dense::WIDE..(panels.end * dense::WIDE).min(w.panels());
            let x = &x[rows.start * w.inp..rows.end * w.inp];
            let y = y.at_row(rows.start);
            dense::run(isa, &dense::Task { weights: w, bias: self.bias.as_deref(), panels, x, y });
        });
    }

    fn forward_quant(&self, w: &Quant, isa: Isa, team: &Team, activations: &Activations, y: Output) {
        let per_task = (ROW_BUDGET / (PLANES * w.inp * activations.height())).max(4);
        let tall = activations.blocks().div_ceil(per_task);
        let chunks = self.chunks(w.panels(), tall, activations.rows(), team);
        team.for_each(tall * chunks, |task| {
            let (blocks, panels) =
                (part(activations.blocks(), tall, task / chunks), part(w.panels(), chunks, task % chunks));
            let y = y.at_row(blocks.start * activations.height());
            integer::run(
                isa,
                &integer::Task { weights: w, bias: self.bias.as_deref(), panels, activations, blocks, y },
            );
        });
    }

    /// Into how many tasks to cut `units` of panels, where rows are cut into `tall`.
    fn chunks(&self, units: usize, tall: usize, rows: usize, team: &Team) -> usize {
        if team.threads() == 1 {
            return 1;
        }
        let worth = self.bytes().saturating_mul(rows.div_ceil(tall)) / SMALLEST;
        (team.threads() * TASKS_PER_THREAD).div_ceil(tall).min(worth).clamp(1, units)
    }

    /// One weight row, decoded to `f32` (the embedding of tied weights). `out` has `inp` elements.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.out() && out.len() == self.inp(), "row {row} of a {}x{} matrix", self.out(), self.inp());
        match &self.weights {
            Weights::Dense(w) => w.row(row, out),
            Weights::Quant(w) => w.row(row, out),
        }
    }
}

impl std::fmt::Debug for Linear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.weights {
            Weights::Dense(w) => format!("{:?}", w.kind),
            Weights::Quant(w) => format!("{:?}", w.spec),
        };
        write!(f, "Linear({}x{} {kind})", self.out(), self.inp())
    }
}
