//! One fact in a long text, asked for at the end (Kamradt, "Needle in a haystack", 2023; RULER's single needle).

use super::{Posed, Task};
use crate::statistics::Random;

const CITIES: [&str; 16] = [
    "Vienna", "Lisbon", "Oslo", "Cairo", "Lima", "Quito", "Dublin", "Prague", "Athens", "Tunis", "Havana", "Kyoto",
    "Nairobi", "Riga", "Seville", "Toronto",
];

const INTRODUCTION: &str = "The secret code of a city is hidden in the following text. Remember it. You will be asked for \
                            the code afterwards.";

/// The secret code of a city, five digits.
pub struct SingleNeedle;

impl Task for SingleNeedle {
    fn name(&self) -> &'static str {
        "needle"
    }

    fn answer_tokens(&self) -> usize {
        24
    }

    fn pose(&self, sentences: &[&str], depth: f64, random: &mut Random) -> Posed {
        let city = CITIES[random.below(CITIES.len())];
        let code = loop {
            let code = (10_000 + random.below(90_000)).to_string();
            // A number that the filler happens to have proves nothing.
            if !sentences.iter().any(|sentence| sentence.contains(&code)) {
                break code;
            }
        };
        let at = (depth.clamp(0.0, 1.0) * sentences.len() as f64).round() as usize;
        let needle = format!("The secret code of {city} is {code}.");
        let mut text = sentences.to_vec();
        text.insert(at.min(sentences.len()), &needle);
        Posed {
            introduction: INTRODUCTION.into(),
            text: text.join(" "),
            question: format!("What is the secret code of {city}?"),
            instruction: "Answer with the number only.".into(),
            expected: vec![code],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_needle_lies_at_its_depth() {
        let sentences = ["a.", "b.", "c.", "d."];
        for (depth, place) in [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4), (7.0, 4)] {
            let posed = SingleNeedle.pose(&sentences, depth, &mut Random::new(5));
            let code = &posed.expected[0];
            assert_eq!(code.len(), 5);
            let before = posed.text.split("The secret").next().unwrap();
            assert_eq!(before.matches('.').count(), place, "{depth}: {}", posed.text);
            assert_eq!(posed.text.matches(code.as_str()).count(), 1);
            assert!(!posed.question.contains(code.as_str()));
        }
    }

    #[test]
    fn the_seed_decides_and_fewer_sentences_keep_the_fact() {
        let sentences = ["a.", "b.", "c.", "d."];
        let pose = |sentences: &[&str], seed| SingleNeedle.pose(sentences, 0.5, &mut Random::new(seed));
        assert_eq!(pose(&sentences, 1), pose(&sentences, 1));
        assert_eq!(pose(&sentences, 1).expected, pose(&sentences[..2], 1).expected);
        assert_ne!(pose(&sentences, 1).expected, pose(&sentences, 2).expected);
    }
}
