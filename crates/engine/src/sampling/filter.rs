//! Temperature, top-k, top-p, min-p and the draw.
//!
//! Vocabularies have 150,000 entries and a draw needs a handful of them, so nothing here sorts them all: top-k selects,
//! and top-p selects and sorts the best few hundred, then more only while their mass does not suffice.

use std::cmp::Ordering;

use super::Sampling;

/// How many of the best are sorted first when looking for the nucleus of top-p.
const NUCLEUS_GUESS: usize = 256;

/// Higher logits (or weights) first, lower ids first among equals.
pub(super) fn by_logit_then_id(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// The highest logit's id; the lowest id among equals. `None` where everything is masked, or nothing is there.
pub(super) fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best = None;
    let mut highest = f32::NEG_INFINITY;
    for (&logit, id) in logits.iter().zip(0u32..) {
        if logit > highest {
            highest = logit;
            best = Some(id);
        }
    }
    best
}

/// Draws one id; `u` is uniform in `[0, 1)`. Masked tokens have a logit of minus infinity, all others are finite.
/// `None` where everything is masked. `sampling` has been validated and its temperature is above zero.
pub(super) fn draw(logits: &[f32], sampling: &Sampling, u: f64, candidates: &mut Vec<(f32, u32)>) -> Option<u32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return None;
    }
    candidates.clear();
    candidates.extend(logits.iter().copied().zip(0u32..).filter(|&(logit, _)| logit > f32::NEG_INFINITY));
    if sampling.top_k != 0 && sampling.top_k < candidates.len() {
        candidates.select_nth_unstable_by(sampling.top_k - 1, by_logit_then_id);
        candidates.truncate(sampling.top_k);
        // Selection leaves an order that depends on its inner workings; a draw must not.
        candidates.sort_unstable_by(by_logit_then_id);
    }
    // From here on weights instead of logits, relative to the best one, whose weight is exactly 1.
    let temperature = sampling.temperature;
    candidates.iter_mut().for_each(|candidate| candidate.0 = ((candidate.0 - max) / temperature).exp());
    if sampling.top_p < 1.0 {
        keep_nucleus(candidates, f64::from(sampling.top_p));
    }
    if sampling.min_p > 0.0 {
        candidates.retain(|&(weight, _)| weight >= sampling.min_p);
    }
    pick(candidates, u)
}

/// Keeps the smallest set of most likely candidates whose mass reaches `top_p` of the candidates' mass, best first.
fn keep_nucleus(candidates: &mut Vec<(f32, u32)>, top_p: f64) {
    let wanted = top_p * mass(candidates);
    let (mut reached, mut sorted, mut size) = (0.0, 0, NUCLEUS_GUESS);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let chunk = size.min(rest.len());
        if chunk < rest.len() {
            rest.select_nth_unstable_by(chunk - 1, by_logit_then_id);
        }
        rest[..chunk].sort_unstable_by(by_logit_then_id);
        for (i, &(weight, _)) in rest[..chunk].iter().enumerate() {
            reached += f64::from(weight);
            if reached >= wanted {
                candidates.truncate(sorted + i + 1);
                return;
            }
        }
        sorted += chunk;
        size *= 4;
    }
}

fn mass(candidates: &[(f32, u32)]) -> f64 {
    candidates.iter().map(|&(weight, _)| f64::from(weight)).sum()
}

