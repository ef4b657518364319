//! Widths of codes per layer, as in KVTuner (arXiv 2502.04420): what each pair of widths does to a layer's attention
//! output is measured on samples, and the pairs with the least sum of errors within the budget are taken.

use super::calibrate::{Collector, Made};
use super::error::Lane;
use super::plan::Builder;
use super::{Recipe, RecipeError};
use crate::encode::codec::{Hints, Side};
use crate::encode::pipeline::Pipeline;
use crate::encode::stage::{NamedTensor, StageSpec};
use cachalot_kernels::Team;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Widths that are tried, for keys and for values.
const WIDTHS: [usize; 3] = [2, 4, 8];
/// Tokens that queries look back on, at most.
const CONTEXT: usize = 1024;
/// Queries of a head.
const QUERIES: usize = 32;

/// The tensor `bits`, `[layers, 2]`. The budget is the mean of the widths that the recipe is written with.
///
/// # Errors
/// Where stages have no `bits`, there are too few samples, or a pipeline cannot be built.
pub(super) fn bits(recipe: &Recipe, collected: &Collector, team: &Team) -> Result<NamedTensor, RecipeError> {
    let fail = |what: &str| RecipeError::Rule { recipe: recipe.name.clone(), what: what.to_owned() };
    let written = |stages: &[StageSpec]| {
        stages.iter().find_map(|stage| stage.args.get("bits")).and_then(|bits| bits.parse::<usize>().ok())
    };
    let none = || fail("`bits = \"profile\"` needs a stage with the argument `bits` for keys and for values");
    let budget = written(&recipe.encode.k).ok_or_else(none)? + written(&recipe.encode.v).ok_or_else(none)?;
    let layers = collected.layers().len();
    let errors: Vec<Mutex<Result<Vec<f64>, RecipeError>>> = (0..layers).map(|_| Mutex::new(Ok(Vec::new()))).collect();
    team.for_each(layers, |layer| {
        *errors[layer].lock().unwrap_or_else(PoisonError::into_inner) = layer_errors(recipe, collected, layer);
    });
    let errors: Result<Vec<Vec<f64>>, RecipeError> =
        errors.into_iter().map(|errors| errors.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
    let chosen = allot(&errors?, budget * layers).ok_or_else(|| fail("no widths of 2, 4 and 8 bits are this few"))?;
    let widths = chosen.iter().flat_map(|&pair| [WIDTHS[pair / WIDTHS.len()], WIDTHS[pair % WIDTHS.len()]]);
    let data = widths.map(|bits| bits as f32).collect();
    Ok(NamedTensor { name: "bits".to_owned(), shape: vec![layers, 2], data })
}

/// Which pair of widths each layer gets, given the errors of all pairs and the sum of widths over all layers: the least
/// sum of errors, by dynamic programming. `None` where the least widths are too many.
fn allot(errors: &[Vec<f64>], budget: usize) -> Option<Vec<usize>> {
    let cost = |pair: usize| WIDTHS[pair / WIDTHS.len()] + WIDTHS[pair % WIDTHS.len()];
    // best[b]: least error of the layers so far with b bits at most.
    let mut best = vec![0.0; budget + 1];
    let mut choices = Vec::with_capacity(errors.len());
    for errors in errors {
        let mut next = vec![f64::INFINITY; budget + 1];
        let mut choice = vec![usize::MAX; budget + 1];
        for (bits, (next, choice)) in next.iter_mut().zip(&mut choice).enumerate() {
            for (pair, error) in errors.iter().enumerate().filter(|&(pair, _)| cost(pair) <= bits) {
                let sum = best[bits - cost(pair)] + error;
                if sum < *next {
                    (*next, *choice) = (sum, pair);
                }
            }
        }
        best = next;
        choices.push(choice);
    }
    let mut bits = budget;
    let mut chosen = Vec::with_capacity(choices.len());
    for choice in choices.iter().rev() {
        let pair = *choice.get(bits).filter(|&&pair| pair != usize::MAX)?;
        chosen.push(pair);
        bits -= cost(pair);
    }
    chosen.reverse();
    Some(chosen)
}

/// The error of a layer's attention output, relative to its length, for every pair of widths: keys outermost.
fn layer_errors(recipe: &Recipe, collected: &Collector, layer: usize) -> Result<Vec<f64>, RecipeError> {
    let g = &collected.layers()[layer];
    let mut errors = vec![0.0; WIDTHS.len() * WIDTHS.len()];
    for head in 0..g.kv_heads {
        let lane = |side| Lane { layer, head, side };
        let sample = collected.beginning(layer, head, CONTEXT);
        if sample.positions.len() < PAGE_TOKENS || sample.query_positions.is_empty() {
            let what = format!("too few tokens to choose widths from; at least {PAGE_TOKENS} are needed");
            return Err(RecipeError::Rule { recipe: recipe.name.clone(), what });
        }
        let decoded = |side: Side, rows: &[f32]| {
            let each = WIDTHS.iter().map(|&width| decoded(recipe, collected, lane(side), width, rows));
            each.collect::<Result<Vec<_>, _>>()
        };
        let (keys, values) = (decoded(Side::Keys, &sample.k)?, decoded(Side::Values, &sample.v)?);
        let queries: Vec<(usize, &[f32])> = sample
            .query_positions
            .iter()
            .flat_map(|&position| std::iter::repeat_n(position, g.group()))
            .zip(sample.q.chunks_exact(g.head_dim))
            .collect();
        for &(position, q) in queries.iter().step_by(queries.len().div_ceil(QUERIES).max(1)) {
            let seen = sample.positions.iter().filter(|&&p| p <= position).count();
            let exact = output(&weights(q, &sample.k, g.head_dim, seen, g.scale), &sample.v, g.head_dim);
            let norm = exact.iter().map(|x| x * x).sum::<f64>().max(f64::MIN_POSITIVE);
            for (k, keys) in keys.iter().enumerate() {
                let weights = weights(q, keys, g.head_dim, seen, g.scale);
                for (v, values) in values.iter().enumerate() {
                    let got = output(&weights, values, g.head_dim);
                    let error: f64 = got.iter().zip(&exact).map(|(a, b)| (a - b) * (a - b)).sum();
                    errors[k * WIDTHS.len() + v] += (error / norm).sqrt();
                }
            }
        }
    }
    Ok(errors)
}

/// Rows as they are read back at one width. What fills no page stays as it is.
fn decoded(
    recipe: &Recipe,
    collected: &Collector,
    lane: Lane,
    width: usize,
    rows: &[f32],
) -> Result<Vec<f32>, RecipeError> {
    let layers = collected.layers();
    let bits = NamedTensor {
        name: "bits".to_owned(),
        shape: vec![layers.len(), 2],
        data: vec![width as f32; 2 * layers.len()],
    };
    let made = Made::of([bits]);
    let mut builder = Builder { recipe, layers, profile: Some(&made), shared: HashMap::new() };
    let stages = builder.stages(lane.side, lane.layer, lane.head)?;
    let pipeline = builder.pipeline(lane, stages)?;
    Ok(round_trip(&pipeline, rows))
}

fn round_trip(pipeline: &Pipeline, rows: &[f32]) -> Vec<f32> {
    let mut out = rows.to_vec();
    let mut page = vec![0; pipeline.bytes()];
    let importance = vec![1.0; pipeline.shape().tokens];
    for rows in out.chunks_exact_mut(pipeline.shape().elements()) {
        pipeline.encode(rows, Hints { importance: &importance, start: 0 }, &mut page);
        pipeline.decode(&page, rows);
    }
    out
}

fn weights(q: &[f32], keys: &[f32], dim: usize, seen: usize, scale: f32) -> Vec<f64> {
    let scores = keys.chunks_exact(dim).take(seen).map(|k| {
        let dot: f64 = q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        dot * f64::from(scale)
    });
    let mut weights: Vec<f64> = scores.collect();
    let max = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    weights.iter_mut().for_each(|w| *w = (*w - max).exp());
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
    weights
}

fn output(weights: &[f64], values: &[f32], dim: usize) -> Vec<f64> {
    let mut out = vec![0.0; dim];
    for (weight, row) in weights.iter().zip(values.chunks_exact(dim)) {
        out.iter_mut().zip(row).for_each(|(out, &x)| *out += weight * f64::from(x));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every choice, for a few layers.
    fn exhaustive(errors: &[Vec<f64>], budget: usize) -> f64 {
        let Some((first, rest)) = errors.split_first() else { return 0.0 };
        let cost = |pair: usize| WIDTHS[pair / 3] + WIDTHS[pair % 3];
        let each = (0..9).filter(|&pair| cost(pair) <= budget);
        each.map(|pair| first[pair] + exhaustive(rest, budget - cost(pair))).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn the_least_error_within_the_budget_is_found() {
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as f64
        };
        for budget in [16, 23, 32, 40, 64] {
            let errors: Vec<Vec<f64>> = (0..4).map(|_| (0..9).map(|_| random()).collect()).collect();
            let chosen = allot(&errors, budget).unwrap();
            let cost: usize = chosen.iter().map(|&pair| WIDTHS[pair / 3] + WIDTHS[pair % 3]).sum();
            assert!(cost <= budget, "{cost} of {budget}");
            let sum: f64 = chosen.iter().zip(&errors).map(|(&pair, errors)| errors[pair]).sum();
            assert_eq!(sum, exhaustive(&errors, budget));
        }
        assert_eq!(allot(&vec![vec![0.0; 9]; 4], 15), None);
    }
}
