//! All values of one key: RULER's needles with several values (Hsieh et al., 2024).

use super::facts::Facts;
use super::multi_key::{DIGITS, INTRODUCTION, fact};
use super::{Posed, Question, Task};
use crate::statistics::Random;

/// Values of a key, as in RULER.
const VALUES: usize = 4;

/// Four numbers of one key at four places; a question asks for all of them.
pub struct MultiValue;

impl Task for MultiValue {
    fn name(&self) -> &'static str {
        "multi-value"
    }

    fn answer_tokens(&self) -> usize {
        96
    }

    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed {
        let (mut facts, mut questions) = (Facts::among(sentences), Vec::new());
        for &depth in depths {
            let (key, mut numbers) = (facts.key(random), Vec::new());
            for i in 0..VALUES {
                let number = facts.number(DIGITS, random);
                // One at the depth of the question, the others as far from it as they come.
                facts.hide((depth + i as f64 / VALUES as f64).fract(), fact(&key, &number));
                numbers.push(number);
            }
            let text = format!("What are all the reference numbers of {key} that the text names?");
            let mut question = Question::new(text, numbers, depth);
            question = question.prefix(format!("The reference numbers of {key} are"));
            questions.push(question);
        }
        let instruction = format!("Answer with the {VALUES} numbers only.");
        Posed { introduction: INTRODUCTION.into(), text: facts.text(), questions, instruction, ..Posed::default() }
    }
}
