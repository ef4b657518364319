//! How questions share texts.

use crate::LabError;
use std::fmt;
use std::str::FromStr;

/// How questions share texts; the last two are the modes of SCBench (Li et al., 2024).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// One question for each text. Of a text of a file that has more, the first.
    Single,
    /// Several questions about one text, each of which is asked as if it were the only one.
    #[default]
    Shared,
    /// Several questions about one text, one after the other in one conversation. The right answers to the earlier ones
    /// stand in it, whatever the model has answered.
    Turns,
}

impl FromStr for Mode {
    type Err = LabError;

    fn from_str(name: &str) -> Result<Mode, LabError> {
        let all = [Mode::Single, Mode::Shared, Mode::Turns];
        all.into_iter()
            .find(|mode| mode.to_string() == name)
            .ok_or_else(|| LabError::Settings(format!("there is no mode `{name}`; choose from single, shared, turns")))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Single => "single",
            Mode::Shared => "shared",
            Mode::Turns => "turns",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Mode;

    #[test]
    fn names_read_back() {
        for mode in [Mode::Single, Mode::Shared, Mode::Turns] {
            assert_eq!(mode.to_string().parse::<Mode>().unwrap(), mode);
        }
        assert!("turn".parse::<Mode>().unwrap_err().to_string().contains("turns"));
    }
}
