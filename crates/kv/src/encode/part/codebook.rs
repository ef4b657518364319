//! One word for a whole key, chosen by what queries will make of the error: the query-aware vector quantization of A²ATS
//! (He et al., 2025) as a format.

use super::super::codec::Side;
use super::super::math::{dense, kmeans};
use super::super::stage::{Args, Built, Context, NamedTensor, Samples, StageEntry, StageError};
use super::product::{Product, half_words};
use std::sync::Arc;

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "codebook",
    summary: "keys: one word a token, chosen in the metric of the queries; codebook(words=4096, iterations=25)",
    build,
    calibrate: Some(calibrate),
};

struct Options {
    bits: usize,
    iterations: usize,
}

fn options(args: &Args, context: &Context<'_>) -> Result<Options, StageError> {
    let words = args.integer("words", 4096, 2..=65536)?;
    let iterations = args.integer("iterations", 25, 1..=1000)?;
    args.done()?;
    if context.side == Side::Values {
        return Err(args.error("is for keys, which queries meet; values can have product(subspaces=1)"));
    }
    if !words.is_power_of_two() {
        return Err(
            args.error(format!("{words} words are no power of two; the nearest is {}", words.next_power_of_two()))
        );
    }
    Ok(Options { bits: words.ilog2() as usize, iterations })
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let bits = options(args, context)?.bits;
    let d = context.channels;
    let words = half_words(args, context.tensor(args, "codebook", &[1 << bits, d])?)?;
    let metric = context.tensor(args, "metric", &[d, d])?;
    let what = format!("one of {} words a key, nearest in the metric of the queries", 1 << bits);
    Ok(Built::Part(Arc::new(Product::new(context.shape(), what, 1, bits, words, Some(metric)))))
}

/// With `H = E[q qᵀ] = L Lᵀ` the expected squared error of a score is `|Lᵀ (k - word)|²`: words are clustered in `Lᵀ k`
/// and brought back. `metric` is `Lᵀ`.
fn calibrate(args: &Args, context: &Context<'_>, samples: &Samples<'_>) -> Result<Vec<NamedTensor>, StageError> {
    let Options { bits, iterations } = options(args, context)?;
    let d = context.channels;
    if samples.queries.is_empty() {
        return Err(args.error("calibration gave no queries to measure keys with"));
    }
    let mut h = dense::second_moment(samples.queries, &vec![0.0; d]);
    // In units of its own size, so that the ridge is the published one.
    let size = dense::dot(&h, &h).sqrt() / d as f64;
    h.iter_mut().for_each(|x| *x /= size.max(f64::MIN_POSITIVE));
    (0..d).for_each(|i| h[i * d + i] += 1e-6);
    let l = dense::cholesky(&h, d).ok_or_else(|| args.error("the queries of the calibration are not finite"))?;
    let metric = dense::transpose(&l, d);
    let rows: Vec<f64> = samples.rows.iter().map(|&x| f64::from(x)).collect();
    let there: Vec<f32> = dense::multiply(&rows, &l, d, d).iter().map(|&x| x as f32).collect();
    let words = kmeans::train(&there, d, 1 << bits, iterations, samples.seed);
    let words: Vec<f64> = words.iter().map(|&x| f64::from(x)).collect();
    let words = dense::multiply(&words, &dense::invert_lower(&l, d), d, d);
    let tensor = |what, shape, data: &[f64]| NamedTensor {
        name: context.tensor_name(what),
        shape,
        data: data.iter().map(|&x| x as f32).collect(),
    };
    Ok(vec![tensor("codebook", vec![1 << bits, d], &words), tensor("metric", vec![d, d], &metric)])
}
