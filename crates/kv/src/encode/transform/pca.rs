//! Principal components: the transform of KVTC (Staniszewski and Łańcucki, 2025), per head.

use super::super::math::dense;
use super::super::stage::{Args, Built, Context, NamedTensor, Samples, StageError};
use super::basis::Basis;
use std::sync::Arc;

struct Options {
    keep: usize,
    share: f64,
    normalise: bool,
}

fn options(args: &Args, context: &Context<'_>) -> Result<Options, StageError> {
    let keep = args.integer("keep", 0, 0..=context.channels)?;
    let share = f64::from(args.number("share", 1.0, 0.01..=1.0)?);
    let normalise = args.flag("normalise", false)?;
    args.done()?;
    if keep > 0 && share < 1.0 {
        return Err(args.error("`keep` and `share` both say how many components stay; leave one out"));
    }
    Ok(Options { keep, share, normalise })
}

/// How many components a profile made with these options has where the spectrum does not decide.
fn components(options: &Options, d: usize, spectrum: &[f64]) -> usize {
    if options.keep > 0 {
        return options.keep;
    }
    if options.share >= 1.0 {
        return d;
    }
    let total: f64 = spectrum.iter().sum();
    let mut sum = 0.0;
    let enough = spectrum.iter().take_while(|&&x| {
        let more = sum < options.share * total;
        sum += x;
        more
    });
    enough.count().max(1).next_multiple_of(16).min(d)
}

pub(super) fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let options = options(args, context)?;
    let d = context.channels;
    let n = if options.share < 1.0 {
        // Calibration chose; anything else that the profile may say is refused below.
        let name = context.tensor_name("deviations");
        context.profile.and_then(|p| p.tensor(&name)).map_or(d, |(shape, _)| shape.iter().product())
    } else {
        components(&options, d, &[])
    };
    if n == 0 || n > d {
        return Err(args.error(format!("the profile has {n} components for {d} channels; calibrate again")));
    }
    let mean = context.tensor(args, "mean", &[d])?.to_vec();
    let basis = context.tensor(args, "basis", &[n, d])?.to_vec();
    if !options.normalise {
        return Ok(Built::Transform(Arc::new(Basis::orthonormal("principal components".into(), d, basis, Some(mean)))));
    }
    let deviations = context.tensor(args, "deviations", &[n])?;
    if deviations.iter().any(|s| !s.is_finite() || *s <= 0.0) {
        return Err(args.error("the profile has a deviation that is not positive; calibrate again"));
    }
    let (mut forward, mut query) = (basis.clone(), basis);
    for (row, s) in forward.chunks_exact_mut(d).zip(deviations) {
        row.iter_mut().for_each(|x| *x /= s);
    }
    for (row, s) in query.chunks_exact_mut(d).zip(deviations) {
        row.iter_mut().for_each(|x| *x *= s);
    }
    let what = "principal components of unit variance".to_owned();
    Ok(Built::Transform(Arc::new(Basis::new(what, d, forward, query, Some(mean)))))
}

/// Standard deviations, none of them so small that dividing by it would blow up what calibration did not see.
pub(super) fn deviations(spectrum: &[f64]) -> Vec<f64> {
    let top = spectrum.first().copied().unwrap_or(0.0).max(f64::MIN_POSITIVE);
    spectrum.iter().map(|&x| x.max(1e-9 * top).sqrt().max(1e-6)).collect()
}

pub(super) fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

pub(super) fn calibrate(
    args: &Args,
    context: &Context<'_>,
    samples: &Samples<'_>,
) -> Result<Vec<NamedTensor>, StageError> {
    let options = options(args, context)?;
    let d = context.channels;
    let mean = dense::mean(samples.rows, d);
    let (spectrum, basis) = dense::eigen(dense::second_moment(samples.rows, &mean), d);
    let n = components(&options, d, &spectrum);
    let tensor = |what, shape, data| NamedTensor { name: context.tensor_name(what), shape, data };
    Ok(vec![
        tensor("mean", vec![d], narrow(&mean)),
        tensor("basis", vec![n, d], narrow(&basis[..n * d])),
        tensor("deviations", vec![n], narrow(&deviations(&spectrum)[..n])),
    ])
}
