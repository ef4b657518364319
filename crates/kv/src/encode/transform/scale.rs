//! Factors per channel that queries (or outputs) are divided by again.

use super::super::codec::{Side, Transform};
use super::super::stage::{Args, Built, Context, NamedTensor, Samples, StageError};
use cachalot_kernels::attention::PAGE_TOKENS;
use std::sync::Arc;

/// `y = D x`, `q' = D⁻¹ q`.
#[derive(Clone, Debug)]
struct Scale {
    factors: Vec<f32>,
    inverse: Vec<f32>,
    kind: &'static str,
}

struct Options {
    kind: &'static str,
    alpha: f64,
    beta: f64,
    top: usize,
}

fn options(args: &Args, context: &Context<'_>) -> Result<Options, StageError> {
    let kind = args.word("kind", &["balance", "fireq", "rms"])?;
    let alpha = f64::from(args.number("alpha", 1.0, 1e-3..=1e3)?);
    let beta = f64::from(args.number("beta", 1.0, 1e-3..=1e3)?);
    let top = args.integer("top", 3, 0..=context.channels)?;
    args.done()?;
    if context.side == Side::Values && kind != "rms" {
        return Err(args.error(format!("kind={kind} is for keys; values can have kind=rms")));
    }
    Ok(Options { kind, alpha, beta, top })
}

pub(super) fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let kind = options(args, context)?.kind;
    let factors = context.tensor(args, "factors", &[context.channels])?.to_vec();
    let inverse: Vec<f32> = factors.iter().map(|f| 1.0 / f).collect();
    if factors.iter().chain(&inverse).any(|f| !f.is_finite() || *f <= 0.0) {
        return Err(args.error(format!(
            "tensor `{}` of the profile has a factor that is not positive and finite; calibrate again",
            context.tensor_name("factors")
        )));
    }
    Ok(Built::Transform(Arc::new(Scale { factors, inverse, kind })))
}

/// Largest magnitude of each channel.
fn largest(rows: &[f32], d: usize) -> Vec<f64> {
    let mut top = vec![0.0f64; d];
    for row in rows.chunks_exact(d) {
        top.iter_mut().zip(row).for_each(|(top, &x)| *top = top.max(f64::from(x).abs()));
    }
    top
}

/// - `balance` (MiKV, Yang et al., 2024): `√(max|q| / max|k|)`, after which queries and keys reach equally far.
/// - `fireq` (FireQ, 2025): `beta / max|k|` on the `top` widest channels and their rotary partners, `alpha / max|pair|` on
///   other rotary pairs, equal within a pair. Both are measured after rotation, which keeps the lengths of pairs.
/// - `rms`: every channel to a mean square of one.
pub(super) fn calibrate(
    args: &Args,
    context: &Context<'_>,
    samples: &Samples<'_>,
) -> Result<Vec<NamedTensor>, StageError> {
    let Options { kind, alpha, beta, top } = options(args, context)?;
    let d = context.channels;
    let reach = largest(samples.rows, d);
    let factors: Vec<f64> = match kind {
        "balance" => {
            if samples.queries.is_empty() {
                return Err(args.error("calibration gave no queries to balance the keys with"));
            }
            let queries = largest(samples.queries, d);
            queries.iter().zip(&reach).map(|(q, k)| (q / k).sqrt()).collect()
        }
        "fireq" => fireq(context, samples.rows, &reach, alpha, beta, top),
        _ => {
            let mut squares = vec![0.0f64; d];
            for row in samples.rows.chunks_exact(d) {
                squares.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x) * f64::from(x));
            }
            let n = (samples.rows.len() / d) as f64;
            squares.iter().map(|s| (n / s).sqrt()).collect()
        }
    };
    // A channel that is always zero, on either side, stays as it is.
    let sound = |f: f64| if (1e-6..=1e6).contains(&f) { f as f32 } else { 1.0 };
    let data = factors.into_iter().map(sound).collect();
    Ok(vec![NamedTensor { name: context.tensor_name("factors"), shape: vec![d], data }])
}

fn fireq(context: &Context<'_>, rows: &[f32], reach: &[f64], alpha: f64, beta: f64, top: usize) -> Vec<f64> {
    let d = reach.len();
    let rotated = context.rope.map_or(0, |rope| rope.rotated()).min(d);
    let half = rotated / 2;
    let partner = |c: usize| match c {
        c if c < half => c + half,
        c if c < 2 * half => c - half,
        c => c,
    };
    let mut lengths = vec![0.0f64; d];
    for row in rows.chunks_exact(d) {
        for c in 0..d {
            let (a, b) = (f64::from(row[c]), f64::from(row[partner(c)]));
            let square = if partner(c) == c { a * a } else { a * a + b * b };
            lengths[c] = lengths[c].max(square.sqrt());
        }
    }
    let mut order: Vec<usize> = (0..d).collect();
    order.sort_by(|&i, &j| reach[j].total_cmp(&reach[i]));
    let mut wide = vec![false; d];
    for &c in &order[..top] {
        (wide[c], wide[partner(c)]) = (true, true);
    }
    (0..d).map(|c| if wide[c] { beta / reach[c] } else { alpha / lengths[c] }).collect()
}

fn times(x: &[f32], factors: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).zip(factors).for_each(|((y, x), f)| *y = x * f);
}

impl Transform for Scale {
    fn inputs(&self) -> usize {
        self.factors.len()
    }

    fn outputs(&self) -> usize {
        self.factors.len()
    }

    fn forward(&self, x: &[f32], y: &mut [f32]) {
        times(x, &self.factors, y);
    }

    fn query(&self, q: &[f32], y: &mut [f32]) -> f32 {
        times(q, &self.inverse, y);
        0.0
    }

    fn inverse(&self, y: &[f32], x: &mut [f32]) {
        times(y, &self.inverse, x);
    }

    fn output(&self, y: &[f32], _weight: f32, x: &mut [f32]) {
        times(y, &self.inverse, x);
    }

    fn inverse_tile(&self, from: &[f32], to: &mut [f32]) {
        let rows = from.chunks_exact(PAGE_TOKENS).zip(to.chunks_exact_mut(PAGE_TOKENS));
        for ((from, to), f) in rows.zip(&self.inverse) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from * f);
        }
    }

    fn describe(&self) -> String {
        format!("calibrated factors per channel ({})", self.kind)
    }

    fn shared_bytes(&self) -> usize {
        8 * self.factors.len()
    }
}
