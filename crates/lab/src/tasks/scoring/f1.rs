//! F1 of words: the harmonic mean of the shares of words that answer and reference have in common, each word as often
//! as both have it.

use super::words;
use std::collections::HashMap;

pub(super) fn english(answer: &str, right: &str) -> f64 {
    f1(&words::english(answer), &words::english(right))
}

pub(super) fn chinese(answer: &str, right: &str) -> f64 {
    f1(&words::chinese(answer), &words::chinese(right))
}

pub(super) fn characters(answer: &str, right: &str) -> f64 {
    f1(&words::characters(answer), &words::characters(right))
}

fn f1(answer: &[String], right: &[String]) -> f64 {
    let mut left: HashMap<&str, usize> = HashMap::new();
    right.iter().for_each(|word| *left.entry(word).or_default() += 1);
    let mut same = 0;
    for word in answer {
        if let Some(count) = left.get_mut(&word[..]).filter(|count| **count > 0) {
            *count -= 1;
            same += 1;
        }
    }
    if same == 0 {
        return 0.0;
    }
    let (precision, recall) = (same as f64 / answer.len() as f64, same as f64 / right.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Three of four words are right, three of five were wanted: 2 * 3/4 * 3/5 / (3/4 + 3/5).
        let score = english("The old grey sperm whale", "a grey old whale in the sea");
        assert!((score - 2.0 / 3.0).abs() < 1e-12, "{score}");
        // Said twice is wanted twice.
        assert!((english("no no no", "no no") - 0.8).abs() < 1e-12);
        assert_eq!(english("Paris.", "paris"), 1.0);
        assert_eq!(english("", "paris"), 0.0);
        assert_eq!(english("the", "the"), 0.0);
        // 北 and 京 of three characters.
        assert!((chinese("北京", "北京市。") - 0.8).abs() < 1e-12);
        assert_eq!(chinese("gpt4", "GPT4"), 1.0);
        assert_eq!(chinese("gpt", "GPT4"), 0.0);
        assert!((characters("gpt", "GPT4") - 6.0 / 7.0).abs() < 1e-12);
    }
}
