//! Keys in the metric of the queries that meet them (the query-aware distance of A²ATS, He et al., 2025, as a basis).
//!
//! With `H = E[q qᵀ] = L Lᵀ` the error of a score is `E[(q·δ)²] = |Lᵀ δ|²`. So keys are taken to `Lᵀ (k - mean)`, there to
//! their principal components `U`, largest variance `λ` first, and each component is divided by `√λ`. An error `ε` of a
//! component of the result costs `λ ε²`, which is what bits should be given by.

use super::super::codec::Side;
use super::super::math::dense;
use super::super::stage::{Args, Built, Context, NamedTensor, Samples, StageError};
use super::basis::Basis;
use super::pca::{deviations, narrow};
use std::sync::Arc;

fn components(args: &Args, context: &Context<'_>) -> Result<usize, StageError> {
    let keep = args.integer("keep", 0, 0..=context.channels)?;
    args.done()?;
    if context.side == Side::Values {
        return Err(args.error("is for keys, which queries meet; values can have pca(normalise=true)"));
    }
    Ok(if keep == 0 { context.channels } else { keep })
}

pub(super) fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let n = components(args, context)?;
    let d = context.channels;
    let mean = context.tensor(args, "mean", &[d])?.to_vec();
    let forward = context.tensor(args, "forward", &[n, d])?.to_vec();
    let query = context.tensor(args, "query", &[n, d])?.to_vec();
    let what = "principal components in the metric of the queries".to_owned();
    Ok(Built::Transform(Arc::new(Basis::new(what, d, forward, query, Some(mean)))))
}

pub(super) fn calibrate(
    args: &Args,
    context: &Context<'_>,
    samples: &Samples<'_>,
) -> Result<Vec<NamedTensor>, StageError> {
    let n = components(args, context)?;
    let d = context.channels;
    if samples.queries.is_empty() {
        return Err(args.error("calibration gave no queries to measure keys with"));
    }
    let mut metric = dense::second_moment(samples.queries, &vec![0.0; d]);
    // Directions that no query of the samples took must not be thrown away, nor blow up on the way back.
    let ridge = 1e-4 * (0..d).map(|i| metric[i * d + i]).sum::<f64>() / d as f64 + 1e-12;
    (0..d).for_each(|i| metric[i * d + i] += ridge);
    let l = dense::cholesky(&metric, d).ok_or_else(|| args.error("the queries of the calibration are not finite"))?;
    let mean = dense::mean(samples.rows, d);
    let covariance = dense::second_moment(samples.rows, &mean);
    let lt = dense::transpose(&l, d);
    let inner = dense::multiply(&dense::multiply(&lt, &covariance, d, d), &l, d, d);
    let (spectrum, u) = dense::eigen(inner, d);
    let deviations = deviations(&spectrum);
    let mut forward = dense::multiply(&u, &lt, d, d);
    let mut query = dense::multiply(&u, &dense::invert_lower(&l, d), d, d);
    for (i, s) in deviations.iter().enumerate() {
        forward[i * d..(i + 1) * d].iter_mut().for_each(|x| *x /= s);
        query[i * d..(i + 1) * d].iter_mut().for_each(|x| *x *= s);
    }
    let tensor = |what, shape, data| NamedTensor { name: context.tensor_name(what), shape, data };
    Ok(vec![
        tensor("mean", vec![d], narrow(&mean)),
        tensor("forward", vec![n, d], narrow(&forward[..n * d])),
        tensor("query", vec![n, d], narrow(&query[..n * d])),
        tensor("deviations", vec![n], narrow(&deviations[..n])),
    ])
}
