//! What lies around the facts: sentences of a text of the user's.

use crate::statistics::Random;
use crate::{LabError, Text};
use cachalot_model::tokenizer::{Specials, Tokenizer};

/// Words after which a sentence ends, whatever stands there: tables and code have no full stops.
const LONGEST: usize = 40;
/// Bytes cut from the text per token wanted; English has four or five.
const BYTES_PER_TOKEN: usize = 8;

/// A text as a source of consecutive sentences.
pub struct Filler<'a> {
    text: &'a Text,
    tokenizer: &'a Tokenizer,
    cut: String,
}

impl<'a> Filler<'a> {
    /// From a text.
    pub fn new(text: &'a Text, tokenizer: &'a Tokenizer) -> Filler<'a> {
        Filler { text, tokenizer, cut: String::new() }
    }

    /// Consecutive sentences of a random place, together at least `tokens` tokens and at most one sentence more, each
    /// with its words joined by single spaces.
    ///
    /// # Errors
    /// [`LabError::Text`] where the whole text is shorter.
    pub fn take(&mut self, tokens: usize, random: &mut Random) -> Result<Vec<&str>, LabError> {
        let text = self.text.as_str();
        let bytes = tokens * BYTES_PER_TOKEN;
        let start = text.floor_char_boundary(random.below(text.len().saturating_sub(bytes) + 1));
        let mut ranges = Vec::new();
        // Where the place has too few tokens (blank lines, say), from the beginning to the end.
        for (start, end) in [(start, text.ceil_char_boundary(start + bytes)), (0, text.len())] {
            ranges = self.sentences(start, end, tokens)?;
            if !ranges.is_empty() {
                break;
            }
        }
        if ranges.is_empty() {
            let reason = format!("is too short to fill {tokens} tokens; give a longer text or ask for fewer");
            return Err(LabError::Text { path: self.text.path().into(), reason });
        }
        Ok(ranges.into_iter().map(|range| &self.cut[range]).collect())
    }

    /// Ranges of `self.cut`; none where the part has too few tokens.
    fn sentences(&mut self, start: usize, end: usize, tokens: usize) -> Result<Vec<std::ops::Range<usize>>, LabError> {
        self.cut.clear();
        let (mut ranges, mut have) = (Vec::new(), 0);
        // What stands before the first end of a sentence is half of one.
        let (mut begun, mut words, mut at) = (start == 0, 0, 0);
        for word in self.text.as_str()[start..end].split_whitespace() {
            if words > 0 {
                self.cut.push(' ');
            }
            self.cut.push_str(word);
            words += 1;
            let closed = word.trim_end_matches(['"', '\'', ')', '”', '’']).ends_with(['.', '!', '?']);
            if !closed && words < LONGEST {
                continue;
            }
            if begun {
                have += self.tokenizer.encode(&format!(" {}", &self.cut[at..]), Specials::Plain)?.len();
                ranges.push(at..self.cut.len());
                if have >= tokens {
                    return Ok(ranges);
                }
            }
            (begun, words, at) = (true, 0, self.cut.len());
        }
        Ok(Vec::new())
    }
}
