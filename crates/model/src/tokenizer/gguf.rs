//! A tokenizer from the metadata of a GGUF file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tokenizers::models::bpe::{BPE, Vocab};

use super::added::{AddedToken, AddedTokens};
use super::pre;
use super::spm::{PieceKind, Spm};
use super::table::{Spelling, TokenTable};
use super::{Pieces, SpecialIds, Tokenizer};
use crate::ModelError;
use crate::gguf::Metadata;

/// The part of a GGUF file's metadata that makes its tokenizer: the keys under `tokenizer.ggml`.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct GgufVocab {
    /// `general.architecture`; one architecture has matching rules of its own.
    pub architecture: String,
    /// `model`: `gpt2` (byte-level merges) or `llama` (pieces with scores).
    pub model: String,
    /// `pre`: name of the pre-tokenizer of a `gpt2` vocabulary; empty if the file has none.
    pub pre: String,
    /// Spelling by id.
    pub tokens: Vec<String>,
    /// Score by id (`llama`).
    pub scores: Vec<f32>,
    /// Kind by id: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte. May be empty: all normal.
    pub token_types: Vec<i32>,
    /// Merges, best first, each two spellings with a space between (`gpt2`).
    pub merges: Vec<String>,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// Unknown token.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// End of turn and other ids that end a generation (`eot_token_id`, `eom_token_id`).
    pub eot: Vec<u32>,
    /// Whether a prompt begins with `bos`; the vocabulary kind's habit if not given.
    pub add_bos: Option<bool>,
    /// Whether a text ends with `eos`.
    pub add_eos: Option<bool>,
    /// Whether text gets a space before it (`llama`; true if not given).
    pub add_space_prefix: Option<bool>,
}

impl GgufVocab {
    fn kind(&self, id: usize) -> PieceKind {
        self.token_types.get(id).map_or(PieceKind::Normal, |&n| PieceKind::from_number(n))
    }

    fn added(&self) -> AddedTokens {
        let mut added = Vec::new();
        for (id, text) in self.tokens.iter().enumerate() {
            let control = match self.kind(id) {
                PieceKind::Control => true,
                // The unknown token is written by the tokenizer, never by a text.
                PieceKind::Unknown => self.model == "gpt2" && text.starts_with('<'),
                PieceKind::UserDefined => false,
                _ => continue,
            };
            let mut token = AddedToken::plain(id as u32, text, control);
            // Phi-3's files do not carry the flags of its vocabulary: turn marks take the whitespace behind them.
            token.rstrip =
                self.architecture == "phi3" && control && !matches!(text.as_str(), "<unk>" | "<s>" | "<|endoftext|>");
            token.rstrip |= self.architecture == "phi3" && text == "</s>";
            added.push(token);
        }
        AddedTokens::new(added, str::to_owned)
    }
}

impl Tokenizer {
    /// The tokenizer in the metadata of a GGUF file.
    ///
    /// # Errors
    /// As [`GgufVocab::from_metadata`] and [`from_vocab`](Self::from_vocab).
    pub fn from_gguf(meta: &Metadata) -> Result<Self, ModelError> {
        Self::from_vocab(&GgufVocab::from_metadata(meta)?, meta.path())
    }

    /// Builds the tokenizer that a GGUF file describes. `path` is named in messages.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for another kind of vocabulary or an unknown pre-tokenizer (both list the known
    /// ones), [`ModelError::Tokenizer`] for tables that contradict each other.
    pub fn from_vocab(vocab: &GgufVocab, path: &Path) -> Result<Self, ModelError> {
        let bad = |reason: String| ModelError::Tokenizer { path: path.into(), reason };
        let count = vocab.tokens.len();
        if count == 0 {
            return Err(bad("tokenizer.ggml.tokens is missing or empty".into()));
        }
        let lengths = [("scores", vocab.scores.len()), ("token_type", vocab.token_types.len())];
        for (key, len) in lengths {
            if len != 0 && len != count {
                return Err(bad(format!("tokenizer.ggml.{key} has {len} entries for {count} tokens")));
            }
        }
        let named = [("bos", vocab.bos), ("eos", vocab.eos), ("unknown", vocab.unk), ("padding", vocab.pad)];
        let others = vocab.eot.iter().map(|&id| ("eot", Some(id)));
        for (key, id) in named.into_iter().chain(others) {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return Err(bad(format!("tokenizer.ggml.{key}_token_id is {id}, but there are {count} tokens")));
            }
        }

        let added = vocab.added();
        let (pieces, spelling, add_bos, strip) = match vocab.model.as_str() {
            "gpt2" => {
                let pre = pre::by_name(&vocab.pre).ok_or_else(|| {
                    let what = format!("the pre-tokenizer \"{}\" of {}", vocab.pre, path.display());
                    ModelError::unsupported(what, format!("known: {}", pre::names()))
                })?;
                let library = byte_level(vocab, &added, pre).map_err(&bad)?;
                (Pieces::Library(Box::new(library)), Spelling::ByteLevel, pre.add_bos, false)
            }
            "llama" => {
                if vocab.scores.is_empty() {
                    return Err(bad("tokenizer.ggml.scores is missing".into()));
                }
                let unk = vocab
                    .unk
                    .or_else(|| (0..count).find(|&id| vocab.kind(id) == PieceKind::Unknown).map(|id| id as u32));
                let prefix = vocab.add_space_prefix.unwrap_or(true);
                let list: Vec<_> =
                    (0..count).map(|id| (vocab.tokens[id].as_str(), vocab.scores[id], vocab.kind(id))).collect();
                let spm = Spm::new(&list, unk, prefix);
                if !spm.is_total() {
                    return Err(bad("it has neither an unknown token nor a token for every byte".into()));
                }
                (Pieces::Spm(spm), Spelling::SentencePiece, true, prefix)
            }
            other => {
                let what = format!("the tokenizer model \"{other}\" of {}", path.display());
                return Err(ModelError::unsupported(what, "known: gpt2 (byte-level), llama (SentencePiece)"));
            }
        };

