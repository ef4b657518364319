//! Constrained generation: a grammar says which tokens may come next.
//!
//! The grammars are llguidance's. Its tokenizer is built from the raw bytes of our vocabulary, so it works for every
//! tokenizer we can load; special tokens have no bytes, hence no grammar ever allows them, except those that end a
//! generation where the grammar is fulfilled.

use std::sync::{Arc, OnceLock};

use llguidance::api::{StopReason, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::EngineError;
use crate::sampling::TokenMask;
use crate::text::Vocabulary;

/// What a generated text must look like.
#[derive(Clone, Debug, PartialEq)]
pub enum ConstraintSpec {
    /// JSON that fulfils the schema.
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// Text that matches the regular expression as a whole, in the syntax of Rust's `regex` crate.
    Regex(String),
    /// Text of a context-free grammar in llguidance's dialect of Lark.
    Lark(String),
}

impl ConstraintSpec {
    fn kind(&self) -> &'static str {
        match self {
            ConstraintSpec::JsonSchema(_) | ConstraintSpec::JsonObject => "JSON schema",
            ConstraintSpec::Regex(_) => "regular expression",
            ConstraintSpec::Lark(_) => "Lark grammar",
        }
    }

    fn grammar(&self) -> TopLevelGrammar {
        match self {
            ConstraintSpec::JsonSchema(schema) => TopLevelGrammar::from_json_schema(with_bounded_space(schema.clone())),
            ConstraintSpec::JsonObject => {
                TopLevelGrammar::from_json_schema(with_bounded_space(json!({"type": "object"})))
            }
            ConstraintSpec::Regex(regex) => TopLevelGrammar::from_regex(regex),
            ConstraintSpec::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        }
    }
}

/// Blanks between two tokens of JSON. Without a bound, small models like to write nothing else to the end of the
/// context; indentation of sixteen levels is within it. A schema with options of its own (`x-guidance`) keeps those.
fn with_bounded_space(mut schema: Value) -> Value {
    if let Some(schema) = schema.as_object_mut() {
        schema.entry("x-guidance").or_insert_with(|| json!({"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,64}"}));
    }
    schema
}

/// Longest token the grammar engine's trie can hold, in bytes; longer ones are never allowed.
const MAX_TOKEN_BYTES: usize = 1000;

/// Compiles constraints for one vocabulary. The trie of its tokens is built when the first one is asked for.
pub struct ConstraintFactory {
    vocabulary: Arc<dyn Vocabulary>,
    built: OnceLock<Result<ParserFactory, String>>,
}

impl ConstraintFactory {
    /// Builds nothing yet.
    pub fn new(vocabulary: Arc<dyn Vocabulary>) -> ConstraintFactory {
        ConstraintFactory { vocabulary, built: OnceLock::new() }
    }

    /// Compiles. Takes milliseconds for usual schemas; a tenth of a second more the first time.
    ///
    /// # Errors
    /// [`EngineError::InvalidConstraint`] with the compiler's words.
    pub fn compile(&self, spec: &ConstraintSpec) -> Result<Constraint, EngineError> {
        let invalid = |reason: String| EngineError::InvalidConstraint { kind: spec.kind(), reason };
        let factory = self.built.get_or_init(|| build(&*self.vocabulary)).as_ref().map_err(|e| invalid(e.clone()))?;
        let matcher = guarded(|| Matcher::new(factory.create_parser(spec.grammar()))).map_err(invalid)?;
        match matcher.get_error() {
            Some(error) => Err(invalid(first_lines(&error))),
            None => Ok(Constraint { matcher }),
        }
    }
}

