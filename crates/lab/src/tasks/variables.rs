//! Variables that get their value from others: RULER's variable tracking (Hsieh et al., 2024).

use super::facts::Facts;
use super::{Posed, Question, Task};
use crate::statistics::Random;

/// Assignments of one variable to the next, as in RULER.
const HOPS: usize = 4;
/// Letters of a name, as in RULER.
const LETTERS: usize = 5;
/// Digits of a value, as in RULER.
const DIGITS: u32 = 5;

const INTRODUCTION: &str = "Assignments of variables are hidden in the following text. Follow which variable has which value. You will \
     be asked for all variables with one of the values afterwards.";

/// A chain of assignments for each question, each behind the one before at random places; the question asks for the
/// names of all variables of its chain. The other chains are there to be mistaken for it.
pub struct VariableTracking;

impl Task for VariableTracking {
    fn name(&self) -> &'static str {
        "variable-tracking"
    }

    fn answer_tokens(&self) -> usize {
        64
    }

    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed {
        let (mut facts, mut questions) = (Facts::among(sentences), Vec::new());
        for _ in depths {
            let value = facts.number(DIGITS, random);
            let names: Vec<String> = (0..=HOPS).map(|_| facts.name(LETTERS, random)).collect();
            let mut places: Vec<f64> = names.iter().map(|_| random.unit()).collect();
            places.sort_by(f64::total_cmp);
            for (i, place) in places.into_iter().enumerate() {
                let from = if i == 0 { value.clone() } else { format!("VAR {}", names[i - 1]) };
                facts.hide(place, format!("VAR {} = {from}.", names[i]));
            }
            let mut question =
                Question::new(format!("Which variables have the value {value} in the text?"), names, 0.0);
            question = question.prefix(format!("The {} variables with the value {value} are", HOPS + 1));
            // The whole chain is the answer.
            question.depth = None;
            questions.push(question);
        }
        Posed {
            introduction: INTRODUCTION.into(),
            text: facts.text(),
            questions,
            instruction: "Answer with their names only.".into(),
            ..Posed::default()
        }
    }
}
