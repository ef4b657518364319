//! Reading `name(key=value, …)`.

use super::RecipeError;
use crate::encode::stage::StageSpec;
use std::collections::BTreeMap;
use std::str::FromStr;

/// Longest text that is read: no recipe is that long, and messages repeat it.
pub(super) const MAX_LEN: usize = 4096;

/// What a message repeats of a text that came from outside.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(64) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

/// A place in a text.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    /// Calls within calls.
    depth: usize,
}

/// Most calls within calls.
const MAX_DEPTH: usize = 8;

impl<'a> Cursor<'a> {
    /// # Errors
    /// Where the text is too long.
    pub fn new(text: &'a str) -> Result<Cursor<'a>, RecipeError> {
        let cursor = Cursor { text, at: 0, depth: 0 };
        if text.len() > MAX_LEN {
            let what = format!("longer than {MAX_LEN} bytes; write it as a file");
            return Err(RecipeError::Syntax { text: shorten(text), column: 1, what });
        }
        Ok(cursor)
    }

    pub fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub fn error(&self, what: impl Into<String>) -> RecipeError {
        let column = self.text[..self.at].chars().count() + 1;
        RecipeError::Syntax { text: self.text.to_owned(), column, what: what.into() }
    }

    pub fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Takes the character, and space before it, if it comes next.
    pub fn eat(&mut self, c: char) -> bool {
        self.space();
        let found = self.rest().starts_with(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    pub fn expect(&mut self, c: char) -> Result<(), RecipeError> {
        if self.eat(c) {
            return Ok(());
        }
        let found = self.rest().chars().next().map_or("the end".to_owned(), |found| format!("`{found}`"));
        Err(self.error(format!("expected `{c}`, found {found}")))
    }

    pub fn end(&mut self) -> bool {
        self.space();
        self.rest().is_empty()
    }

    /// A name or a value: letters, digits and `_.-/`.
    pub fn word(&mut self, what: &str) -> Result<&'a str, RecipeError> {
        self.space();
        let rest = self.rest();
        let len = rest.find(|c: char| !(c.is_alphanumeric() || "_.-/\\:~".contains(c))).unwrap_or(rest.len());
        if len == 0 {
            let found = rest.chars().next().map_or("the end".to_owned(), |found| format!("`{found}`"));
            return Err(self.error(format!("expected {what}, found {found}")));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    /// `(key=value, …)`, or nothing. A method alone, as in `adakv(snapkv)`, is the one built on; `d2o(merge)` asks for the
    /// method's own way of merging.
    pub fn args(&mut self) -> Result<BTreeMap<String, String>, RecipeError> {
        let mut args = BTreeMap::new();
        if !self.eat('(') || self.eat(')') {
            return Ok(args);
        }
        if self.depth == MAX_DEPTH {
            return Err(self.error(format!("more than {MAX_DEPTH} calls within each other")));
        }
        self.depth += 1;
        loop {
            let key = self.word("the name of an argument")?;
            let (key, value) = match self.eat('=') {
                true => (key, self.call("a value")?.to_string()),
                false if key == "merge" => (key, "own".to_owned()),
                false if crate::score::registry::method(key).is_some() => {
                    let of = StageSpec { name: key.to_owned(), args: self.args()? };
                    ("of", of.to_string())
                }
                false => {
                    self.expect('=')?;
                    (key, String::new())
                }
            };
            if args.insert(key.to_owned(), value).is_some() {
                return Err(self.error(format!("`{key}` is given twice")));
            }
            if self.eat(')') {
                self.depth -= 1;
                return Ok(args);
            }
            if !self.eat(',') {
                return Err(self.error("expected `,` or `)`"));
            }
        }
    }

    /// `name(key=value, …)`.
    pub fn call(&mut self, what: &str) -> Result<StageSpec, RecipeError> {
        let name = self.word(what)?.to_owned();
        Ok(StageSpec { name, args: self.args()? })
    }
}

impl FromStr for StageSpec {
    type Err = RecipeError;

    fn from_str(text: &str) -> Result<StageSpec, RecipeError> {
        let mut cursor = Cursor::new(text)?;
        let stage = cursor.call("the name of a stage")?;
        if cursor.end() { Ok(stage) } else { Err(cursor.error("expected the end of the stage")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_parse_and_print() {
        for (text, canonical) in [
            ("hadamard", "hadamard"),
            (" hadamard ( ) ", "hadamard"),
            ("uniform(bits=4,axis=token , group = 32)", "uniform(axis=token, bits=4, group=32)"),
            ("clip(to=-0.5)", "clip(to=-0.5)"),
        ] {
            let stage: StageSpec = text.parse().unwrap();
            assert_eq!(stage.to_string(), canonical);
            assert_eq!(canonical.parse::<StageSpec>().unwrap(), stage);
        }
    }

    #[test]
    fn errors_say_the_column() {
        for (text, column, what) in [
            ("", 1, "the name of a stage"),
            ("uniform(bits)", 13, "expected `=`"),
            ("uniform(bits=)", 14, "a value"),
            ("uniform(bits=4", 15, "`,` or `)`"),
            ("uniform(bits=4, bits=2)", 23, "twice"),
            ("uniform(bits=4) x", 17, "the end"),
            ("höher(=1)", 7, "name of an argument"),
        ] {
            let error = text.parse::<StageSpec>().unwrap_err();
            let RecipeError::Syntax { column: found, what: said, .. } = &error else { panic!("{error}") };
            assert_eq!(*found, column, "{error}");
            assert!(said.contains(what), "{error}");
        }
        assert!("x".repeat(5000).parse::<StageSpec>().unwrap_err().to_string().len() < 200);
    }
}
