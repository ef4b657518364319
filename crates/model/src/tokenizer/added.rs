//! Added tokens: the strings that are matched in the text before any tokenization, and where they may be matched.
//!
//! They come in two sorts. **Control** tokens steer a model (turn marks, end marks, tool marks); text that a user wrote
//! must never produce one. **Ordinary** added tokens are plain vocabulary that the trainer kept whole (runs of spaces,
//! `<think>` in some families); they are honoured everywhere, as the reference implementations do.

use std::ops::Range;

/// Texts that steer a model in the families served here. A vocabulary that forgets to mark them as special is corrected.
pub(crate) const TURN_MARKS: &[&str] = &[
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
];

/// Texts that end a generation wherever they are control tokens.
pub(crate) const END_MARKS: &[&str] =
    &["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>"];

/// One added token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub id: u32,
    pub text: String,
    /// Steers the model; see the module's head.
    pub control: bool,
    /// Also takes the whitespace before it.
    pub lstrip: bool,
    /// Also takes the whitespace behind it.
    pub rstrip: bool,
    /// Matches only between non-word characters.
    pub single_word: bool,
    /// Matched in the normalized text instead of in the text as it came.
    pub normalized: bool,
}

impl AddedToken {
    /// A token without any of the matching rules.
    pub fn plain(id: u32, text: &str, control: bool) -> Self {
        AddedToken {
            id,
            text: text.into(),
            control,
            lstrip: false,
            rstrip: false,
            single_word: false,
            normalized: false,
        }
    }
}

/// Which text is being searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// The text as it came.
    Raw,
    /// The text after the normalizer.
    Normalized,
}

/// A stretch of text and, where it is an added token, that token's id.
pub(crate) type Part = (Range<usize>, Option<u32>);

/// All added tokens of a tokenizer with what is needed to find them.
#[derive(Debug, Default)]
pub(crate) struct AddedTokens {
    tokens: Vec<AddedToken>,
    raw: Trie,
    normalized: Trie,
    control: Trie,
}

impl AddedTokens {
    /// Takes the tokens; `normalize` gives the text that a token with `normalized` is matched as.
    pub fn new(mut tokens: Vec<AddedToken>, normalize: impl Fn(&str) -> String) -> Self {
        let (mut raw, mut normalized, mut control) = (Trie::default(), Trie::default(), Trie::default());
        tokens.retain(|t| !t.text.is_empty());
        for (index, token) in tokens.iter_mut().enumerate() {
            token.control |= TURN_MARKS.contains(&token.text.as_str());
            let index = index as u32;
            if token.control {
                control.insert(token.text.as_bytes(), index);
            }
            // Control tokens are always matched in the text as it came, so that offsets given by a caller apply to them.
            if token.normalized && !token.control {
                normalized.insert(normalize(&token.text).as_bytes(), index);
            } else {
                raw.insert(token.text.as_bytes(), index);
            }
        }
        AddedTokens { tokens, raw, normalized, control }
    }

    /// All of them, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.tokens.iter()
    }

    /// Whether [`split`](Self::split) can find anything at this level.
    pub fn any(&self, level: Level) -> bool {
        match level {
            Level::Raw => !self.raw.nodes.is_empty(),
            Level::Normalized => !self.normalized.nodes.is_empty(),
        }
    }

    /// Cuts `text` at the added tokens, leftmost first and then longest first. `honour` is asked about each candidate
    /// with the byte offset where its text begins; a candidate that it refuses stays text. The parts cover `text`.
    pub fn split(&self, text: &str, level: Level, honour: &dyn Fn(usize, &AddedToken) -> bool) -> Vec<Part> {
        let trie = match level {
            Level::Raw => &self.raw,
            Level::Normalized => &self.normalized,
        };
        if trie.nodes.is_empty() {
            return vec![(0..text.len(), None)];
        }
        let bytes = text.as_bytes();
        let (mut parts, mut done, mut at) = (Vec::new(), 0, 0);
        while at < bytes.len() {
            let mut best = None;
            trie.walk(&bytes[at..], |len, index| {
                let Some(token) = self.tokens.get(index as usize) else { return };
                let fits = !token.single_word || between_words(text, at, at + len);
                if fits && honour(at, token) {
                    best = Some((len, token));
                }
            });
            let Some((len, token)) = best else {
                at += 1;
                continue;
            };
            let (mut start, mut end) = (at, at + len);
            if token.lstrip {
                start = done + text[done..start].trim_end().len();
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if start > done {
                parts.push((done..start, None));
            }
            parts.push((start..end, Some(token.id)));
            (done, at) = (end, end);
        }
        if done < text.len() {
            parts.push((done..text.len(), None));
        }
        parts
    }

    /// Byte offsets in `text` at which a control token begins, or at which one would begin if the text went on: a
    /// suffix that is the beginning of a control token counts.
    pub fn control_starts(&self, text: &str) -> Vec<usize> {
        if self.control.nodes.is_empty() {
            return Vec::new();
        }
        let bytes = text.as_bytes();
        let mut starts = Vec::new();
        for at in 0..bytes.len() {
            let mut found = false;
            let ran_out = self.control.walk(&bytes[at..], |_, _| found = true);
            if found || ran_out {
                starts.push(at);
            }
        }
        starts
    }
}

