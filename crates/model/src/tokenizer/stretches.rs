//! Where parts of a rendered prompt stand among its tokens.

use std::ops::Range;

use super::Tokenizer;
use crate::template::RenderedPrompt;

impl Tokenizer {
    /// Tokens of `ids`, which `prompt` was encoded to, that lie within each of some texts, whole: ascending, without those
    /// texts that are not found behind the one before. A template may trim its messages, so white space around a text does not
    /// count.
    pub fn stretches(&self, prompt: &RenderedPrompt, ids: &[u32], texts: &[&str]) -> Vec<Range<usize>> {
        let mut at = 0;
        let mut found = Vec::with_capacity(texts.len());
        for text in texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
            if let Some(place) = prompt.text[at..].find(text) {
                found.push(at + place..at + place + text.len());
                at += place + text.len();
            }
        }
        let ends = self.ends(prompt, ids);
        let tokens = found.into_iter().map(|bytes| {
            let start = match &ends {
                Some(ends) => ends.partition_point(|&end| end <= bytes.start),
                None => self.common(prompt, ids, bytes.start),
            };
            // A token that begins before the text is none of its own.
            let before =
                |ends: &Vec<usize>| start > 0 && ends[start - 1] < bytes.start || start == 0 && bytes.start > 0;
            let start = start + usize::from(ends.as_ref().is_some_and(before));
            let end = match &ends {
                Some(ends) => ends.partition_point(|&end| end <= bytes.end),
                None => self.common(prompt, ids, bytes.end),
            };
            start..end
        });
        tokens.filter(|tokens| tokens.start < tokens.end).collect()
    }

    /// The byte at which each token ends, where tokens spell the text as it is.
    fn ends(&self, prompt: &RenderedPrompt, ids: &[u32]) -> Option<Vec<usize>> {
        let mut end = 0;
        let ends: Vec<usize> = ids
            .iter()
            .map(|&id| {
                end += self.token_spelling(id).len();
                end
            })
            .collect();
        (end == prompt.text.len()).then_some(ends)
    }

    /// Tokens of the text before a byte that are also those of the whole text.
    fn common(&self, prompt: &RenderedPrompt, ids: &[u32], byte: usize) -> usize {
        let literal = &prompt.literal[..prompt.literal.partition_point(|&at| at < byte)];
        let before = self.encode_with_literals(&prompt.text[..byte], literal).unwrap_or_default();
        before.iter().zip(ids).take_while(|(a, b)| a == b).count()
    }
}
