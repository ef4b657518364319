//! Questions with known answers: generated from a seed at any length, or read from files.
//!
//! Cases come from a [`Source`]. A generated kind implements [`Task`]: it makes the text and the questions
//! ([`Posed`]), in one file, with one line in [`TASKS`]. What all kinds share is done once: filler of the user's text
//! ([`Filler`]), a text of the right length ([`Generated`]), the prompt in the model's own form with what of it may be
//! reduced before the question is known ([`Case::context`]), one question after the other or as turns of a
//! conversation ([`Mode`]), and the score ([`Scoring`]). Files are in [`crate::data`].

mod case;
mod common_words;
mod copy;
mod facts;
mod filler;
mod frequent_words;
mod generate;
mod lexicon;
mod many_shot;
mod mode;
mod multi_key;
mod multi_query;
mod multi_value;
mod needle;
mod pairs;
mod passkey;
mod posed;
mod prompt;
mod scoring;
mod source;
mod two_hop;
mod variables;

pub use case::Case;
pub use common_words::CommonWords;
pub use copy::VerbatimCopy;
pub use filler::Filler;
pub use frequent_words::FrequentWords;
pub use generate::Generated;
pub use many_shot::ManyShot;
pub use mode::Mode;
pub use multi_key::MultiKey;
pub use multi_query::MultiQuery;
pub use multi_value::MultiValue;
pub use needle::Needles;
pub use pairs::KeyValue;
pub use passkey::PassKey;
pub use posed::{Form, Posed, Question};
pub(crate) use prompt::{Prompts, prompts};
pub use scoring::Scoring;
pub use source::{Source, Wanted};
pub use two_hop::TwoHop;
pub use variables::VariableTracking;

use crate::statistics::Random;
use crate::{LabError, data};
use std::sync::Arc;

/// All generated kinds.
pub const TASKS: [&dyn Task; 12] = [
    &Needles,
    &MultiKey,
    &MultiValue,
    &MultiQuery,
    &PassKey,
    &KeyValue,
    &VariableTracking,
    &CommonWords,
    &FrequentWords,
    &VerbatimCopy,
    &TwoHop,
    &ManyShot,
];

/// Names that a kind had before.
const ALIASES: [(&str, &str); 1] = [("multi-needle", "multi-query")];

/// A kind of question that is made up.
pub trait Task: Sync {
    /// As results are filed.
    fn name(&self) -> &'static str;

    /// Most tokens of an answer.
    fn answer_tokens(&self) -> usize;

    /// Whether nothing in the text is the user's. `sentences` are then empty, and their number says how much to make.
    fn made_up(&self) -> bool {
        false
    }

    /// Most questions that can be asked of one text.
    fn questions_of_a_text(&self) -> usize {
        usize::MAX
    }

    /// One text with a question for each depth: places the facts among the filler's sentences. Depths lie in `[0, 1]`.
    ///
    /// Called again with other numbers of sentences until the prompts fit: more sentences must make longer texts, and
    /// the same draws the same facts.
    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed;
}

/// Sources by their names, separated by commas: kinds of [`TASKS`], and `jsonl:PATH`, `ruler:PATH`, `longbench:PATH`,
/// `scbench:PATH` for files, or for folders with one file a dataset. Paths with commas cannot be given. What is named
/// twice is there once.
///
/// # Errors
/// [`LabError::Settings`] for a name that is none, [`LabError::Io`] and [`LabError::Text`] for files without a good
/// line.
pub fn named(list: &str) -> Result<Vec<Arc<dyn Source>>, LabError> {
    let mut sources: Vec<Arc<dyn Source>> = Vec::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let found = match name.split_once(':') {
            Some((format, path)) => data::open(format.trim(), path.trim().as_ref())?,
            None => vec![generated(name)?],
        };
        for source in found {
            if sources.iter().all(|other| other.name() != source.name()) {
                sources.push(source);
            }
        }
    }
    Ok(sources)
}

fn generated(name: &str) -> Result<Arc<dyn Source>, LabError> {
    let name = ALIASES.iter().find(|alias| alias.0 == name).map_or(name, |alias| alias.1);
    match TASKS.into_iter().find(|task| task.name() == name) {
        Some(task) => Ok(Arc::new(Generated(task))),
        None => {
            let names: Vec<&str> = TASKS.iter().map(|task| task.name()).collect();
            let (names, formats) = (names.join(", "), data::FORMATS.map(|format| format!("{format}:PATH")).join(", "));
            Err(LabError::Settings(format!("there is no task `{name}`; choose from {names}, {formats}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_name_every_kind_once() {
        let all: Vec<&str> = TASKS.iter().map(|task| task.name()).collect();
        let named = |list: &str| -> Result<Vec<String>, String> {
            let sources = super::named(list).map_err(|error| error.to_string())?;
            Ok(sources.iter().map(|source| source.name().to_owned()).collect())
        };
        assert_eq!(named(&all.join(", ")).unwrap(), all);
        assert_eq!(named("multi-needle,needle,,needle").unwrap(), ["multi-query", "needle"]);
        let error = named("needles").unwrap_err();
        assert!(error.contains("`needles`") && all.iter().all(|name| error.contains(name)), "{error}");
        assert!(error.contains("scbench:PATH"), "{error}");
        assert!(named("csv:x").unwrap_err().contains("`csv`"));
    }
}
