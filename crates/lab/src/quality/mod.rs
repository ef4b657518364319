//! Quality, memory and speed of recipes against a full-precision cache, from one run.
//!
//! Windows of a text are scored in lock step: the reference and all recipes take the same chunk in turn, their logits
//! are compared and dropped, so nothing large is kept and all see the same noise of the machine. Scoring a window by
//! chunks is scoring it token by token: the cache's results do not depend on how tokens were cut into steps.

mod ask;
mod outcome;
mod score;
mod settings;
mod trial;

pub use ask::Answer;
pub use outcome::{AnswerScore, BlockSums, DepthScore, Memory, Outcome, Scores, Speed, WindowScore};
pub use settings::QualitySettings;

use crate::{Candidate, LabError, Subject, Text};
use outcome::Collected;
use std::sync::Arc;

/// What happens during a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// Tokens computed, over all recipes.
    Progress {
        /// So far.
        done: u64,
        /// In all.
        total: u64,
    },
    /// A recipe has been through a window.
    Window(&'a WindowScore),
    /// A recipe has answered a question.
    Answer(&'a Answer),
}

/// Told what happens; an error ends the run.
pub type Observer<'a> = dyn FnMut(Event<'_>) -> Result<(), LabError> + 'a;

/// Measures recipes against `settings.reference` on a text. The first outcome is the reference's own.
///
/// # Errors
/// [`LabError`] for settings that do not go together, a text that is too short, or a reference that fails. A recipe
/// that fails has an outcome that says so.
pub fn measure(
    subject: &Subject<'_>,
    text: &Text,
    recipes: &[Arc<dyn Candidate>],
    settings: &QualitySettings,
    observe: &mut Observer<'_>,
) -> Result<Vec<Outcome>, LabError> {
    settings.check(subject, recipes)?;
    let windows = text.windows(subject.tokenizer, settings.windows, settings.window)?;
    let cases = settings.cases(subject, text)?;
    let mut all: Vec<Collected> = [&settings.reference].into_iter().chain(recipes).map(Collected::new).collect();
    let mut progress = Progress::new(settings, &cases, recipes.len(), observe);
    let groups = settings.groups(subject, recipes)?;
    progress.total += (groups.len().saturating_sub(1) * settings.windows * settings.window) as u64;
    if !windows.is_empty() {
        for (i, group) in groups.iter().enumerate() {
            score::score(subject, &windows, settings, group, i == 0, &mut all, &mut progress)?;
        }
    }
    ask::ask(subject, &cases, settings, &mut all, &mut progress)?;
    let reference = all.first().map(Collected::answers);
    let reference = reference.unwrap_or_default();
    Ok(all.into_iter().enumerate().map(|(i, one)| one.outcome(settings, i == 0, &reference)).collect())
}

/// Counts tokens and passes events on.
struct Progress<'a, 'b> {
    done: u64,
    total: u64,
    observe: &'a mut Observer<'b>,
}

impl<'a, 'b> Progress<'a, 'b> {
    fn new(
        settings: &QualitySettings,
        cases: &[crate::tasks::Case],
        recipes: usize,
        observe: &'a mut Observer<'b>,
    ) -> Self {
        let each = settings.windows * settings.window + ask::tokens(cases);
        Progress { done: 0, total: (each * (recipes + 1)) as u64, observe }
    }

    fn advance(&mut self, tokens: usize) -> Result<(), LabError> {
        self.done += tokens as u64;
        (self.observe)(Event::Progress { done: self.done, total: self.total })
    }
}