        let mut table = TokenTable::new(strip);
        let by_id: HashMap<u32, bool> = added.iter().map(|t| (t.id, t.control)).collect();
        for (id, text) in vocab.tokens.iter().enumerate() {
            match by_id.get(&(id as u32)) {
                Some(&control) => table.push(text.as_bytes(), control),
                None if vocab.kind(id) == PieceKind::Unknown => table.push(text.as_bytes(), false),
                None => table.push(&spelling.bytes(text), false),
            }
        }
        let mut ids = SpecialIds {
            bos: vocab.bos,
            eos: vocab.eos,
            pad: vocab.pad,
            unk: vocab.unk,
            ends: Vec::new(),
            add_bos: vocab.add_bos.unwrap_or(add_bos),
            add_eos: vocab.add_eos.unwrap_or(false),
        };
        ids.collect_ends(&vocab.eot, &added);
        Ok(Tokenizer { pieces, added, table: Arc::new(table), ids, source: path.into() })
    }
}

/// Byte-level merging. Control tokens are not part of the merging vocabulary, so no text can produce them.
fn byte_level(vocab: &GgufVocab, added: &AddedTokens, pre: pre::Pre) -> Result<tokenizers::Tokenizer, String> {
    let control: std::collections::HashSet<u32> = added.iter().filter(|t| t.control).map(|t| t.id).collect();
    let mut ids = Vocab::default();
    for (id, text) in vocab.tokens.iter().enumerate() {
        let id = id as u32;
        if !control.contains(&id) && !text.is_empty() {
            ids.entry(text.clone()).or_insert(id);
        }
    }
    if vocab.merges.is_empty() {
        return Err("tokenizer.ggml.merges is missing or empty".into());
    }
    let (mut merges, mut skipped) = (Vec::with_capacity(vocab.merges.len()), 0usize);
    let mut seen = std::collections::HashSet::with_capacity(vocab.merges.len());
    let mut joined = String::new();
    for (rank, merge) in vocab.merges.iter().enumerate() {
        // A spelling is never empty, so the separator is a space that is not the first character.
        let split = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| merge.split_at(at));
        let Some((left, right)) = split.map(|(l, r)| (l, &r[1..])).filter(|(_, r)| !r.is_empty()) else {
            return Err(format!("merge {rank} is {merge:?}, not two spellings with a space between"));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if ids.contains_key(left) && ids.contains_key(right) && ids.contains_key(joined.as_str()) {
            // The first of two equal merges counts.
            if seen.insert(merge.as_str()) {
                merges.push((left.to_owned(), right.to_owned()));
            }
        } else {
            skipped += 1;
        }
    }
    if skipped > 0 {
        tracing::warn!(skipped, of = vocab.merges.len(), "merges name tokens that the vocabulary does not have");
    }
    let missing =
        (0..=255u8).filter(|&b| !ids.contains_key(super::table::byte_to_char(b).to_string().as_str())).count();
    if missing > 0 {
        tracing::debug!(missing, "bytes without a token: text that needs them loses them");
    }
    let model = BPE::builder()
        .vocab_and_merges(ids, merges)
        .ignore_merges(pre.ignore_merges)
        .build()
        .map_err(|e| e.to_string())?;
    let mut library = tokenizers::Tokenizer::new(model);
    library.with_pre_tokenizer(Some(pre.build().map_err(|e| e.to_string())?));
    Ok(library)
}

impl GgufVocab {
    /// The tokenizer's part of a file's metadata.
    ///
    /// # Errors
    /// [`ModelError::Config`] for a missing vocabulary or a key of the wrong type.
    pub fn from_metadata(meta: &Metadata) -> Result<Self, ModelError> {
        let text = |key: &str| Ok::<_, ModelError>(meta.string(key)?.unwrap_or_default().to_owned());
        let id = |key: &str| match meta.unsigned(key)? {
            // Some writers put the greatest number for "none".
            Some(n) => Ok::<_, ModelError>(u32::try_from(n).ok().filter(|&n| n != u32::MAX)),
            None => Ok(None),
        };
        let strings = |key: &str| Ok::<_, ModelError>(meta.strings(key)?.unwrap_or_default().to_vec());
        let model = meta.string("tokenizer.ggml.model")?.ok_or_else(|| meta.missing("tokenizer.ggml.model"))?;
        let kinds = meta.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
        Ok(GgufVocab {
            architecture: text("general.architecture")?,
            model: model.to_owned(),
            pre: text("tokenizer.ggml.pre")?,
            tokens: strings("tokenizer.ggml.tokens")?,
            scores: meta.floats("tokenizer.ggml.scores")?.unwrap_or_default().to_vec(),
            token_types: kinds.into_iter().map(|n| i32::try_from(n).unwrap_or(1)).collect(),
            merges: strings("tokenizer.ggml.merges")?,
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            unk: id("tokenizer.ggml.unknown_token_id")?,
            pad: id("tokenizer.ggml.padding_token_id")?,
            eot: [id("tokenizer.ggml.eot_token_id")?, id("tokenizer.ggml.eom_token_id")?]
                .into_iter()
                .flatten()
                .collect(),
            add_bos: meta.boolean("tokenizer.ggml.add_bos_token")?,
            add_eos: meta.boolean("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: meta.boolean("tokenizer.ggml.add_space_prefix")?,
        })
    }
}
