//! Facts in a long text, asked for one at a time: the needle in a haystack (Kamradt, 2023). Several may share a text,
//! as questions do in SCBench (Li et al., 2024).

use super::facts::Facts;
use super::{Posed, Question, Task};
use crate::statistics::Random;

/// A fact, the question for it, and what it can be about. Facts of different kinds are not easily confused: a small
/// model that is asked for one of five codes tends to name the last.
struct Kind {
    fact: [&'static str; 3],
    question: [&'static str; 2],
    about: [&'static str; 8],
}

const KINDS: [Kind; 5] = [
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

const INTRODUCTION: &str = "Some facts with numbers are hidden in the following text. Remember them. You will be asked for one of the \
     numbers afterwards.";

/// Facts with a number of five digits, the first of a text a secret code; a question asks for one of them.
pub struct Needles;

impl Task for Needles {
    fn name(&self) -> &'static str {
        "needle"
    }

    fn answer_tokens(&self) -> usize {
        24
    }

    fn questions_of_a_text(&self) -> usize {
        KINDS.iter().map(|kind| kind.about.len()).sum()
    }

    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed {
        let (mut facts, mut questions, mut asked) = (Facts::among(sentences), Vec::new(), Vec::new());
        for (&depth, kind) in depths.iter().zip(KINDS.iter().cycle()) {
            let first = random.below(kind.about.len());
            // Two facts about one thing would contradict each other.
            let mut abouts = kind.about.iter().cycle().skip(first).take(kind.about.len());
            let about = abouts.find(|about| !asked.contains(about)).unwrap_or(&kind.about[first]);
            asked.push(about);
            let number = facts.number(5, random);
            let [begin, middle, end] = kind.fact;
            facts.hide(depth, format!("{begin}{about}{middle}{number}{end}"));
            let [begin, end] = kind.question;
            questions.push(Question::new(format!("{begin}{about}{end}"), vec![number], depth));
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

    #[test]
    fn no_thing_has_two_facts() {
        let most = Needles.questions_of_a_text();
        let posed = Needles.pose(&["a."; 50], &vec![0.5; most], &mut Random::new(7));
        let mut texts: Vec<&str> = posed.questions.iter().map(|question| &question.text[..]).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), most);
    }
}
