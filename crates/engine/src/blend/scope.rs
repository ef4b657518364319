//! Who shares with whom.

use std::fmt;
use std::str::FromStr;

/// An edit of a prompt. Keys and values that come after it depend on what the prompt was before, so nobody shares them who
/// does not come after the same edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EditId(pub [u8; 32]);

impl EditId {
    /// Of a prompt that became another, after an edit before that if there was one, with a method.
    pub fn of(before: &[u32], edit: Option<EditId>, after: &[u32], method: &str) -> EditId {
        let mut hasher = blake3::Hasher::new_derive_key("cachalot edit v1");
        let mut add = |bytes: &[u8]| _ = hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        let bytes = |tokens: &[u32]| tokens.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<u8>>();
        add(&bytes(before));
        add(edit.as_ref().map_or(&[], |edit| &edit.0));
        add(&bytes(after));
        add(method.as_bytes());
        EditId(*hasher.finalize().as_bytes())
    }

    /// The digest of a plan for what comes after this edit.
    pub(crate) fn mix(self, plan: [u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("cachalot plan after an edit v1");
        hasher.update(&self.0).update(&plan);
        *hasher.finalize().as_bytes()
    }
}

impl fmt::Display for EditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for EditId {
    type Err = String;

    fn from_str(text: &str) -> Result<EditId, String> {
        let wrong = || format!("`{text}` is not 64 hexadecimal digits");
        let mut id = [0; 32];
        let digits = text.as_bytes().as_chunks::<2>();
        if digits.0.len() != id.len() || !digits.1.is_empty() {
            return Err(wrong());
        }
        for (to, pair) in id.iter_mut().zip(digits.0) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *to = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(EditId(id))
    }
}

/// Whose keys and values are meant, and how they are kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope<'a> {
    /// The recipe; the engine's own if absent.
    pub kv: Option<&'a str>,
    /// Whose they are.
    pub tenant: &'a str,
    /// The edit that they come after.
    pub edit: Option<EditId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_told_apart_by_all_it_depends_on_and_read_as_it_is_written() {
        let id = EditId::of(&[1, 2], None, &[1, 3], "pie");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "12", &"x".repeat(64), &id.to_string()[1..], &format!("{id}0")] {
            assert!(text.parse::<EditId>().is_err());
        }
        let others = [
            EditId::of(&[1], None, &[2, 1, 3], "pie"),
            EditId::of(&[1, 2], Some(id), &[1, 3], "pie"),
            EditId::of(&[1, 2], None, &[1, 3], "cacheblend"),
            EditId::of(&[1, 3], None, &[1, 2], "pie"),
        ];
        assert!(others.iter().all(|other| *other != id));
        assert_ne!(id.mix([0; 32]), id.mix([1; 32]));
    }
}
