//! Prose of our own, for those who have no text at hand: sentences of a small grammar, different all along.

use crate::statistics::Random;
use crate::{LabError, Text};
use std::path::Path;

const WHO: [&str; 7] =
    ["The keeper", "An old sailor", "Her brother", "The miller", "A child", "Our neighbour", "The doctor"];
const DID: [&str; 8] =
    ["walked to", "painted", "remembered", "sold", "looked for", "asked about", "left behind", "came from"];
const WHAT: [&str; 7] =
    ["the harbour", "a small boat", "the lamp", "the long road", "an empty house", "the river", "a letter"];
const WHEN: [&str; 5] = ["before sunrise", "in the rain", "that winter", "without a word", "for many years"];
/// Sentences of a paragraph.
const PARAGRAPH: usize = 9;

impl Text {
    /// So many made-up sentences. Nothing that a model says of them means much: recipes can be compared on them, models cannot.
    ///
    /// # Errors
    /// [`LabError::Text`] without any.
    pub fn made_up(sentences: usize, seed: u64) -> Result<Text, LabError> {
        let mut random = Random::new(seed);
        let mut text = String::new();
        for i in 0..sentences {
            let mut pick = |of: &[&'static str]| of[random.below(of.len())];
            text += &format!("{} {} {} {}.", pick(&WHO), pick(&DID), pick(&WHAT), pick(&WHEN));
            text += if (i + 1) % PARAGRAPH == 0 { "\n\n" } else { " " };
        }
        Text::new(Path::new("made-up sentences"), text.into_bytes())
    }
}
