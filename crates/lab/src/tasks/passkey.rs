//! The pass key (Mohtashami and Jaggi, "Landmark attention", 2023), in the user's text instead of repeated sentences.

use super::facts::Facts;
use super::{Posed, Question, Task};
use crate::statistics::Random;

const INTRODUCTION: &str = "Something important is hidden in a lot of text that does not matter. Find it and remember it. You will be \
     asked for it afterwards.";

/// A number of five digits that is called the pass key. A text has one.
pub struct PassKey;

impl Task for PassKey {
    fn name(&self) -> &'static str {
        "passkey"
    }

    fn answer_tokens(&self) -> usize {
        16
    }

    fn questions_of_a_text(&self) -> usize {
        1
    }

    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed {
        let mut facts = Facts::among(sentences);
        let number = facts.number(5, random);
        let depth = depths.first().copied().unwrap_or(0.5);
        facts.hide(depth, format!("The pass key is {number}. Remember it."));
        let mut question = Question::new("What is the pass key?".into(), vec![number], depth);
        question = question.prefix("The pass key is".into());
        Posed {
            introduction: INTRODUCTION.into(),
            text: facts.text(),
            questions: vec![question],
            instruction: "Answer with the number only.".into(),
            ..Posed::default()
        }
    }
}
