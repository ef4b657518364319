//! Channels in another order, so that those of a group resemble each other (K-sort of "Accurate Block Quantization in LLMs
//! with Outliers", Trukhanov and Soloveychik, 2024; RotateKV's channel reordering).

use super::super::codec::Transform;
use super::super::stage::{Args, Built, Context, NamedTensor, Samples, StageError};
use cachalot_kernels::attention::PAGE_TOKENS;
use std::sync::Arc;

/// `y[i] = x[order[i]]`.
#[derive(Clone, Debug)]
struct Permute {
    order: Vec<usize>,
    statistic: &'static str,
}

fn statistic(args: &Args) -> Result<&'static str, StageError> {
    let statistic = args.word("statistic", &["norm", "sum"])?;
    args.done()?;
    Ok(statistic)
}

pub(super) fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let statistic = statistic(args)?;
    let d = context.channels;
    let order: Vec<usize> = context.tensor(args, "order", &[d])?.iter().map(|&x| x as usize).collect();
    let mut seen = vec![false; d];
    order.iter().for_each(|&c| seen.iter_mut().skip(c).take(1).for_each(|seen| *seen = true));
    if !seen.iter().all(|&seen| seen) {
        return Err(args.error(format!(
            "tensor `{}` of the profile is not an order of {d} channels; calibrate again",
            context.tensor_name("order")
        )));
    }
    Ok(Built::Transform(Arc::new(Permute { order, statistic })))
}

/// Channels by ascending root of the mean square (`norm`) or ascending signed sum (`sum`).
pub(super) fn calibrate(
    args: &Args,
    context: &Context<'_>,
    samples: &Samples<'_>,
) -> Result<Vec<NamedTensor>, StageError> {
    let statistic = statistic(args)?;
    let d = context.channels;
    let mut sums = vec![0.0f64; d];
    for row in samples.rows.chunks_exact(d) {
        for (sum, &x) in sums.iter_mut().zip(row) {
            let x = f64::from(x);
            *sum += if statistic == "norm" { x * x } else { x };
        }
    }
    let mut order: Vec<usize> = (0..d).collect();
    order.sort_by(|&i, &j| sums[i].total_cmp(&sums[j]));
    let data = order.iter().map(|&c| c as f32).collect();
    Ok(vec![NamedTensor { name: context.tensor_name("order"), shape: vec![d], data }])
}

impl Transform for Permute {
    fn inputs(&self) -> usize {
        self.order.len()
    }

    fn outputs(&self) -> usize {
        self.order.len()
    }

    fn forward(&self, x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(&self.order).for_each(|(y, &c)| *y = x[c]);
    }

    fn query(&self, q: &[f32], y: &mut [f32]) -> f32 {
        self.forward(q, y);
        0.0
    }

    fn inverse(&self, y: &[f32], x: &mut [f32]) {
        y.iter().zip(&self.order).for_each(|(&y, &c)| x[c] = y);
    }

    fn output(&self, y: &[f32], _weight: f32, x: &mut [f32]) {
        self.inverse(y, x);
    }

    fn inverse_tile(&self, from: &[f32], to: &mut [f32]) {
        for (row, &c) in from.chunks_exact(PAGE_TOKENS).zip(&self.order) {
            to[c * PAGE_TOKENS..][..PAGE_TOKENS].copy_from_slice(row);
        }
    }

    fn describe(&self) -> String {
        format!("channels in the order of their calibrated {}", self.statistic)
    }

    fn shared_bytes(&self) -> usize {
        size_of::<usize>() * self.order.len()
    }
}
