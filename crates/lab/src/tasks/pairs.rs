//! Values by their keys, in a text that has nothing else (Liu et al., "Lost in the Middle", 2023). Keys and values
//! are words instead of random letters, so that a small model can read them.

use super::{Posed, Question, Task, lexicon};
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
const INTRODUCTION: &str = "Below is a JSON object with keys and their values. Remember it. You will be asked for the value of one of \
     the keys afterwards.";
/// Keys of two words; longer objects have keys of three as well.
const SHORT: usize = NAMES.len() * WORDS.len();
/// A stride that has no divisor in common with the number of keys of three words, so that all come before one comes
/// again.
const STRIDE: usize = 100_003;

/// An object of keys with a word each; a question asks for the word of one. Several keys may have the same word.
pub struct KeyValue;

impl Task for KeyValue {
    fn name(&self) -> &'static str {
        "kv-retrieval"
    }

    fn answer_tokens(&self) -> usize {
        8
    }

    fn made_up(&self) -> bool {
        true
    }

    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed {
        let count = sentences.len().max(depths.len());
        let mut keys: Vec<usize> = (0..SHORT).collect();
        random.shuffle(&mut keys);
        let first = random.below(NAMES.len() * lexicon::PAIRS);
        let key = |at: usize| match keys.get(at) {
            Some(key) => format!("{} {}", NAMES[key / WORDS.len()], WORDS[key % WORDS.len()]),
            None => {
                let key = (first + (at - SHORT) * STRIDE) % (NAMES.len() * lexicon::PAIRS);
                format!("{} {}", NAMES[key / lexicon::PAIRS], lexicon::pair(key % lexicon::PAIRS))
            }
        };
        // Those that are asked for come first of all, and go to their depths, so that a shorter object has the same
        // ones.
        let values: Vec<&str> = (0..count).map(|_| WORDS[random.below(WORDS.len())]).collect();
        let mut order: Vec<usize> = (depths.len()..count).collect();
        for (at, &depth) in depths.iter().enumerate() {
            let place = (depth.clamp(0.0, 1.0) * count as f64) as usize;
            order.insert(place.min(order.len()), at);
        }
        let pairs: Vec<String> = order.iter().map(|&at| format!("\"{}\": \"{}\"", key(at), values[at])).collect();
        let question = |(at, &depth): (usize, &f64)| {
            let text = format!("What is the value of \"{}\"?", key(at));
            let mut question = Question::new(text, vec![values[at].to_owned()], depth);
            question.prefix = format!("\"{}\": \"", key(at));
            question.answer = format!("{}\"", values[at]);
            question
        };
        Posed {
            introduction: INTRODUCTION.into(),
            text: format!("{{{}}}", pairs.join(",\n")),
            questions: depths.iter().enumerate().map(question).collect(),
            instruction: "Answer with the pair only.".into(),
            ..Posed::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_one_value_and_those_asked_for_lie_at_their_depths() {
        let sentences = [""; 40];
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
        let shorter = KeyValue.pose(&sentences[..10], &depths, &mut Random::new(3));
        assert_eq!(posed.questions, shorter.questions);
    }

    #[test]
    fn long_objects_have_no_key_twice() {
        let posed = KeyValue.pose(&vec![""; 20_000], &[0.5], &mut Random::new(3));
        let mut keys: Vec<&str> = posed.text.lines().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(keys.len(), 20_000);
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 20_000);
        let all = NAMES.len() * lexicon::PAIRS;
        assert!((2..STRIDE).all(|divisor| !STRIDE.is_multiple_of(divisor) || !all.is_multiple_of(divisor)));
    }
}
