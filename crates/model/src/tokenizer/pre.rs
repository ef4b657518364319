//! Pre-tokenizers of byte-level vocabularies: how a text is cut into words before merging, by the name that a GGUF file
//! carries in `tokenizer.ggml.pre`.
//!
//! The patterns are those of the vocabularies themselves; they are part of a tokenizer's definition, as merges are.

use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

/// GPT-2: contractions, words, numbers and signs with one space before, runs of whitespace.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3: digits in threes, a sign may lead a word, line breaks end signs.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: as Llama 3 with single digits.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: words cut where the case goes up, single digits.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o: as Tekken with contractions and digits in threes.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// One digit at a time.
const DIGIT: &str = r"\p{N}";
/// The fallback of converters that did not know their vocabulary: punctuation, GPT-2 words, digits in threes.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

/// One kind of pre-tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pre {
    /// Patterns applied one after the other, each to the pieces that the one before left.
    patterns: &'static [&'static str],
    /// A word that is in the vocabulary as a whole is not built from merges.
    pub ignore_merges: bool,
    /// Prompts begin with the beginning-of-sequence token unless the file says otherwise.
    pub add_bos: bool,
}

/// Names as they appear in files, by kind.
const KNOWN: &[(&[&str], Pre)] = &[
    (&["default"], Pre { patterns: &DEFAULT, ignore_merges: false, add_bos: false }),
    (
        &["gpt-2", "phi-2", "olmo", "mpt", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de"],
        Pre { patterns: &[GPT2], ignore_merges: false, add_bos: false },
    ),
    (
        &["smollm", "starcoder", "refact", "command-r", "codeshell"],
        Pre { patterns: &[DIGIT, GPT2], ignore_merges: false, add_bos: false },
    ),
    (
        &["llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral"],
        Pre { patterns: &[LLAMA3], ignore_merges: true, add_bos: true },
    ),
    (&["dbrx", "smaug-bpe"], Pre { patterns: &[LLAMA3], ignore_merges: false, add_bos: false }),
    (
        &["qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"],
        Pre { patterns: &[QWEN2], ignore_merges: false, add_bos: false },
    ),
    (&["tekken"], Pre { patterns: &[TEKKEN], ignore_merges: true, add_bos: true }),
    (&["gpt-4o", "llama4"], Pre { patterns: &[O200K], ignore_merges: false, add_bos: false }),
];

/// The kind with this name; none if it is not known. An empty name is `default`, as other readers of GGUF have it.
pub(crate) fn by_name(name: &str) -> Option<Pre> {
    let name = if name.is_empty() { "default" } else { name };
    KNOWN.iter().find(|(names, _)| names.contains(&name)).map(|(_, pre)| *pre)
}

/// All known names, for error messages.
pub(crate) fn names() -> String {
    KNOWN.iter().flat_map(|(names, _)| names.iter().copied()).collect::<Vec<_>>().join(", ")
}

impl Pre {
    /// The pre-tokenizer for byte-level merging.
    pub fn build(&self) -> tokenizers::Result<PreTokenizerWrapper> {
        let mut steps = Vec::new();
        for pattern in self.patterns {
            let pattern = SplitPattern::Regex((*pattern).into());
            steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into());
        }
        steps.push(ByteLevel::new(false, true, false).into());
        Ok(Sequence::new(steps).into())
    }
}
