//! Log-probabilities of the model itself: a log-softmax of the raw logits, before any penalty, mask or temperature.

use super::filter::by_logit_then_id;

/// The most alternatives a request may ask for, as in OpenAI's API.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// One alternative.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct TopLogprob {
    /// Token id.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// What the model thought where a token was sampled.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TokenLogprobs {
    /// Natural logarithm of the probability the model gave to the sampled token.
    pub logprob: f32,
    /// The most likely tokens, best first, lowest id first among equals. As many as asked for; the sampled one need
    /// not be among them.
    pub top: Vec<TopLogprob>,
}

/// `ln Σ exp(logits)`, accumulated in f64. Finite for finite, non-empty logits.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - max).exp())).sum();
    f64::from(max) + sum.ln()
}

/// The log-probability of `chosen` and of the `top` most likely tokens. `None` if `chosen` is not in the vocabulary.
pub fn token_logprobs(logits: &[f32], chosen: u32, top: usize) -> Option<TokenLogprobs> {
    let norm = log_sum_exp(logits);
    let at = |logit: f32| (f64::from(logit) - norm) as f32;
    let logprob = at(*logits.get(chosen as usize)?);
    let top = top.min(logits.len()).min(MAX_TOP_LOGPROBS);
    let best = highest(logits, top);
    let top = best.into_iter().map(|(logit, id)| TopLogprob { id, logprob: at(logit) }).collect();
    Some(TokenLogprobs { logprob, top })
}

/// The highest logits with their ids, highest first, lowest id first among equals.
pub(super) fn highest(logits: &[f32], count: usize) -> Vec<(f32, u32)> {
    let count = count.min(logits.len());
    // A running list of the best: one comparison for nearly every logit, and no copy of the vocabulary.
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(count + 1);
    for (logit, id) in logits.iter().copied().zip(0u32..) {
        let full = best.len() == count;
        if count == 0 || (full && best.last().is_some_and(|last| logit <= last.0)) {
            continue;
        }
        let place = best.partition_point(|other| by_logit_then_id(other, &(logit, id)).is_lt());
        best.insert(place, (logit, id));
        best.truncate(count);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn huge_logits_neither_overflow_nor_lose_the_difference() {
        let got = token_logprobs(&[1e4, 1e4, -1e4], 0, 3).unwrap();
        assert!((got.logprob + std::f32::consts::LN_2).abs() < 1e-6);
        assert_eq!(got.top.iter().map(|t| t.id).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(got.top[2].logprob < -19_000.0);
        assert!(token_logprobs(&[0.0], 1, 0).is_none());
    }

    proptest! {
        #[test]
        fn agrees_with_sorting_everything(logits in prop::collection::vec(-8i32..8, 1..200), top in 0usize..30, pick in any::<prop::sample::Index>()) {
            // Few distinct values, so that ties are frequent.
            let logits: Vec<f32> = logits.into_iter().map(|l| l as f32 * 0.5).collect();
            let chosen = pick.index(logits.len());
            let got = token_logprobs(&logits, chosen as u32, top).unwrap();
            let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
            let expected = |id: usize| (f64::from(logits[id]).exp() / sum).ln() as f32;
            prop_assert!((got.logprob - expected(chosen)).abs() < 1e-5);
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            order.truncate(top.min(MAX_TOP_LOGPROBS));
            prop_assert_eq!(got.top.iter().map(|t| t.id as usize).collect::<Vec<_>>(), order);
            for t in &got.top {
                prop_assert!((t.logprob - expected(t.id as usize)).abs() < 1e-5);
            }
        }
    }
}
