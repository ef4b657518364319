//! The ten words that a list has most often: RULER's common words (Hsieh et al., 2024).

use super::{Posed, Question, Task, lexicon};
use crate::statistics::Random;

/// Common words, as in RULER.
const COMMON: usize = 10;
/// How often a list of so many words has a common and another word; RULER has the first from 4,096 tokens on, the
/// second below. Shorter lists have common words less often.
const REPEATS: [(usize, usize, usize); 2] = [(600, 30, 3), (120, 6, 1)];

const INTRODUCTION: &str = "The following is a numbered list of words. Some stand in it more often than others. Remember those that \
     stand in it most often.";

/// A numbered list of made-up words of two; ten stand in it several times as often as the others. A text has one
/// question.
pub struct CommonWords;

impl Task for CommonWords {
    fn name(&self) -> &'static str {
        "common-words"
    }

    fn answer_tokens(&self) -> usize {
        120
    }

    fn made_up(&self) -> bool {
        true
    }

    fn questions_of_a_text(&self) -> usize {
        1
    }

    fn pose(&self, sentences: &[&str], _: &[f64], random: &mut Random) -> Posed {
        // No list is shorter than one with every common word twice and as many others once.
        let entries = sentences.len().max(3 * COMMON);
        let (common, mut other) = match REPEATS.into_iter().find(|repeats| entries >= repeats.0) {
            Some((_, common, other)) => (common, other),
            None => ((entries / (2 * COMMON)).clamp(2, 6), 1),
        };
        // As many words as there are.
        let rest = entries - common * COMMON;
        other = other.max(rest.div_ceil(lexicon::PAIRS - COMMON));
        let common = common.max(2 * other);
        let mut words: Vec<usize> = (0..lexicon::PAIRS).collect();
        random.shuffle(&mut words);
        let mut list: Vec<usize> = Vec::with_capacity(entries);
        (0..common).for_each(|_| list.extend(&words[..COMMON]));
        let rest = words[COMMON..].iter().flat_map(|word| std::iter::repeat_n(*word, other));
        list.extend(rest.take(entries.saturating_sub(list.len())));
        random.shuffle(&mut list);
        let list = list.iter().enumerate().map(|(at, word)| format!("{}. {}", at + 1, lexicon::pair(*word)));
        let mut question = Question::new(
            "Which ten words stand in the list most often?".into(),
            words[..COMMON].iter().map(|word| lexicon::pair(*word)).collect(),
            0.0,
        );
        question = question.prefix("The ten words that stand in the list most often are".into());
        question.depth = None;
        Posed {
            introduction: INTRODUCTION.into(),
            text: list.collect::<Vec<_>>().join(" "),
            questions: vec![question],
            instruction: "Answer with the ten words only.".into(),
            ..Posed::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn common_words_stand_out_at_any_length() {
        for entries in [0, 31, 119, 120, 599, 600, 20_000, 50_000, 500_000] {
            let posed = CommonWords.pose(&vec![""; entries], &[0.5], &mut Random::new(4));
            let mut counts: HashMap<&str, usize> = HashMap::new();
            posed.text.split(' ').skip(1).step_by(2).for_each(|word| *counts.entry(word).or_default() += 1);
            let expected = &posed.questions[0].expected;
            let least = expected.iter().map(|word| counts[&word[..]]).min().unwrap();
            let most = counts.iter().filter(|(word, _)| !expected.iter().any(|e| e == *word)).map(|c| *c.1).max();
            assert!(least >= 2 * most.unwrap(), "{entries}: {least} {most:?}");
            assert_eq!(counts.values().sum::<usize>(), entries.max(30));
        }
    }
}
