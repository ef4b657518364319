//! From tokens to text: what the engine needs of a tokenizer, and the text of one choice.

use std::borrow::Cow;

use cachalot_kv::reduce::Words;
use cachalot_model::tokenizer::{StreamDecoder, Tokenizer};

use crate::stop::StopMatcher;

/// What the engine needs of a tokenizer.
pub trait Vocabulary: Send + Sync {
    /// Number of token ids.
    fn size(&self) -> usize;
    /// Raw bytes of a token; empty for special tokens and ids that do not exist.
    fn token_bytes(&self, id: u32) -> Cow<'_, [u8]>;
    /// Tokens that end a generation.
    fn eos(&self) -> &[u32];
    /// How the model is asked to repeat what it has read, for recipes that want to know what it needs for that.
    fn words(&self) -> Words {
        Words::default()
    }
    /// A decoder for one text. `starts_text` says that it is a text of its own, so that the space some vocabularies put
    /// before every text is taken away; otherwise it continues one, and nothing is.
    fn stream(&self, starts_text: bool) -> Box<dyn TextStream>;
}

/// Turns tokens into text, whole characters at a time.
pub trait TextStream: Send {
    /// The text that is complete with this token.
    fn push(&mut self, id: u32) -> String;
    /// What an end in the middle of a character leaves.
    fn finish(&mut self) -> String;
    /// The same once more, to go on in another way.
    fn branch(&self) -> Box<dyn TextStream>;
}

impl Vocabulary for Tokenizer {
    fn size(&self) -> usize {
        self.vocab_size()
    }

    fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        Tokenizer::token_bytes(self, id)
    }

    fn eos(&self) -> &[u32] {
        Tokenizer::eos(self)
    }

    fn words(&self) -> Words {
        // Without any the context alone is read again.
        cachalot_model::passes::words(self).unwrap_or_default()
    }

    fn stream(&self, starts_text: bool) -> Box<dyn TextStream> {
        Box::new(if starts_text { self.decoder() } else { self.decoder_continuing() })
    }
}

impl TextStream for StreamDecoder {
    fn push(&mut self, id: u32) -> String {
        StreamDecoder::push(self, id)
    }

    fn finish(&mut self) -> String {
        StreamDecoder::finish(self)
    }

    fn branch(&self) -> Box<dyn TextStream> {
        Box::new(self.clone())
    }
}

/// The text of one choice: decoded, and searched for stop texts.
pub(crate) struct TextOutput {
    stream: Box<dyn TextStream>,
    stop: StopMatcher,
}

impl TextOutput {
    pub(crate) fn new(vocabulary: &dyn Vocabulary, starts_text: bool, stop: &[String]) -> TextOutput {
        TextOutput { stream: vocabulary.stream(starts_text), stop: StopMatcher::new(stop) }
    }

    /// The same once more, to go on in another way.
    pub(crate) fn branch(&self) -> TextOutput {
        TextOutput { stream: self.stream.branch(), stop: self.stop.clone() }
    }

    /// The text to send for this token.
    pub(crate) fn push(&mut self, id: u32) -> String {
        let text = self.stream.push(id);
        self.stop.push(&text)
    }

    /// Whether a stop text was found.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_stopped()
    }

    /// The text that is left when the choice ends.
    pub(crate) fn finish(&mut self) -> String {
        let rest = self.stream.finish();
        let mut text = self.stop.push(&rest);
        text += &self.stop.finish();
        text
    }
}
