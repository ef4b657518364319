//! Text files, and windows of tokens cut from them.

use crate::LabError;
use cachalot_model::tokenizer::{Specials, Tokenizer};
use std::path::{Path, PathBuf};

/// More control characters than one in so many bytes are no text.
const CONTROLS: usize = 100;

/// A text that was read and looks like text.
pub struct Text {
    path: PathBuf,
    digest: String,
    bytes: usize,
    text: String,
}

impl Text {
    /// Reads a file. Lines of one NUL byte, which separate documents in some collections, become empty.
    ///
    /// # Errors
    /// [`LabError::Text`] for a file that is empty or binary, [`LabError::Io`] for one that cannot be read.
    pub fn read(path: &Path) -> Result<Text, LabError> {
        let wrap = |source| LabError::Io { what: "read", path: path.into(), source };
        Text::new(path, std::fs::read(path).map_err(wrap)?)
    }

    /// As [`Text::read`], from bytes that are already there; `path` is for messages.
    ///
    /// # Errors
    /// As [`Text::read`].
    pub fn new(path: &Path, bytes: Vec<u8>) -> Result<Text, LabError> {
        let fail = |reason: String| LabError::Text { path: path.into(), reason };
        let length = bytes.len();
        let digest = blake3::hash(&bytes).to_hex().to_string();
        let text = String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            fail(format!("is not UTF-8: byte {at} is wrong; give a plain text file, or convert it first"))
        })?;
        let text = text.replace("\n\0\n", "\n\n");
        let controls = text.bytes().filter(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace()).count();
        if controls * CONTROLS > text.len() {
            return Err(fail(format!("{controls} of {} bytes are control characters; it is no text", text.len())));
        }
        if text.trim().is_empty() {
            return Err(fail("is empty; give a file with some text".into()));
        }
        Ok(Text { path: path.into(), digest, bytes: length, text })
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// BLAKE3 of the file's bytes, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `count` windows of exactly `tokens` tokens. Window `i` begins at the first paragraph after `i / count` of the
    /// text, so windows of different models begin at the same places. Vocabularies that want it get their
    /// beginning-of-sequence token first.
    ///
    /// # Errors
    /// [`LabError::Text`] where a part of the text is too short for its window.
    pub fn windows(&self, tokenizer: &Tokenizer, count: usize, tokens: usize) -> Result<Vec<Vec<u32>>, LabError> {
        let boundary =
            |i: usize| self.text.floor_char_boundary((self.text.len() as u128 * i as u128 / count as u128) as usize);
        let mut windows = Vec::with_capacity(count);
        for i in 0..count {
            let part = &self.text[boundary(i)..boundary(i + 1)];
            let start = if i == 0 { 0 } else { part.find("\n\n").map_or(0, |at| at + 2) };
            let window = self.window(tokenizer, &part[start..], tokens)?.or(self.window(tokenizer, part, tokens)?);
            let Some(window) = window else {
                let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
                let have = tokenizer.encode(part, Specials::Plain)?.len() + usize::from(bos.is_some());
                let place = if count == 1 { "it".into() } else { format!("part {} of {count}", i + 1) };
                let reason = format!("{place} has {have} tokens, a window {tokens}; choose shorter or fewer windows");
                return Err(LabError::Text { path: self.path.clone(), reason });
            };
            windows.push(window);
        }
        Ok(windows)
    }

    fn window(&self, tokenizer: &Tokenizer, part: &str, tokens: usize) -> Result<Option<Vec<u32>>, LabError> {
        // Texts can be a thousand times longer than what a window needs of them.
        let mut bytes = tokens * 6;
        loop {
            let some = &part[..part.floor_char_boundary(bytes)];
            let mut ids = Vec::with_capacity(tokens);
            ids.extend(tokenizer.bos().filter(|_| tokenizer.add_bos()));
            ids.extend(tokenizer.encode(some, Specials::Plain)?);
            // The last tokens before a cut may be others than in the whole text.
            let whole = some.len() == part.len();
            if ids.len() >= tokens + if whole { 0 } else { 16 } {
                ids.truncate(tokens);
                return Ok(Some(ids));
            }
            if whole {
                return Ok(None);
            }
            bytes *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(bytes: &[u8]) -> String {
        Text::new(Path::new("some.txt"), bytes.to_vec()).err().unwrap().to_string()
    }

    #[test]
    fn what_is_no_text_is_refused() {
        assert!(reason(b"").contains("some.txt: is empty"));
        assert!(reason(b" \n\t\n").contains("is empty"));
        assert!(reason(b"ab\xffcd").contains("byte 2"));
        assert!(reason(&[1; 300]).contains("control characters"));
    }

    #[test]
    fn document_separators_are_not_read() {
        let text = Text::new(Path::new("x"), b"one\n\0\ntwo".to_vec()).unwrap();
        assert_eq!(text.as_str(), "one\n\ntwo");
        // The digest is of the file as it lies there.
        assert_eq!(text.digest(), blake3::hash(b"one\n\0\ntwo").to_hex().as_str());
    }
}
