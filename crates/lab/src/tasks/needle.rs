//! Facts in a long text, asked for one at a time: the needle in a haystack (Kamradt, 2023). Several may share a text, as
//! questions do in SCBench (Li et al., 2024).

use super::{Posed, Question, Task, hidden, number};
use crate::statistics::Random;

/// A fact, the question for it, and what it can be about. Facts of different kinds are not easily confused: a small model
/// that is asked for one of five codes tends to name the last.
pub(super) struct Kind {
    pub fact: [&'static str; 3],
    pub question: [&'static str; 2],
    pub about: [&'static str; 8],
}

pub(super) const KINDS: [Kind; 5] = [
    Kind {
        fact: ["The secret code of ", " is ", "."],
        question: ["What is the secret code of ", "?"],
        about: ["Vienna", "Lisbon", "Oslo", "Cairo", "Lima", "Havana", "Kyoto", "Toronto"],
    },
    Kind {
        fact: ["The ship ", " carried exactly ", " barrels of oil."],
        question: ["How many barrels of oil did the ship ", " carry?"],
        about: ["Albatross", "Dolphin", "Meridian", "Northwind", "Pelican", "Sirius", "Triton", "Valiant"],
    },
    Kind {
        fact: ["Doctor ", " has the telephone number ", "."],
        question: ["What is the telephone number of Doctor ", "?"],
        about: ["Abbott", "Brandt", "Castillo", "Dupont", "Eriksen", "Fischer", "Gallagher", "Horvath"],
    },
    Kind {
        fact: ["The painting of the ", " was sold for ", " dollars."],
        question: ["For how many dollars was the painting of the ", " sold?"],
        about: [
            "blue horse",
            "broken bridge",
            "golden harp",
            "red tower",
            "sleeping fox",
            "white lily",
            "harbour",
            "mill",
        ],
    },
    Kind {
        fact: ["The bicycle of aunt ", " bears the registration ", "."],
        question: ["Which registration does the bicycle of aunt ", " bear?"],
        about: ["Agatha", "Bertha", "Clara", "Edith", "Matilda", "Olivia", "Rosalind", "Winifred"],
    },
];

const INTRODUCTION: &str = "Some facts with numbers are hidden in the following text. Remember them. You will be asked for \
                            one of the numbers afterwards.";

/// Facts with a number of five digits, the first of a text a secret code; a question asks for one of them.
pub struct Needles;

impl Task for Needles {
    fn name(&self) -> &'static str {
        "needle"
    }

    fn answer_tokens(&self) -> usize {
        24
    }

    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed {
        let mut facts: Vec<(usize, String)> = Vec::new();
        let mut questions: Vec<Question> = Vec::new();
        for (&depth, kind) in depths.iter().zip(KINDS.iter().cycle()) {
            let about = kind.about[random.below(kind.about.len())];
            let known = |number: &str| questions.iter().any(|question| question.expected[0] == number);
            let number = number(sentences, known, random);
            let at = (depth.clamp(0.0, 1.0) * sentences.len() as f64).round() as usize;
            let [begin, middle, end] = kind.fact;
            facts.push((at.min(sentences.len()), format!("{begin}{about}{middle}{number}{end}")));
            let [begin, end] = kind.question;
            let text = format!("{begin}{about}{end}");
            questions.push(Question { text, prefix: String::new(), expected: vec![number] });
        }
        Posed {
            introduction: INTRODUCTION.into(),
            text: hidden(sentences, &facts),
            questions,
            instruction: "Answer with the number only.".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needles_lie_at_their_depths() {
        let sentences = ["a.", "b.", "c.", "d."];
        let posed = Needles.pose(&sentences, &[0.0, 0.25, 0.5, 1.0, 7.0], &mut Random::new(5));
        for (question, place) in posed.questions.iter().zip([0, 1, 2, 4, 4]) {
            let code = &question.expected[0];
            assert_eq!(code.len(), 5);
            let before = posed.text.split(code).next().unwrap();
            let sentences = before.split(' ').filter(|word| sentences.contains(word)).count();
            assert_eq!(sentences, place, "{}", posed.text);
            assert_eq!(posed.text.matches(code.as_str()).count(), 1);
            assert!(!question.text.contains(code.as_str()));
        }
    }

    #[test]
    fn the_seed_decides_and_fewer_sentences_keep_the_facts() {
        let sentences = ["a.", "b.", "c.", "d."];
        let pose = |sentences: &[&str], seed| Needles.pose(sentences, &[0.2, 0.5, 0.9], &mut Random::new(seed));
        assert_eq!(pose(&sentences, 1), pose(&sentences, 1));
        assert_eq!(pose(&sentences, 1).questions, pose(&sentences[..2], 1).questions);
        assert_ne!(pose(&sentences, 1).questions, pose(&sentences, 2).questions);
    }
}
