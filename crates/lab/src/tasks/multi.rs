//! Several facts of one kind in a long text, asked for together: RULER's needles with many values (Hsieh et al., 2024).

use super::needle::{KINDS, Kind};
use super::{Posed, Question, Task, hidden, number};
use crate::statistics::Random;

/// Facts of one question.
const FACTS: usize = 3;

const INTRODUCTION: &str = "Some facts with numbers are hidden in the following text. Remember them. You will be asked for \
                            all numbers of one kind afterwards.";

/// Three facts of one kind at three depths, all of which are asked for. Each question of a text is about another kind.
pub struct MultiNeedles;

impl Task for MultiNeedles {
    fn name(&self) -> &'static str {
        "multi-needle"
    }

    fn answer_tokens(&self) -> usize {
        48
    }

    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed {
        let (mut facts, mut questions): (Vec<(usize, String)>, Vec<Question>) = (Vec::new(), Vec::new());
        for (&depth, Kind { fact, question, about }) in depths.iter().zip(KINDS.iter().cycle()) {
            let mut expected: Vec<String> = Vec::new();
            let first = random.below(about.len());
            let about: Vec<&str> = (0..FACTS).map(|i| about[(first + i) % about.len()]).collect();
            for (i, about) in about.iter().enumerate() {
                let known = |number: &str| {
                    let mut others = expected.iter().chain(questions.iter().flat_map(|question| &question.expected));
                    others.any(|other| other == number)
                };
                let number = number(sentences, known, random);
                // One of them at the depth of the question, the others as far from it as they come.
                let at = (depth + i as f64 / FACTS as f64).fract() * sentences.len() as f64;
                let [begin, middle, end] = fact;
                facts.push((at.round() as usize, format!("{begin}{about}{middle}{number}{end}")));
                expected.push(number);
            }
            let [begin, end] = question;
            let text = format!("{begin}{}{end}", about.join(", of "));
            questions.push(Question { text, prefix: String::new(), expected });
        }
        let instruction = format!("Answer with the {FACTS} numbers only.");
        Posed { introduction: INTRODUCTION.into(), text: hidden(sentences, &facts), questions, instruction }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_for_all_its_facts() {
        let sentences = ["a."; 9];
        let posed = MultiNeedles.pose(&sentences, &[0.1, 0.8], &mut Random::new(3));
        let mut all: Vec<&String> = posed.questions.iter().flat_map(|question| &question.expected).collect();
        assert!(all.iter().all(|code| posed.text.matches(code.as_str()).count() == 1));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 2 * FACTS);
        // Each of the things that a question names has one fact.
        for about in KINDS[0].about.iter().filter(|about| posed.questions[0].text.contains(**about)) {
            assert_eq!(posed.text.matches(about).count(), 1);
        }
    }
}
