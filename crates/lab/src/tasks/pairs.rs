//! Values by their keys, in a text that has nothing else (Liu et al., "Lost in the Middle", 2023). Keys and values
//! are words instead of random letters, so that a small model can read them.

use super::{Posed, Question, Task};
use crate::statistics::Random;

const NAMES: [&str; 48] = [
    "Alice", "Arthur", "Barbara", "Benjamin", "Charles", "Clara", "Daniel", "Diana", "Edward", "Emily", "Felix",
    "Frank", "George", "Grace", "Hannah", "Henry", "Isaac", "Ivan", "Jack", "Julia", "Kevin", "Laura", "Leo", "Louis",
    "Maria", "Martin", "Nathan", "Nora", "Oliver", "Oscar", "Paula", "Peter", "Quentin", "Rachel", "Robert", "Rosa",
    "Samuel", "Sarah", "Simon", "Sophie", "Thomas", "Tony", "Ursula", "Victor", "Violet", "Walter", "Wendy", "Xavier",
];
const WORDS: [&str; 48] = [
    "apple", "badger", "barn", "bridge", "candle", "castle", "comet", "crow", "desert", "eagle", "falcon", "forest",
    "fox", "garden", "hammer", "harbor", "island", "kettle", "ladder", "lion", "meadow", "mirror", "otter", "pearl",
    "piano", "river", "rocket", "saddle", "tiger", "tower", "valley", "window", "anchor", "basket", "button", "camel",
    "carpet", "donkey", "engine", "feather", "guitar", "helmet", "jacket", "lantern", "needle", "onion", "pencil",
    "rabbit",
];
const INTRODUCTION: &str = "Below is a JSON object with keys and their values. Remember it. You will be asked for the value of \
                            one of the keys afterwards.";
/// Pairs for each sentence that the filler would have: about as long.
const PAIRS: usize = 2;

/// An object of keys with a word each; a question asks for the word of one. Several keys may have the same word.
pub struct KeyValue;

impl Task for KeyValue {
    fn name(&self) -> &'static str {
        "kv-retrieval"
    }

    fn answer_tokens(&self) -> usize {
        8
    }

    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed {
        let count = (PAIRS * sentences.len()).clamp(depths.len(), NAMES.len() * WORDS.len());
        let mut keys: Vec<(&str, &str)> =
            NAMES.iter().flat_map(|&name| WORDS.iter().map(move |&word| (name, word))).collect();
        for at in 0..keys.len() {
            let other = at + random.below(keys.len() - at);
            keys.swap(at, other);
        }
        // For all keys, so that a shorter object has the same ones.
        let values: Vec<&str> = keys.iter().map(|_| WORDS[random.below(WORDS.len())]).collect();
        // Those that are asked for come first of all, and go to their depths.
        let mut order: Vec<usize> = (depths.len()..count).collect();
        for (at, &depth) in depths.iter().enumerate() {
            let place = (depth.clamp(0.0, 1.0) * count as f64) as usize;
            order.insert(place.min(order.len()), at);
        }
        let pair = |&at: &usize| format!("\"{} {}\": \"{}\"", keys[at].0, keys[at].1, values[at]);
        let pairs: Vec<String> = order.iter().map(pair).collect();
        let question = |at: usize| {
            let key = format!("{} {}", keys[at].0, keys[at].1);
            let text = format!("What is the value of \"{key}\"?");
            Question { text, prefix: format!("\"{key}\": \""), expected: vec![values[at].to_owned()] }
        };
        Posed {
            introduction: INTRODUCTION.into(),
            text: format!("{{{}}}", pairs.join(",\n")),
            questions: (0..depths.len()).map(question).collect(),
            instruction: "Answer with the pair only.".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_one_value_and_those_asked_for_lie_at_their_depths() {
        let sentences = ["a."; 20];
        let depths = [0.05, 0.5, 0.95];
        let posed = KeyValue.pose(&sentences, &depths, &mut Random::new(3));
        let lines: Vec<&str> = posed.text.lines().collect();
        assert_eq!(lines.len(), 40);
        for (question, depth) in posed.questions.iter().zip(depths) {
            let pair = format!("{}{}\"", question.prefix, question.expected[0]);
            let at = lines.iter().position(|line| line.contains(&pair)).unwrap();
            assert!((at as f64 / 40.0 - depth).abs() < 0.1, "{at} {depth}");
            assert_eq!(posed.text.matches(&question.prefix).count(), 1);
        }
        let shorter = KeyValue.pose(&sentences[..5], &depths, &mut Random::new(3));
        assert_eq!(posed.questions, shorter.questions);
    }
}
