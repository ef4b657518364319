//! For tests: rows that look like keys, stages built from text with a profile made on the spot.

use super::super::codec::{Part, Side, Transform};
use super::super::registry;
use super::super::stage::{Args, Built, Context, NamedTensor, Samples, StageError, StageSpec, Tensors};
use super::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A profile in memory.
#[derive(Default)]
pub(crate) struct Profile(BTreeMap<String, NamedTensor>);

impl Profile {
    pub(crate) fn of(tensors: Vec<NamedTensor>) -> Profile {
        Profile(tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect())
    }
}

impl Tensors for Profile {
    fn tensor(&self, name: &str) -> Option<(&[usize], &[f32])> {
        self.0.get(name).map(|tensor| (&tensor.shape[..], &tensor.data[..]))
    }
}

pub(crate) fn context(side: Side, channels: usize) -> Context<'static> {
    Context { side, tokens: 64, channels, layer: 3, layers: 8, head: 1, heads: 2, rope: None, profile: None, stage: 2 }
}

/// `name(key=value, …)`.
pub(crate) fn args(text: &str) -> Args {
    let (name, rest) = text.split_once('(').unwrap_or((text, ")"));
    let pairs = rest.trim_end_matches(')').split(',').filter_map(|pair| pair.split_once('='));
    let args = pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect();
    Args::new(StageSpec { name: name.to_owned(), args })
}

pub(crate) fn gaussian(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, 99);
    (0..n).map(|_| rng.normal() as f32).collect()
}

/// Rows with a mean, correlated channels and two wide ones.
pub(crate) fn rows(n: usize, channels: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, 98);
    let mut shared = Rng::new(5, 97);
    let mean: Vec<f64> = (0..channels).map(|_| shared.normal()).collect();
    let directions: Vec<f64> = (0..6 * channels).map(|_| shared.normal()).collect();
    let mut out = Vec::with_capacity(n * channels);
    for _ in 0..n {
        let strengths: Vec<f64> = (0..6).map(|_| rng.normal()).collect();
        for c in 0..channels {
            let common: f64 = (0..6).map(|i| strengths[i] * directions[i * channels + c]).sum();
            let wide = if c == 3 || c == channels / 2 + 1 { 8.0 } else { 1.0 };
            out.push((wide * (mean[c] + 0.5 * common + 0.5 * rng.normal())) as f32);
        }
    }
    out
}

/// Builds a stage; where it wants a profile, one is calibrated on [`rows`].
pub(crate) fn build_on(text: &str, context: Context<'_>, rows: &[f32], queries: &[f32]) -> Result<Built, StageError> {
    let args = args(text);
    let entry = registry::stage(&args.spec().name).unwrap();
    let samples = Samples { rows, queries, seed: 11 };
    let profile = match entry.calibrate {
        Some(calibrate) => Profile::of(calibrate(&args, &context, &samples)?),
        None => Profile::default(),
    };
    (entry.build)(&args, &Context { profile: Some(&profile), ..context })
}

pub(crate) fn build(text: &str, side: Side, channels: usize) -> Result<Built, StageError> {
    let queries = match side {
        Side::Keys => rows(512, channels, 71),
        Side::Values => Vec::new(),
    };
    build_on(text, context(side, channels), &rows(1024, channels, 70), &queries)
}

pub(crate) fn transform(text: &str, side: Side, channels: usize) -> Arc<dyn Transform> {
    match build(text, side, channels).unwrap_or_else(|error| panic!("{error}")) {
        Built::Transform(transform) => transform,
        _ => panic!("{text} is no transform"),
    }
}

pub(crate) fn part(text: &str, side: Side, channels: usize) -> Arc<dyn Part> {
    match build(text, side, channels).unwrap_or_else(|error| panic!("{error}")) {
        Built::Part(part) => part,
        _ => panic!("{text} is no part"),
    }
}

/// The message with which a stage is refused.
pub(crate) fn refused(text: &str, side: Side, channels: usize) -> String {
    match build(text, side, channels) {
        Ok(_) => panic!("{text} was built"),
        Err(error) => error.to_string(),
    }
}

/// `|a - b|² / |a|²`.
pub(crate) fn distortion(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    error / a.iter().map(|a| square(f64::from(*a))).sum::<f64>()
}
