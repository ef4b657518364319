//! Several keys asked for at once: RULER's needles with several queries (Hsieh et al., 2024).

use super::facts::Facts;
use super::multi_key::{DIGITS, INTRODUCTION, fact};
use super::{Posed, Question, Task};
use crate::statistics::Random;

/// Keys of a question, as in RULER.
const KEYS: usize = 4;

/// Four facts with a key and a number each; a question asks for all four numbers.
pub struct MultiQuery;

impl Task for MultiQuery {
    fn name(&self) -> &'static str {
        "multi-query"
    }

    fn answer_tokens(&self) -> usize {
        128
    }

    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed {
        let (mut facts, mut questions) = (Facts::among(sentences), Vec::new());
        for &depth in depths {
            let (mut keys, mut numbers) = (Vec::new(), Vec::new());
            for i in 0..KEYS {
                let (key, number) = (facts.key(random), facts.number(DIGITS, random));
                // One at the depth of the question, the others as far from it as they come.
                facts.hide((depth + i as f64 / KEYS as f64).fract(), fact(&key, &number));
                keys.push(key);
                numbers.push(number);
            }
            let last = keys.pop().unwrap_or_default();
            let keys = format!("{}, and {last}", keys.join(", "));
            let mut question = Question::new(format!("What are the reference numbers of {keys}?"), numbers, depth);
            question = question.prefix(format!("The reference numbers of {keys} are"));
            questions.push(question);
        }
        let instruction = format!("Answer with the {KEYS} numbers only.");
        Posed { introduction: INTRODUCTION.into(), text: facts.text(), questions, instruction, ..Posed::default() }
    }
}
