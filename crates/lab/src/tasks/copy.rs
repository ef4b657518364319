//! A passage to be repeated word by word. Ours: every token of the answer depends on the cache, and nothing can be
//! guessed.

use super::facts::Facts;
use super::{Posed, Question, Scoring, Task, lexicon};
use crate::statistics::Random;

/// Words of a passage.
const WORDS: usize = 24;

const INTRODUCTION: &str = "The following text has passages with names between the marks BEGIN and END. Remember them word by word. You \
     will be asked to repeat one of them afterwards.";

/// Passages of random words, each with a name; a question asks for one of them. Scored by how much of it the answer
/// gets right before the first mistake.
pub struct VerbatimCopy;

impl Task for VerbatimCopy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn answer_tokens(&self) -> usize {
        128
    }

    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed {
        let (mut facts, mut questions) = (Facts::among(sentences), Vec::new());
        for &depth in depths {
            let name = facts.key(random);
            let words = (0..WORDS).map(|_| match random.below(2) {
                0 => lexicon::ADJECTIVES[random.below(lexicon::ADJECTIVES.len())],
                _ => lexicon::NOUNS[random.below(lexicon::NOUNS.len())],
            });
            let passage = words.collect::<Vec<_>>().join(" ");
            facts.hide(depth, format!("BEGIN {name}: {passage} END."));
            let text = format!("What stands between BEGIN {name} and END?");
            let mut question = Question::new(text, vec![passage], depth);
            question = question.prefix(format!("BEGIN {name}:"));
            question.scoring = Scoring::Beginning;
            questions.push(question);
        }
        Posed {
            introduction: INTRODUCTION.into(),
            text: facts.text(),
            questions,
            instruction: "Repeat the passage word by word and write nothing else.".into(),
            ..Posed::default()
        }
    }
}
