//! What each token id stands for in bytes.

/// The characters that byte-level vocabularies write bytes as: printable Latin-1 stands for itself, the other 68 bytes
/// are the characters from U+0100 on, in order.
pub(crate) fn byte_to_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return byte as char;
    }
    let before = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// How a vocabulary writes its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Every character stands for one byte ([`byte_to_char`]).
    ByteLevel,
    /// `▁` is a space and `<0x0A>` a byte.
    SentencePiece,
    /// As it is.
    Literal,
}

impl Spelling {
    /// The bytes of a token of the model's own vocabulary.
    pub fn bytes(self, token: &str) -> Vec<u8> {
        match self {
            Spelling::ByteLevel => {
                let bytes: Option<Vec<u8>> = token.chars().map(char_to_byte).collect();
                bytes.unwrap_or_else(|| token.as_bytes().to_vec())
            }
            Spelling::SentencePiece => match fallback_byte(token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            },
            Spelling::Literal => token.as_bytes().to_vec(),
        }
    }
}

/// The inverse of [`byte_to_char`].
fn char_to_byte(c: char) -> Option<u8> {
    match c as u32 {
        0x100..=0x143 => match c as u32 - 0x100 {
            n @ 0..=0x20 => Some(n as u8),
            n @ 0x21..=0x42 => Some((n - 0x21 + 0x7F) as u8),
            _ => Some(0xAD),
        },
        n if n < 0x100 && byte_to_char(n as u8) == c => Some(n as u8),
        _ => None,
    }
}

/// The byte that a token such as `<0x0A>` stands for.
pub(crate) fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit())).then(|| u8::from_str_radix(hex, 16).ok())?
}

/// All tokens' bytes, one after the other.
#[derive(Debug, Default)]
pub(crate) struct TokenTable {
    bytes: Vec<u8>,
    /// `ends[id]` is where the bytes of `id` end; they begin where those of `id - 1` end.
    ends: Vec<usize>,
    control: Vec<bool>,
    /// A decoded text loses the one space that encoding put before it.
    pub strip_leading_space: bool,
}

impl TokenTable {
    /// A table without tokens.
    pub fn new(strip_leading_space: bool) -> Self {
        TokenTable { strip_leading_space, ..TokenTable::default() }
    }

    /// Appends the next id.
    pub fn push(&mut self, bytes: &[u8], control: bool) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        self.control.push(control);
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a token, control tokens included; empty for an id that is not in the vocabulary.
    pub fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    /// Whether a token steers the model instead of standing for text.
    pub fn is_control(&self, id: u32) -> bool {
        self.control.get(id as usize).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_characters_are_the_inverse_of_each_other() {
        let mut seen = std::collections::HashSet::new();
        for byte in 0..=255u8 {
            assert_eq!(char_to_byte(byte_to_char(byte)), Some(byte), "byte {byte:#x}");
            assert!(seen.insert(byte_to_char(byte)));
        }
        assert_eq!((byte_to_char(b' '), byte_to_char(b'\n'), byte_to_char(0xAD)), ('Ġ', 'Ċ', 'Ń'));
        assert_eq!(char_to_byte('▁'), None);
    }

    #[test]
    fn fallback_bytes() {
        assert_eq!(Spelling::SentencePiece.bytes("<0xE2>"), [0xE2]);
        assert_eq!(Spelling::SentencePiece.bytes("<0xE>"), b"<0xE>");
        assert_eq!(Spelling::SentencePiece.bytes("<0x+1>"), b"<0x+1>");
        assert_eq!(Spelling::SentencePiece.bytes("▁a▁"), b" a ");
    }
}
