//! The three coded words that a text has most often: RULER's frequent words (Hsieh et al., 2024).

use super::{Posed, Question, Task};
use crate::statistics::Random;

/// Letters of a coded word, as in RULER.
const LETTERS: usize = 6;
/// Words asked for.
const ASKED: usize = 3;
/// What stands in place of the most frequent word, as in RULER.
const NOISE: &str = "...";
/// π² / 6, the sum of all k⁻².
const ZETA: f64 = 1.644_934_066_848_226_4;
/// With fewer words the fourth and fifth may be equally frequent.
const LEAST: usize = 80;

const INTRODUCTION: &str =
    "The following text is in code. Count how often each coded word stands in it; the dots mean nothing.";

/// Random words of six letters; the one of rank k stands there in proportion to k⁻², and the first is noise. A text has
/// one question.
pub struct FrequentWords;

impl Task for FrequentWords {
    fn name(&self) -> &'static str {
        "frequent-words"
    }

    fn answer_tokens(&self) -> usize {
        50
    }

    fn made_up(&self) -> bool {
        true
    }

    fn questions_of_a_text(&self) -> usize {
        1
    }

    fn pose(&self, sentences: &[&str], _: &[f64], random: &mut Random) -> Posed {
        let wanted = sentences.len().max(LEAST) as f64;
        let (mut words, mut text): (Vec<String>, Vec<usize>) = (Vec::new(), Vec::new());
        for rank in 1usize.. {
            let count = (wanted / (rank * rank) as f64 / ZETA) as usize;
            if count == 0 {
                break;
            }
            text.extend(std::iter::repeat_n(words.len(), count));
            words.push(if rank == 1 { NOISE.into() } else { new_word(&words, random) });
        }
        random.shuffle(&mut text);
        let expected = words[1..=ASKED].to_vec();
        let mut question = Question::new("Which three coded words stand in the text most often?".into(), expected, 0.0);
        question = question.prefix("The three coded words that stand in the text most often are".into());
        question.depth = None;
        Posed {
            introduction: INTRODUCTION.into(),
            text: text.into_iter().map(|word| &words[word][..]).collect::<Vec<_>>().join(" "),
            questions: vec![question],
            instruction: "Answer with the three words only.".into(),
            ..Posed::default()
        }
    }
}

fn new_word(words: &[String], random: &mut Random) -> String {
    loop {
        let word: String = (0..LETTERS).map(|_| char::from(b'a' + random.below(26) as u8)).collect();
        if !words.contains(&word) {
            return word;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_are_the_most_frequent_and_follow_the_law() {
        for wanted in [0, 100, 1000, 20_000] {
            let posed = FrequentWords.pose(&vec![""; wanted], &[0.5], &mut Random::new(4));
            let words: Vec<&str> = posed.text.split(' ').collect();
            let count = |word: &str| words.iter().filter(|other| **other == word).count();
            let three: Vec<usize> = posed.questions[0].expected.iter().map(|word| count(word)).collect();
            assert!(three.is_sorted_by(|a, b| a > b), "{three:?}");
            let others =
                words.iter().filter(|word| **word != NOISE && !posed.questions[0].expected.contains(&(**word).into()));
            assert!(others.map(|word| count(word)).max() < three.last().copied(), "{wanted}");
            // Noise is four times as frequent as the first word and nine times as frequent as the second.
            let noise = count(NOISE) as f64;
            assert!(
                (noise / three[0] as f64 / 4.0 - 1.0).abs() < 0.1 && (noise / three[1] as f64 / 9.0 - 1.0).abs() < 0.2
            );
        }
    }
}