fn build(vocabulary: &dyn Vocabulary) -> Result<ParserFactory, String> {
    guarded(|| {
        let size = vocabulary.size();
        let words: Vec<Vec<u8>> = (0..size as u32)
            .map(|id| vocabulary.token_bytes(id))
            .map(|bytes| if bytes.len() > MAX_TOKEN_BYTES { Vec::new() } else { bytes.into_owned() })
            .collect();
        let eos: Vec<u32> = vocabulary.eos().iter().copied().filter(|&id| (id as usize) < size).collect();
        let info = TokRxInfo::new(size as u32, eos.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if eos.len() > 1 {
            trie = trie.with_eos_tokens(&eos);
        }
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|error| error.to_string())?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(factory)
    })
    .and_then(|factory| factory)
}

/// The grammar library asserts some of what it believes of its input; those become errors too.
fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).map_err(|panic| crate::panic_message(&*panic))
}

/// Error texts without the dump of the parser's state that may follow.
fn first_lines(error: &str) -> String {
    error.split("\n<").next().unwrap_or(error).trim().to_owned()
}

/// The state of one choice in its grammar.
pub struct Constraint {
    matcher: Matcher,
}

impl Clone for Constraint {
    fn clone(&self) -> Constraint {
        // Shares nothing, so that a failure of one choice stays there.
        Constraint { matcher: self.matcher.deep_clone() }
    }
}

impl Constraint {
    /// Which tokens may come next. `None` if the text is complete and nothing may.
    ///
    /// # Errors
    /// [`EngineError::NoTokenAllowed`] where the grammar goes on but the vocabulary has no token for it, and
    /// [`EngineError::Constraint`] where the grammar engine gives up (grammars of too many states).
    pub fn mask(&mut self) -> Result<Option<TokenMask>, EngineError> {
        if self.is_complete() {
            return Ok(None);
        }
        match self.matcher.compute_mask() {
            Ok(mask) => Ok(Some(TokenMask::from_words(mask.as_slice()))),
            Err(error) => Err(match self.matcher.stop_reason() {
                StopReason::NoExtensionBias => EngineError::NoTokenAllowed,
                _ => EngineError::Constraint(first_lines(&error.to_string())),
            }),
        }
    }

    /// Moves on with a token the mask allowed.
    ///
    /// # Errors
    /// [`EngineError::Constraint`].
    pub fn accept(&mut self, token: u32) -> Result<(), EngineError> {
        self.matcher.consume_token(token).map_err(|error| EngineError::Constraint(first_lines(&error.to_string())))
    }

