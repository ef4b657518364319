//! A fact that leads to another. Ours, after RULER's and LongBench's questions over two paragraphs (HotpotQA, Yang et
//! al., 2018), with facts that no model has learned.

use super::facts::Facts;
use super::{Posed, Question, Task};
use crate::statistics::Random;

/// Pairs of facts in a text, those asked for among them.
const LEAST: usize = 4;
/// Digits of a number.
const DIGITS: u32 = 5;

const INTRODUCTION: &str = "The following text says of some things where they are kept, and of some places which number they have. \
     Remember it. You will be asked for the number of the place of one of the things afterwards.";

/// Where a thing is kept, and, half the text away, the number of that place; a question asks for the number by the
/// thing.
pub struct TwoHop;

impl Task for TwoHop {
    fn name(&self) -> &'static str {
        "two-hop"
    }

    fn answer_tokens(&self) -> usize {
        24
    }

    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed {
        let (mut facts, mut questions) = (Facts::among(sentences), Vec::new());
        for i in 0..depths.len().max(LEAST) {
            let depth = depths.get(i).copied().unwrap_or_else(|| random.unit());
            let (thing, place) = (facts.key(random), facts.key(random));
            let number = facts.number(DIGITS, random);
            facts.hide(depth, format!("The {thing} is kept in the {place}."));
            facts.hide((depth + 0.5).fract(), format!("The number of the {place} is {number}."));
            if i < depths.len() {
                let text = format!("What is the number of the place where the {thing} is kept?");
                questions.push(Question::new(text, vec![number], depth));
            }
        }
        Posed {
            introduction: INTRODUCTION.into(),
            text: facts.text(),
            questions,
            instruction: "Answer with the number only.".into(),
            ..Posed::default()
        }
    }
}
