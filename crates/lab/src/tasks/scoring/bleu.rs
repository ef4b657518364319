//! BLEU of one sentence (Papineni et al., 2002) with the fourth smoothing of Chen and Cherry (2014), as NLTK has it.

use std::collections::HashMap;

/// The constant of the smoothing.
const K: f64 = 5.0;

/// Of words up to n-grams of four.
pub(super) fn score(answer: &[&str], right: &[&str]) -> f64 {
    let mut logs = 0.0;
    let mut zeros = 0;
    for n in 1..=4 {
        let (same, all) = same(answer, right, n);
        if same == 0 && n == 1 {
            return 0.0;
        }
        let precision = if same == 0 && answer.len() > 1 {
            zeros += 1;
            (answer.len() as f64).ln() / (2f64.powi(zeros) * K) / all as f64
        } else {
            same as f64 / all as f64
        };
        // An n-gram that the answer is too short for counts for nothing.
        if precision > 0.0 {
            logs += 0.25 * precision.ln();
        }
    }
    let (has, wants) = (answer.len() as f64, right.len() as f64);
    let brevity = if has > wants { 1.0 } else { (1.0 - wants / has).exp() };
    brevity * logs.exp()
}

/// N-grams of the answer that the reference has as well, each as often as both have it, and all of the answer's, at
/// least one.
fn same(answer: &[&str], right: &[&str], n: usize) -> (usize, usize) {
    let mut left: HashMap<&[&str], usize> = HashMap::new();
    right.windows(n).for_each(|gram| *left.entry(gram).or_default() += 1);
    let mut same = 0;
    for gram in answer.windows(n) {
        if let Some(count) = left.get_mut(gram).filter(|count| **count > 0) {
            *count -= 1;
            same += 1;
        }
    }
    (same, answer.windows(n).count().max(1))
}

#[cfg(test)]
mod tests {
    use super::score;

    #[test]
    fn scores_are_those_of_nltk() {
        // Computed by `sentence_bleu` of nltk 3.10.4 with `SmoothingFunction().method4`.
        for (answer, right, expected) in [
            ("the cat sat on the mat", "the cat sat on the mat today", 0.846481724890614),
            ("def f ( x ) : return x", "def g ( x ) : return y", 0.5410822690539396),
            ("a b", "a b c d e", 0.04939847123496026),
            ("a", "a", 1.0),
            ("z", "a", 0.0),
            ("a b c d e f", "a x c y e z", 0.049475702907177795),
            ("the the the the", "the cat", 0.061033220311973134),
        ] {
            let words = |text: &'static str| text.split(' ').collect::<Vec<_>>();
            let score = score(&words(answer), &words(right));
            assert!((score - expected).abs() < 1e-12, "{answer}: {score}");
        }
    }
}
