//! ROUGE-L (Lin, 2004) as LongBench has it, by the Python package `rouge` 1.0.1: of sentences, which end at every full
//! stop, with sets of words instead of words.

use super::lcs::{Ties, places};
use super::words;
use std::collections::HashSet;

pub(super) fn english(answer: &str, right: &str) -> f64 {
    let (answer, right) = (sentences(answer), sentences(right));
    if answer.is_empty() || right.is_empty() {
        return 0.0;
    }
    // Words of the reference's sentences that lie on a longest common subsequence with any sentence of the answer.
    let mut common: HashSet<&str> = HashSet::new();
    for right in &right {
        for answer in &answer {
            common.extend(places(right, answer, Ties::Answer).into_iter().map(|at| right[at]));
        }
    }
    let distinct = |of: &[Vec<&str>]| of.iter().flatten().collect::<HashSet<_>>().len() as f64;
    let (recall, precision) = (common.len() as f64 / distinct(&right), common.len() as f64 / distinct(&answer));
    2.0 * (precision * recall / (precision + recall + 1e-8))
}

pub(super) fn chinese(answer: &str, right: &str) -> f64 {
    english(&words::segments(answer).join(" "), &words::segments(right).join(" "))
}

/// Words of each sentence.
fn sentences(text: &str) -> Vec<Vec<&str>> {
    text.split('.').filter(|sentence| !sentence.is_empty()).map(words_of).collect()
}

/// A sentence of blanks has one empty word, as there.
fn words_of(sentence: &str) -> Vec<&str> {
    let words: Vec<&str> = sentence.split_whitespace().collect();
    if words.is_empty() { vec![""] } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_package() {
        let (walked, sold) = (
            "the keeper walked to the harbour before sunrise. he sold the lamp.",
            "the keeper sold the lamp. he walked to the old harbour in the rain.",
        );
        // Computed by `Rouge().get_scores` of rouge 1.0.1.
        for (answer, right, score) in [
            (walked, sold, 0.7619047569160999),
            ("a b c d", "a c b d", 0.749999995),
            ("a c b d. b a. x", "a b c d. d c b a", 0.8888888839506174),
            ("one two three", "one two three", 0.999999995),
            ("nothing alike", "quite different words", 0.0),
            (" . a b", "a b. c", 0.6666666616666668),
            ("no no no yes", "no yes no. yes", 0.999999995),
            ("...", "a", 0.0),
            ("", "a", 0.0),
        ] {
            assert!((english(answer, right) - score).abs() < 1e-12, "{answer} {right}: {}", english(answer, right));
        }
    }

    #[test]
    fn chinese_characters_are_words() {
        assert!((chinese("我爱北京", "我爱南京") - 0.75).abs() < 1e-7);
    }
}