fn pick(candidates: &[(f32, u32)], u: f64) -> Option<u32> {
    let target = u * mass(candidates);
    let mut reached = 0.0;
    for &(weight, id) in candidates {
        reached += f64::from(weight);
        if reached > target {
            return Some(id);
        }
    }
    // Only rounding of the product leads here; never to a token without mass.
    candidates.iter().rev().find(|&&(weight, _)| weight > 0.0).map(|&(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, written plainly: sort all, then cut; returns what is left with its probabilities.
    fn plain(logits: &[f32], s: &Sampling) -> Vec<(u32, f64)> {
        let mut all: Vec<(u32, f64)> = logits
            .iter()
            .enumerate()
            .filter(|(_, l)| l.is_finite())
            .map(|(i, &l)| (i as u32, (f64::from(l) / f64::from(s.temperature)).exp()))
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if s.top_k > 0 {
            all.truncate(s.top_k);
        }
        let normalize = |all: &mut Vec<(u32, f64)>| {
            let sum: f64 = all.iter().map(|a| a.1).sum();
            all.iter_mut().for_each(|a| a.1 /= sum);
        };
        normalize(&mut all);
        let mut mass = 0.0;
        let mut keep = all.len();
        for (i, a) in all.iter().enumerate() {
            mass += a.1;
            if s.top_p < 1.0 && mass >= f64::from(s.top_p) - 1e-9 {
                keep = i + 1;
                break;
            }
        }
        all.truncate(keep);
        if let Some(first) = all.first().copied() {
            all.retain(|a| a.1 >= f64::from(s.min_p) * first.1 * (1.0 - 1e-6));
        }
        normalize(&mut all);
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn frequencies_follow_the_definition(
            steps in prop::collection::vec(prop::option::weighted(0.9, -20i32..20), 1..60),
            temperature in 0.2f32..2.0, top_k in 0usize..12,
            top_p in prop_oneof![Just(1.0f32), 0.05f32..0.99], min_p in prop_oneof![Just(0.0f32), 0.01f32..0.9],
        ) {
            let logits: Vec<f32> = steps.iter().map(|l| l.map_or(f32::NEG_INFINITY, |l| l as f32 * 0.37)).collect();
            let s = Sampling { temperature, top_k, top_p, min_p, ..Sampling::default() };
            let expected = plain(&logits, &s);
            let mut scratch = Vec::new();
            if expected.is_empty() {
                prop_assert_eq!(draw(&logits, &s, 0.5, &mut scratch), None);
                return Ok(());
            }
            // A regular grid of draws measures each probability up to the grid's width.
            let n = 2000;
            let mut counts = std::collections::HashMap::new();
            for i in 0..n {
                *counts.entry(draw(&logits, &s, (f64::from(i) + 0.5) / f64::from(n), &mut scratch).unwrap()).or_insert(0u32) += 1;
            }
            for (id, p) in &expected {
                let got = f64::from(counts.remove(id).unwrap_or(0)) / f64::from(n);
                prop_assert!((got - p).abs() < 2.5e-3, "token {id}: {got} instead of {p}");
            }
            // At a threshold that two tokens share up to rounding, one more may get in; nothing else.
            prop_assert!(counts.values().sum::<u32>() == 0 || (min_p > 0.0 || top_p < 1.0), "{counts:?}");
        }
    }

    #[test]
    fn a_nucleus_wider_than_the_first_guess_is_found() {
        let logits = vec![0.0f32; 5000];
        let s = Sampling { top_p: 0.5, ..Sampling::default() };
        let mut scratch = Vec::new();
        assert!(draw(&logits, &s, 0.9999, &mut scratch).unwrap() >= 2490);
        // Equal weights: exactly the lower half of the ids, because ties go by id.
        assert_eq!(scratch.len(), 2500);
        assert!(scratch.iter().all(|c| c.1 < 2500));
    }

    #[test]
    fn extreme_temperatures_do_not_break() {
        let logits = [1e30f32, -1e30, 1e30, f32::NEG_INFINITY];
        let mut scratch = Vec::new();
        for temperature in [f32::MIN_POSITIVE, 1e-30, 1.0, f32::MAX] {
            let s = Sampling { temperature, ..Sampling::default() };
            for u in [0.0, 0.3, 0.999_999_999] {
                let id = draw(&logits, &s, u, &mut scratch).unwrap();
                assert!(id != 3 && (temperature > 1e20 || id != 1), "{temperature} {u} {id}");
            }
        }
    }

    #[test]
    fn argmax_takes_the_lowest_id_of_equals() {
        assert_eq!(argmax(&[0.0, 3.0, 3.0, -1.0]), Some(1));
        assert_eq!(argmax(&[-0.0, 0.0]), Some(0));
        assert_eq!(argmax(&[f32::NEG_INFINITY; 3]), None);
        assert_eq!(argmax(&[]), None);
    }
}
