//! What a session may be called.

use std::fmt;
use std::str::FromStr;

use super::SessionError;

/// Longest name, in bytes.
const MAX: usize = 100;

/// The name of a session: 1 to 100 letters, digits and `-_.:@` of ASCII, beginning with a letter or a digit. It never becomes a
/// path: files are called by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionName(String);

impl SessionName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionName {
    type Err = SessionError;

    fn from_str(text: &str) -> Result<SessionName, SessionError> {
        let bad = |what: String| SessionError::Name { name: text.chars().take(MAX).collect(), what };
        if text.is_empty() || text.len() > MAX {
            return Err(bad(format!("it has {} bytes, 1 to {MAX} are possible", text.len())));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
        if let Some(c) = text.chars().find(|&c| !allowed(c)) {
            return Err(bad(format!("{c:?} is not among the letters, digits and -_.:@ of ASCII")));
        }
        match text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            true => Ok(SessionName(text.to_owned())),
            false => Err(bad("it begins with neither a letter nor a digit".to_owned())),
        }
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_and_no_paths() {
        for good in ["a", "7", "user@host:2026-01-01_x.y", &"n".repeat(MAX)] {
            assert_eq!(good.parse::<SessionName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "../x", "a/b", "a\\b", "-a", ".hidden", "a b", "ä", "a\0", "a\n", &"n".repeat(101)]
        {
            let error = bad.parse::<SessionName>().unwrap_err().to_string();
            assert!(error.contains("cannot be the name of a session"), "{bad:?}: {error}");
        }
    }
}
