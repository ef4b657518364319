//! A tokenizer from a Hugging Face folder.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokenizers::Normalizer as _;

use super::added::{AddedToken, AddedTokens};
use super::generation::{GenerationDefaults, read_object};
use super::table::{Spelling, TokenTable};
use super::{Pieces, SpecialIds, Tokenizer};
use crate::ModelError;

/// Ids above this are refused: the byte table has an entry for each id up to the greatest.
const MOST_IDS: u32 = 1 << 24;

impl Tokenizer {
    /// Reads `tokenizer.json` and, where they exist, `tokenizer_config.json`, `special_tokens_map.json` and
    /// `generation_config.json` of a folder.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] without `tokenizer.json`, [`ModelError::Tokenizer`] if it cannot be used,
    /// [`ModelError::Config`] for the other files.
    pub fn from_hf(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("tokenizer.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let mend = if dir.join("tokenizer.model").exists() {
                    "the folder has tokenizer.model; let transformers write tokenizer.json from it \
                     (AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR))"
                } else {
                    "the folder is incomplete; download the model again"
                };
                return Err(ModelError::NotFound { what: "tokenizer.json".into(), path, mend: mend.into() });
            }
            Err(e) => return Err(ModelError::io(&path, e)),
        };
        let bad = |reason: String| ModelError::Tokenizer { path: path.clone(), reason };
        // The library indexes by what the file says in a few places; a damaged file must not end the process.
        let library = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(&bytes))
            .map_err(|_| bad("its merges or vocabulary contradict each other".into()))?
            .map_err(|e| bad(e.to_string()))?;
        drop(bytes);

        let config_path = dir.join("tokenizer_config.json");
        let config = read_object(&config_path)?.unwrap_or_default();
        let map = read_object(&dir.join("special_tokens_map.json"))?.unwrap_or_default();
        let tokens =
            added_tokens(&library, &config).map_err(|r| ModelError::config(&config_path, "added_tokens_decoder", r))?;
        let added = AddedTokens::new(tokens, |text| match library.get_normalizer() {
            Some(normalizer) => {
                let mut s = tokenizers::NormalizedString::from(text);
                normalizer.normalize(&mut s).map_or_else(|_| text.to_owned(), |()| s.get().to_owned())
            }
            None => text.to_owned(),
        });
        let table = table(&library, &added).map_err(&bad)?;

        let named = |key: &str| {
            let text = token_text(&config, key).or_else(|| token_text(&map, key))?;
            added.iter().find(|t| t.text == text).map(|t| t.id).or_else(|| library.token_to_id(&text))
        };
        let first = leading_special(&library);
        let mut ids = SpecialIds {
            bos: named("bos_token").or(first),
            eos: named("eos_token"),
            pad: named("pad_token"),
            unk: named("unk_token"),
            ends: Vec::new(),
            add_bos: config.get("add_bos_token").and_then(Value::as_bool).unwrap_or(first.is_some()),
            add_eos: config.get("add_eos_token").and_then(Value::as_bool).unwrap_or(false),
        };
        ids.collect_ends(&GenerationDefaults::from_hf(dir)?.eos, &added);
        Ok(Tokenizer { pieces: Pieces::Library(Box::new(library)), added, table: Arc::new(table), ids, source: path })
    }
}

/// The text of `bos_token` and its like: a string or an object with `content`.
pub(crate) fn token_text(map: &Map<String, Value>, key: &str) -> Option<String> {
    match map.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Object(token) => token.get("content")?.as_str().map(str::to_owned),
        _ => None,
    }
}

