//! Token ids to text, one at a time, in whole characters.

use std::sync::Arc;

use super::table::TokenTable;

/// Turns token ids into text as they come. What it returns is always whole UTF-8 characters: bytes of a character
/// whose rest has not come yet are kept back. Bytes that cannot be part of any character become U+FFFD, so that the
/// pieces put together equal the lossy decoding of all the bytes.
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    table: Arc<TokenTable>,
    /// The beginning of a character, at most three bytes.
    pending: Vec<u8>,
    strip_space: bool,
    show_control: bool,
}

impl StreamDecoder {
    pub(crate) fn new(table: Arc<TokenTable>, strip_space: bool) -> Self {
        StreamDecoder { table, pending: Vec::new(), strip_space, show_control: false }
    }

    /// Also returns the text of control tokens (`<|im_end|>`), which is left out otherwise.
    pub fn with_control(mut self) -> Self {
        self.show_control = true;
        self
    }

    /// The text that this token completes; often empty, never part of a character.
    pub fn push(&mut self, id: u32) -> String {
        if self.table.is_control(id) && !self.show_control {
            return String::new();
        }
        let mut bytes = self.table.get(id);
        if self.strip_space && !bytes.is_empty() {
            self.strip_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        let keep = unfinished(&self.pending);
        let rest = self.pending.split_off(self.pending.len() - keep);
        let whole = std::mem::replace(&mut self.pending, rest);
        match String::from_utf8(whole) {
            Ok(text) => text,
            Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        }
    }

    /// What is left when no more tokens come: U+FFFD for the beginning of a character that was never finished.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    /// Bytes kept back until their character is complete; at most three.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }
}

/// How many bytes at the end of `bytes` are the beginning of a character that may still be completed.
fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let start = bytes.len() - back;
        if bytes[start] & 0xC0 == 0x80 {
            continue;
        }
        // A valid beginning is exactly what the standard library reports as "ends too early" (no error length).
        let open = std::str::from_utf8(&bytes[start..]).is_err_and(|e| e.error_len().is_none());
        return if open { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(tokens: &[Vec<u8>]) -> Arc<TokenTable> {
        let mut table = TokenTable::default();
        for (i, token) in tokens.iter().enumerate() {
            table.push(token, i == 0);
        }
        Arc::new(table)
    }

    #[test]
    fn a_character_over_three_tokens_comes_out_once() {
        let t = table(&[b"<|end|>".to_vec(), vec![0xF0, 0x9F], vec![0x90], vec![0xB3, b'!'], vec![0xF0]]);
        let mut d = StreamDecoder::new(t.clone(), false);
        assert_eq!([1, 2, 3, 0].map(|id| d.push(id)), ["", "", "🐳!", ""]);
        assert_eq!((d.push(4), d.finish(), d.finish()), (String::new(), "\u{FFFD}".into(), String::new()));
        assert_eq!(StreamDecoder::new(t, false).with_control().push(0), "<|end|>");
    }

    #[test]
    fn an_unknown_id_is_no_text() {
        assert_eq!(StreamDecoder::new(table(&[]), false).push(7), "");
    }

    proptest! {
        #[test]
        fn pieces_put_together_equal_the_whole(
            tokens in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..5),
                    "\\PC{0,2}".prop_map(String::into_bytes),
                    // Cut characters: the usual case in byte-level vocabularies.
                    ("[é中🐳]", 0usize..4).prop_map(|(s, n)| s.as_bytes()[..n.min(s.len())].to_vec()),
                    Just(vec![0x9F, 0x90]), Just(vec![0xED, 0xA0]), Just(vec![0xF4, 0x90]),
                ],
                0..24,
            )
        ) {
            let mut all = tokens.concat();
            if let Some(first) = tokens.first() {
                all.drain(..first.len()); // id 0 is a control token
            }
            let mut decoder = StreamDecoder::new(table(&tokens), false);
            let mut text: String = (0..tokens.len() as u32).map(|id| decoder.push(id)).collect();
            prop_assert!(decoder.pending().len() < 4);
            text += &decoder.finish();
            prop_assert_eq!(text, String::from_utf8_lossy(&all));
        }
    }
}
