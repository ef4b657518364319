//! ROUGE-Lsum (Lin, 2004) as SCBench has it, by the Python package `rouge_score` 0.1.2 without stemming: of lines.

use super::lcs::{Ties, places};
use std::collections::{BTreeSet, HashMap};

/// F1.
pub(super) fn score(answer: &str, right: &str) -> f64 {
    let (answer, right) = (lines(answer), lines(right));
    let count = |of: &[Vec<String>]| of.iter().map(Vec::len).sum::<usize>();
    let (has, wants) = (count(&answer), count(&right));
    if has == 0 || wants == 0 {
        return 0.0;
    }
    let counts = |of: &[Vec<String>]| {
        let mut counts: HashMap<String, usize> = HashMap::new();
        of.iter().flatten().for_each(|word| *counts.entry(word.clone()).or_default() += 1);
        counts
    };
    // No word hits more often than both have it.
    let (mut left_answer, mut left_right) = (counts(&answer), counts(&right));
    let mut hits = 0;
    for right in &right {
        let union: BTreeSet<usize> = answer.iter().flat_map(|answer| places(right, answer, Ties::Reference)).collect();
        for word in union.into_iter().map(|at| &right[at]) {
            let (Some(one), Some(other)) = (left_answer.get_mut(word), left_right.get_mut(word)) else { continue };
            if *one > 0 && *other > 0 {
                (*one, *other) = (*one - 1, *other - 1);
                hits += 1;
            }
        }
    }
    // 2pr / (p + r) with p = hits / has and r = hits / wants.
    2.0 * hits as f64 / (has + wants) as f64
}

/// Runs of ASCII letters and digits in lower case, line by line.
fn lines(text: &str) -> Vec<Vec<String>> {
    let words = |line: &str| {
        let lower = line.to_lowercase();
        let words = lower.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit());
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    text.split('\n').filter(|line| !line.is_empty()).map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::score;

    #[test]
    fn scores_are_those_of_the_package() {
        // Computed by `RougeScorer(["rougeLsum"])` of rouge_score 0.1.2.
        for (answer, right, expected) in [
            (
                "The keeper walked to the harbour.\nHe sold the lamp!",
                "the keeper sold the lamp\nhe walked to the old harbour in the rain",
                0.8333333333333333,
            ),
            ("a c b d\nb a\nx", "a b c d\nd c b a", 0.8),
            ("No no no, yes", "no yes no\nyes no", 0.4444444444444445),
            ("same words here", "Same words, here.", 1.0),
            ("日本", "日本", 0.0),
        ] {
            assert!((score(answer, right) - expected).abs() < 1e-12, "{answer}: {}", score(answer, right));
        }
    }
}
