//! Text to token ids and back.
//!
//! A [`Tokenizer`] comes from a Hugging Face folder ([`Tokenizer::from_hf`]) or from the metadata of a GGUF file
//! ([`Tokenizer::from_vocab`]). Whatever the source, three rules hold:
//!
//! - [`encode`](Tokenizer::encode) adds nothing; who wants a beginning-of-sequence token asks [`Tokenizer::add_bos`].
//! - Control tokens (`<|im_end|>`) are recognised only with [`Specials::Parse`]. With [`Specials::Plain`] the same
//!   characters are ordinary text, so nothing that a user writes can steer the model.
//! - [`StreamDecoder`] never returns part of a character.

mod added;
mod generation;
mod gguf;
mod hf;
mod pre;
mod spm;
mod stream;
mod stretches;
mod table;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use tokenizers::tokenizer::normalizer::Range as NormalizedRange;
use tokenizers::{Model as _, NormalizedString, Normalizer as _, PreTokenizedString, PreTokenizer as _, Token};

use crate::ModelError;
use added::{AddedToken, AddedTokens, Level};
pub use generation::GenerationDefaults;
pub(crate) use generation::read_object;
pub use gguf::GgufVocab;
use spm::Spm;
pub use stream::StreamDecoder;
use table::TokenTable;

/// Whether control tokens spelled out in a text are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// `<|im_end|>` in the text is that control token. For text of the program's own.
    Parse,
    /// `<|im_end|>` in the text is ten characters like any others. For text that came from outside.
    Plain,
}

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    pieces: Pieces,
    added: AddedTokens,
    table: Arc<TokenTable>,
    ids: SpecialIds,
    /// Where it came from, for messages.
    source: PathBuf,
}

/// Who cuts the stretches between added tokens.
#[derive(Debug)]
enum Pieces {
    /// Normalizer, pre-tokenizer and model of the `tokenizers` library. Its own added tokens are not used.
    Library(Box<tokenizers::Tokenizer>),
    /// Pieces with scores.
    Spm(Spm),
}

/// Ids with a meaning.
#[derive(Debug, Clone, Default)]
struct SpecialIds {
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    unk: Option<u32>,
    /// Everything that ends a generation, `eos` first.
    ends: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
}

impl SpecialIds {
    /// Completes `ends` from `eos`, `more` and the control tokens that are known to end a generation.
    fn collect_ends(&mut self, more: &[u32], added: &AddedTokens) {
        let known = added.iter().filter(|t| t.control && added::END_MARKS.contains(&t.text.as_str())).map(|t| t.id);
        for id in self.eos.into_iter().chain(more.iter().copied()).chain(known) {
            if !self.ends.contains(&id) {
                self.ends.push(id);
            }
        }
    }
}

