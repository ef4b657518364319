//! One of many facts that differ in their keys only: RULER's needles with several keys (Hsieh et al., 2024).

use super::facts::Facts;
use super::{Posed, Question, Task};
use crate::statistics::Random;

/// Facts in a text, those asked for among them; RULER's first variant has as many.
const LEAST: usize = 4;
/// Sentences for each further one.
const EVERY: usize = 10;
/// Most facts.
const MOST: usize = 100;
/// Digits of a number, as in RULER.
pub(super) const DIGITS: u32 = 7;

pub(super) const INTRODUCTION: &str = "Reference numbers of several things are hidden in the following text. Remember them. You will be asked for \
     some of them afterwards.";

/// What says that a thing has a number.
pub(super) fn fact(key: &str, number: &str) -> String {
    format!("One of the reference numbers of {key} is {number}.")
}

/// Facts about keys of two words, at random places but for those asked for; a question asks for one of them.
pub struct MultiKey;

impl Task for MultiKey {
    fn name(&self) -> &'static str {
        "multi-key"
    }

    fn answer_tokens(&self) -> usize {
        32
    }

    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed {
        let (mut facts, mut questions) = (Facts::among(sentences), Vec::new());
        for &depth in depths {
            let (key, number) = (facts.key(random), facts.number(DIGITS, random));
            facts.hide(depth, fact(&key, &number));
            let mut question = Question::new(format!("What is the reference number of {key}?"), vec![number], depth);
            question = question.prefix(format!("The reference number of {key} is"));
            questions.push(question);
        }
        for _ in depths.len()..(sentences.len() / EVERY).clamp(LEAST, MOST) {
            let (key, number) = (facts.key(random), facts.number(DIGITS, random));
            facts.hide(random.unit(), fact(&key, &number));
        }
        let instruction = "Answer with the number only.".into();
        Posed { introduction: INTRODUCTION.into(), text: facts.text(), questions, instruction, ..Posed::default() }
    }
}
