//! A tokenizer whose tokens are bytes.

use std::borrow::Cow;

use crate::text::{TextStream, Vocabulary};

/// Ids 0 to 255 are the bytes, 256 ends a generation, then come longer words.
pub(crate) struct ByteVocabulary {
    words: Vec<Vec<u8>>,
    eos: Vec<u32>,
}

impl ByteVocabulary {
    pub const EOS: u32 = 256;
    /// Decoding this one panics; no test samples it but on purpose.
    pub const PANICS: u32 = 259;

    pub fn new(words: &[&str]) -> ByteVocabulary {
        let mut all: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
        all.push(Vec::new());
        all.extend(words.iter().map(|w| w.as_bytes().to_vec()));
        ByteVocabulary { words: all, eos: vec![Self::EOS] }
    }

    pub fn without_eos() -> ByteVocabulary {
        ByteVocabulary { eos: Vec::new(), ..ByteVocabulary::new(&[]) }
    }

    pub fn find(&self, word: &str) -> u32 {
        self.words.iter().rposition(|w| w == word.as_bytes()).unwrap() as u32
    }
}

impl Vocabulary for ByteVocabulary {
    fn size(&self) -> usize {
        self.words.len()
    }
    fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.words.get(id as usize).map_or(&[], Vec::as_slice))
    }
    fn eos(&self) -> &[u32] {
        &self.eos
    }
    fn stream(&self, _starts_text: bool) -> Box<dyn TextStream> {
        Box::new(Bytes { words: self.words.clone(), pending: Vec::new() })
    }
}

#[derive(Clone)]
struct Bytes {
    words: Vec<Vec<u8>>,
    pending: Vec<u8>,
}

impl TextStream for Bytes {
    fn push(&mut self, id: u32) -> String {
        assert!(id != ByteVocabulary::PANICS, "the tokenizer panics on purpose");
        // A model may have more logits than the tokenizer has tokens.
        self.pending.extend_from_slice(self.words.get(id as usize).map_or(&[], Vec::as_slice));
        let complete = match std::str::from_utf8(&self.pending) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.pending.len(),
        };
        let rest = self.pending.split_off(complete);
        String::from_utf8_lossy(&std::mem::replace(&mut self.pending, rest)).into_owned()
    }
    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
    fn branch(&self) -> Box<dyn TextStream> {
        Box::new(self.clone())
    }
}