    /// Whether the text is complete, and cannot go on.
    pub fn is_complete(&self) -> bool {
        matches!(self.matcher.stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ByteVocabulary;

    fn factory() -> ConstraintFactory {
        ConstraintFactory::new(Arc::new(ByteVocabulary::new(&["true", "fal", "se", "{\"", "\":", "0x"])))
    }

    /// Feeds a text byte by byte; how many bytes were allowed, whether the end token was allowed then, and whether the
    /// constraint was complete.
    fn feed(constraint: &mut Constraint, text: &str) -> (usize, bool, bool) {
        for (i, byte) in text.bytes().enumerate() {
            match constraint.mask().unwrap() {
                Some(mask) if mask.allows(u32::from(byte)) => constraint.accept(u32::from(byte)).unwrap(),
                mask => {
                    return (i, mask.is_some_and(|mask| mask.allows(ByteVocabulary::EOS)), constraint.is_complete());
                }
            }
        }
        let eos = constraint.mask().unwrap().is_some_and(|mask| mask.allows(ByteVocabulary::EOS));
        (text.len(), eos, constraint.is_complete())
    }

    #[test]
    fn a_schema_is_enforced_and_completes() {
        let schema = json!({"type": "object", "properties": {"age": {"type": "integer"}, "ok": {"type": "boolean"}},
            "required": ["age", "ok"], "additionalProperties": false});
        let template = factory().compile(&ConstraintSpec::JsonSchema(schema)).unwrap();
        let good = "{\"age\":12,\"ok\":true}";
        assert_eq!(feed(&mut template.clone(), good), (good.len(), false, true));
        let bad = "{\"age\":true";
        assert_eq!(feed(&mut template.clone(), bad), ("{\"age\":".len(), false, false));
        // Longer tokens are allowed where their bytes are: `true` and `fal` after `"ok":`.
        let mut c = template.clone();
        feed(&mut c, "{\"age\":1,\"ok\":");
        let mask = c.mask().unwrap().unwrap();
        let token = |text: &str| ByteVocabulary::new(&["true", "fal", "se", "{\"", "\":", "0x"]).find(text);
        assert!(mask.allows(token("true")) && mask.allows(token("fal")));
        assert!(!mask.allows(token("se")) && !mask.allows(token("0x")) && !mask.allows(ByteVocabulary::EOS));
    }

    #[test]
    fn regex_object_and_lark() {
        let f = factory();
        let mut c = f.compile(&ConstraintSpec::Regex("[ab]+c?".into())).unwrap();
        assert_eq!(feed(&mut c, "abx"), (2, true, false));
        let mut c = f.compile(&ConstraintSpec::JsonObject).unwrap();
        assert_eq!(feed(&mut c, "[").0, 0);
        let text = "{\"a\":[1,{\"b\":null}]}";
        assert_eq!(feed(&mut c, text), (text.len(), false, true));
        let mut c = f.compile(&ConstraintSpec::Lark("start: \"yes\" | \"no\"".into())).unwrap();
        assert_eq!(feed(&mut c, "no"), (2, false, true));
    }

    #[test]
    fn blanks_in_json_come_to_an_end() {
        let mut c = factory().compile(&ConstraintSpec::JsonObject).unwrap();
        let pretty = format!("{{\n{}\"a\": 1}}", " ".repeat(60));
        assert_eq!(feed(&mut c.clone(), &pretty), (pretty.len(), false, true));
        assert_eq!(feed(&mut c, &format!("{{{}", " ".repeat(100))).0, 65);
    }

    #[test]
    fn the_end_token_ends_an_open_grammar() {
        let mut c = factory().compile(&ConstraintSpec::Regex("[ab]+".into())).unwrap();
        assert_eq!(feed(&mut c, "a"), (1, true, false));
        c.accept(ByteVocabulary::EOS).unwrap();
        assert!(c.is_complete());
        assert_eq!(c.mask(), Ok(None));
    }

    #[test]
    fn what_does_not_compile_is_named() {
        let f = factory();
        for (kind, spec) in [
            ("JSON schema", ConstraintSpec::JsonSchema(json!({"type": "banana"}))),
            ("JSON schema", ConstraintSpec::JsonSchema(json!({"$ref": "#/nowhere"}))),
            ("JSON schema", ConstraintSpec::JsonSchema(json!(3))),
            ("regular expression", ConstraintSpec::Regex("(".into())),
            ("Lark grammar", ConstraintSpec::Lark("start: missing".into())),
            ("Lark grammar", ConstraintSpec::Lark(String::new())),
        ] {
            match f.compile(&spec) {
                Err(EngineError::InvalidConstraint { kind: k, reason }) => {
                    assert_eq!(k, kind);
                    assert!(!reason.is_empty() && reason.len() < 600, "{reason}");
                }
                other => panic!("{spec:?}: {:?}", other.map(|_| "compiled")),
            }
        }
    }

    #[test]
    fn forks_go_their_own_ways() {
        let mut a = factory().compile(&ConstraintSpec::Regex("a+|b+".into())).unwrap();
        let mut b = a.clone();
        assert_eq!(feed(&mut a, "aa"), (2, true, false));
        assert_eq!(feed(&mut b, "bb"), (2, true, false));
        assert_eq!(feed(&mut a, "b"), (0, true, false));
    }

    #[test]
    fn a_vocabulary_without_end_tokens_works() {
        let f = ConstraintFactory::new(Arc::new(ByteVocabulary::without_eos()));
        let mut c = f.compile(&ConstraintSpec::Regex("ab".into())).unwrap();
        assert_eq!(feed(&mut c, "ab"), (2, false, true));
    }
}
