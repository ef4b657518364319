//! Where cases come from.

use super::{Case, Mode};
use crate::{LabError, Subject, Text};

/// Something that makes cases: a generated kind, or a file.
pub trait Source: Send + Sync {
    /// As results are filed, and as [`super::named`] finds it.
    fn name(&self) -> &str;

    /// Most tokens of an answer.
    fn answer_tokens(&self) -> usize;

    /// Whether prompts have the length that was asked for. Those of a user's file are as long as they are.
    fn follows_length(&self) -> bool {
        true
    }

    /// What was wrong with lines of a file that were left out, with their numbers.
    fn warnings(&self) -> &[String] {
        &[]
    }

    /// The cases, those of one text in a row.
    ///
    /// # Errors
    /// [`LabError::Settings`] where not even the question fits, [`LabError::Text`] where the text has too little
    /// filler or a line of a file is too long.
    fn cases(&self, subject: &Subject<'_>, wanted: &Wanted<'_>) -> Result<Vec<Case>, LabError>;
}

/// What cases are wanted.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Where filler comes from.
    pub text: &'a Text,
    /// Most tokens of a prompt.
    pub tokens: usize,
    /// Most questions.
    pub questions: usize,
    /// Questions about one text; at least one. Files say themselves how many they have.
    pub per_text: usize,
    /// How questions share texts.
    pub mode: Mode,
    /// Seed of everything that is made up.
    pub seed: u64,
    /// Whether prompts of a user's file that the model has no room for are cut in the middle; else they are errors.
    pub cut: bool,
}