/// The added tokens of `tokenizer.json`, corrected and completed by `tokenizer_config.json` as transformers does it.
fn added_tokens(library: &tokenizers::Tokenizer, config: &Map<String, Value>) -> Result<Vec<AddedToken>, String> {
    let mut tokens: HashMap<u32, AddedToken> = library
        .get_added_tokens_decoder()
        .into_iter()
        .map(|(id, t)| {
            let token = AddedToken {
                id,
                text: t.content,
                control: t.special,
                lstrip: t.lstrip,
                rstrip: t.rstrip,
                single_word: t.single_word,
                normalized: t.normalized,
            };
            (id, token)
        })
        .collect();
    if let Some(Value::Object(more)) = config.get("added_tokens_decoder") {
        for (id, token) in more {
            let number = id.parse::<u32>().ok().filter(|&id| id < MOST_IDS);
            let number = number.ok_or_else(|| format!("\"{id}\" is not a token id"))?;
            let text = token.get("content").and_then(Value::as_str);
            let text = text.ok_or_else(|| format!("token {id} has no content"))?;
            let flag = |key: &str| token.get(key).and_then(Value::as_bool).unwrap_or(false);
            let token = AddedToken {
                id: number,
                text: text.into(),
                control: flag("special"),
                lstrip: flag("lstrip"),
                rstrip: flag("rstrip"),
                single_word: flag("single_word"),
                normalized: flag("normalized"),
            };
            tokens.insert(number, token);
        }
    }
    let mut tokens: Vec<AddedToken> = tokens.into_values().collect();
    tokens.sort_by_key(|t| t.id);
    Ok(tokens)
}

/// Every token's bytes.
fn table(library: &tokenizers::Tokenizer, added: &AddedTokens) -> Result<TokenTable, String> {
    let (spelling, strip_leading_space) = spelling(library)?;
    let mut texts: Vec<Option<(String, Option<bool>)>> = Vec::new();
    let mut put = |id: u32, text: String, control: Option<bool>| {
        if id >= MOST_IDS {
            return Err(format!("token id {id} is absurd"));
        }
        let id = id as usize;
        if texts.len() <= id {
            texts.resize(id + 1, None);
        }
        texts[id] = Some((text, control));
        Ok(())
    };
    for (text, id) in library.get_vocab(false) {
        put(id, text, None)?;
    }
    for token in added.iter() {
        put(token.id, token.text.clone(), Some(token.control))?;
    }
    let mut table = TokenTable::new(strip_leading_space);
    for text in texts {
        match text {
            // An added token's text is meant literally; a fallback byte may be listed among them.
            Some((text, Some(control))) => match super::table::fallback_byte(&text) {
                Some(byte) if spelling == Spelling::SentencePiece && !control => table.push(&[byte], false),
                _ if spelling == Spelling::SentencePiece && !control => table.push(&spelling.bytes(&text), false),
                _ => table.push(text.as_bytes(), control),
            },
            Some((text, None)) => table.push(&spelling.bytes(&text), false),
            None => table.push(&[], false),
        }
    }
    Ok(table)
}

/// How tokens are spelled and whether decoding takes a space away at the beginning, from the file's decoder.
fn spelling(library: &tokenizers::Tokenizer) -> Result<(Spelling, bool), String> {
    let Some(decoder) = library.get_decoder() else { return Ok((Spelling::Literal, false)) };
    let json = serde_json::to_value(decoder).map_err(|e| e.to_string())?;
    let steps = match json.get("decoders").and_then(Value::as_array) {
        Some(steps) => steps.clone(),
        None => vec![json],
    };
    let (mut spelling, mut strip) = (Spelling::Literal, false);
    for step in &steps {
        match step.get("type").and_then(Value::as_str).unwrap_or("") {
            "ByteLevel" => spelling = Spelling::ByteLevel,
            "ByteFallback" | "Replace" => spelling = Spelling::SentencePiece,
            "Metaspace" => {
                spelling = Spelling::SentencePiece;
                strip |= step.get("prepend_scheme").and_then(Value::as_str) != Some("never");
            }
            "Strip" => strip |= step.get("start").and_then(Value::as_u64).unwrap_or(0) > 0,
            "Fuse" => {}
            other => {
                return Err(format!(
                    "its decoder {other} is not supported; known: ByteLevel, Metaspace, and sequences of Replace, \
                     ByteFallback, Fuse and Strip"
                ));
            }
        }
    }
    Ok((spelling, strip))
}

/// The id that the file's post-processor puts before a text.
fn leading_special(library: &tokenizers::Tokenizer) -> Option<u32> {
    let json = serde_json::to_value(library.get_post_processor()?).ok()?;
    let steps = match json.get("processors").and_then(Value::as_array) {
        Some(steps) => steps.clone(),
        None => vec![json],
    };
    let template = steps.iter().find(|s| s.get("type").and_then(Value::as_str) == Some("TemplateProcessing"))?;
    let text = template.get("single")?.get(0)?.get("SpecialToken")?.get("id")?.as_str()?;
    library.token_to_id(text)
}