impl Tokenizer {
    /// Token ids of a text. Adds nothing: no beginning or end of sequence. The empty text has no tokens.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the vocabulary cannot write the text.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, ModelError> {
        match specials {
            Specials::Parse => self.encode_if(text, &|_, _| true),
            Specials::Plain => self.encode_if(text, &|_, token| !token.control),
        }
    }

    /// As [`encode`](Self::encode) with [`Specials::Parse`], except that no control token may begin at one of the byte
    /// offsets `literal` (ascending).
    pub(crate) fn encode_with_literals(&self, text: &str, literal: &[usize]) -> Result<Vec<u32>, ModelError> {
        self.encode_if(text, &|at, token| !token.control || literal.binary_search(&at).is_err())
    }

    fn encode_if(&self, text: &str, honour: &dyn Fn(usize, &AddedToken) -> bool) -> Result<Vec<u32>, ModelError> {
        match &self.pieces {
            Pieces::Library(library) => self.encode_library(library, text, honour).map_err(|e| self.error(e)),
            Pieces::Spm(spm) => {
                let mut out = Vec::new();
                let mut prefix = true;
                for (range, id) in self.added.split(text, Level::Raw, honour) {
                    match id {
                        Some(id) => {
                            out.push(id);
                            prefix = self.table.is_control(id);
                        }
                        None => {
                            spm.encode(&text[range], prefix, &mut out);
                            prefix = false;
                        }
                    }
                }
                Ok(out)
            }
        }
    }

    fn encode_library(
        &self,
        library: &tokenizers::Tokenizer,
        text: &str,
        honour: &dyn Fn(usize, &AddedToken) -> bool,
    ) -> tokenizers::Result<Vec<u32>> {
        let mut pre = PreTokenizedString::from(text);
        if self.added.any(Level::Raw) {
            pre.split(|_, whole| Ok(self.cut(&whole, Level::Raw, honour)))?;
        }
        let normalized = self.added.any(Level::Normalized);
        pre.split(|_, mut part| {
            if let Some(normalizer) = library.get_normalizer() {
                normalizer.normalize(&mut part)?;
            }
            Ok(if normalized { self.cut(&part, Level::Normalized, &|_, _| true) } else { vec![(part, None)] })
        })?;
        if let Some(pre_tokenizer) = library.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pre)?;
        }
        let model = library.get_model();
        pre.tokenize(|word| model.tokenize(word.get()))?;
        let encoding = pre.into_encoding(None, 0, tokenizers::OffsetType::None)?;
        Ok(encoding.get_ids().to_vec())
    }

    fn cut(
        &self,
        part: &NormalizedString,
        level: Level,
        honour: &dyn Fn(usize, &AddedToken) -> bool,
    ) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
        let cut = self.added.split(part.get(), level, honour);
        cut.into_iter()
            .filter_map(|(range, id)| {
                let (start, end) = (range.start, range.end);
                let piece = part.slice(NormalizedRange::Normalized(range))?;
                Some((piece, id.map(|id| vec![Token::new(id, String::new(), (start, end))])))
            })
            .collect()
    }

    /// The text that these ids stand for, control tokens left out. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = self.decoder();
        let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text += &decoder.finish();
        text
    }

    /// A decoder for a text from its beginning: vocabularies that put a space before every text lose it again.
    pub fn decoder(&self) -> StreamDecoder {
        StreamDecoder::new(self.table.clone(), self.table.strip_leading_space)
    }

    /// A decoder for text that continues other text (a completion): nothing is taken away at its beginning.
    pub fn decoder_continuing(&self) -> StreamDecoder {
        StreamDecoder::new(self.table.clone(), false)
    }

    /// The bytes that a token adds to the text; none for control tokens and for ids outside the vocabulary. May be part
    /// of a character.
    pub fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        Cow::Borrowed(if self.table.is_control(id) { &[] } else { self.table.get(id) })
    }

    /// The bytes of a token as it is spelled, also of a control token (`<|im_end|>`).
    pub fn token_spelling(&self, id: u32) -> &[u8] {
        self.table.get(id)
    }

    /// The id of the added token (control or ordinary) with this text.
    pub fn added_id(&self, text: &str) -> Option<u32> {
        self.added.iter().find(|t| t.text == text).map(|t| t.id)
    }

    /// Whether a token steers the model instead of standing for text.
    pub fn is_control(&self, id: u32) -> bool {
        self.table.is_control(id)
    }

    /// Beginning-of-sequence id.
    pub fn bos(&self) -> Option<u32> {
        self.ids.bos
    }

    /// Whether a plain prompt begins with [`bos`](Self::bos). Chat templates write it themselves.
    pub fn add_bos(&self) -> bool {
        self.ids.add_bos && self.ids.bos.is_some()
    }

    /// Whether a whole text ends with an end-of-sequence id (embedding models; not prompts).
    pub fn add_eos(&self) -> bool {
        self.ids.add_eos
    }

    /// All ids that end a generation, the vocabulary's own end of sequence first.
    pub fn eos(&self) -> &[u32] {
        &self.ids.ends
    }

    /// Padding id.
    pub fn pad(&self) -> Option<u32> {
        self.ids.pad
    }

    /// Id of the unknown token.
    pub fn unk(&self) -> Option<u32> {
        self.ids.unk
    }

    /// The vocabulary's own end-of-sequence id, which chat templates call `eos_token`.
    pub(crate) fn main_eos(&self) -> Option<u32> {
        self.ids.eos
    }

    /// Number of ids: one more than the greatest.
    pub fn vocab_size(&self) -> usize {
        self.table.len()
    }

    /// The `tokenizers` library's object for vocabularies that it handles; `None` for pieces with scores (GGUF files of
    /// SentencePiece models). Its own added-token matching is not the one used here.
    pub fn inner(&self) -> Option<&tokenizers::Tokenizer> {
        match &self.pieces {
            Pieces::Library(library) => Some(library),
            Pieces::Spm(_) => None,
        }
    }

    /// Byte offsets in `text` where a control token begins or could begin if the text went on.
    pub(crate) fn control_starts(&self, text: &str) -> Vec<usize> {
        self.added.control_starts(text)
    }

    /// A character of the private use area that no added token contains and that `taken` refuses none of.
    pub(crate) fn free_mark(&self, taken: impl Fn(char) -> bool) -> Option<char> {
        ('\u{E000}'..='\u{F8FF}').find(|&c| !taken(c) && !self.added.iter().any(|t| t.text.contains(c)))
    }

    fn error(&self, e: impl std::fmt::Display) -> ModelError {
        ModelError::Tokenizer { path: self.source.clone(), reason: e.to_string() }
    }
}