/// Whether neither neighbour of `start..end` is a word character.
fn between_words(text: &str, start: usize, end: usize) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    !text[..start].chars().next_back().is_some_and(word) && !text[end..].chars().next().is_some_and(word)
}

/// A byte trie; node 0 is the root. Tokens are few and short, so children are a sorted list.
#[derive(Debug, Default)]
struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    children: Vec<(u8, u32)>,
    token: Option<u32>,
}

impl Trie {
    fn insert(&mut self, text: &[u8], token: u32) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut node = 0;
        for &byte in text {
            node = match self.nodes[node].children.binary_search_by_key(&byte, |c| c.0) {
                Ok(i) => self.nodes[node].children[i].1 as usize,
                Err(i) => {
                    let new = self.nodes.len();
                    self.nodes[node].children.insert(i, (byte, new as u32));
                    self.nodes.push(Node::default());
                    new
                }
            };
        }
        self.nodes[node].token = Some(token);
    }

    /// Calls `found(length, token)` for every token that `bytes` begins with, shortest first. True if `bytes` ended
    /// inside a token.
    fn walk(&self, bytes: &[u8], mut found: impl FnMut(usize, u32)) -> bool {
        let mut node = 0;
        for (i, byte) in bytes.iter().enumerate() {
            let children = &self.nodes[node].children;
            let Ok(next) = children.binary_search_by_key(byte, |c| c.0) else { return false };
            node = children[next].1 as usize;
            if let Some(token) = self.nodes[node].token {
                found(i + 1, token);
            }
        }
        !bytes.is_empty() && !self.nodes[node].children.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> AddedTokens {
        let mut strip = AddedToken::plain(3, "<|user|>", true);
        strip.rstrip = true;
        let mut left = AddedToken::plain(4, "<mask>", true);
        left.lstrip = true;
        let mut word = AddedToken::plain(5, "cat", false);
        word.single_word = true;
        AddedTokens::new(
            vec![
                AddedToken::plain(1, "<s>", true),
                AddedToken::plain(2, "<s><s>", false),
                strip,
                left,
                word,
                AddedToken::plain(6, "  ", false),
            ],
            str::to_owned,
        )
    }

    fn ids(text: &str, honour: &dyn Fn(usize, &AddedToken) -> bool) -> Vec<(String, Option<u32>)> {
        tokens().split(text, Level::Raw, honour).into_iter().map(|(r, id)| (text[r].to_owned(), id)).collect()
    }

    #[test]
    fn longest_wins_and_a_refused_one_falls_back_to_a_shorter() {
        assert_eq!(ids("a<s><s>b", &|_, _| true)[1], ("<s><s>".into(), Some(2)));
        let shorter = ids("a<s><s>b", &|_, t| t.id != 2);
        assert_eq!(shorter[1..3], [("<s>".into(), Some(1)), ("<s>".into(), Some(1))]);
        assert_eq!(ids("a<s><s>b", &|_, t| !t.control)[1], ("<s><s>".into(), Some(2)));
        assert_eq!(ids("<s>x", &|at, _| at != 0), [("<s>x".into(), None)]);
    }

    #[test]
    fn strip_and_single_word_rules() {
        assert_eq!(
            ids("<|user|>\n \u{3000}hi", &|_, _| true),
            [("<|user|>\n \u{3000}".into(), Some(3)), ("hi".into(), None)]
        );
        assert_eq!(ids("x \t<mask>", &|_, _| true), [("x".into(), None), (" \t<mask>".into(), Some(4))]);
        assert_eq!(ids("cats cat", &|_, _| true), [("cats ".into(), None), ("cat".into(), Some(5))]);
    }

    #[test]
    fn control_starts_include_a_beginning_at_the_end() {
        assert_eq!(tokens().control_starts("é<s> <|us"), [2, 6]);
        assert_eq!(tokens().control_starts("<<s"), [1]);
        assert!(tokens().control_starts("  cat <z").is_empty());
    }
}
