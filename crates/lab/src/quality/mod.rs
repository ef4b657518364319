//! Quality, memory and speed of recipes against a full-precision cache, from one run.
//!
//! A run is a list of items ([`Item`]); every recipe and the reference go through each beside one another, and leave a
//! [`Record`]. Everything else is made of records: [`Outcome`] here, cells of a sweep elsewhere. Scoring a window by
//! chunks is scoring it token by token: the cache's results do not depend on how tokens were cut into steps.

mod answer;
mod ask;
mod attention;
mod generate;
mod item;
mod outcome;
mod record;
mod settings;
mod trial;
mod window;

pub use answer::Answer;
pub use ask::rows;
pub use item::{Item, Named, measure_item};
pub use outcome::{AnswerScore, DepthScore, Outcome, Scores, Speed};
pub use record::{BlockSums, Generation, ItemName, Memory, Record, Time, WindowScore};
pub use settings::QualitySettings;

use crate::{Candidate, LabError, Subject, Text};
use std::ops::Range;
use std::sync::Arc;

/// How items are gone through.
#[derive(Clone)]
pub struct RunSettings {
    /// The full-precision cache that recipes are compared with.
    pub reference: Arc<dyn Candidate>,
    /// Tokens of a step.
    pub chunk: usize,
    /// Tokens decoded after each window, one at a time, for speed; 0 for none.
    pub decode: usize,
    /// Consecutive tokens that are drawn together for intervals.
    pub block: usize,
    /// Divergences of a window that are kept one by one: for the 99th percentile of `n` windows, `n` hundredths of one.
    pub tail: usize,
    /// Most bytes of all caches together.
    pub kv_budget_bytes: u64,
    /// Whether questions are put to recipes alone, since what the reference answers is known.
    pub recipes_alone: bool,
}

/// A model, how items are gone through, and who is told of it.
pub struct Run<'a> {
    /// What is experimented on.
    pub subject: &'a Subject<'a>,
    /// See [`RunSettings`].
    pub settings: RunSettings,
    /// Told how many tokens more were computed; an error ends the run.
    pub progress: &'a mut dyn FnMut(usize) -> Result<(), LabError>,
}

impl Run<'_> {
    fn advance(&mut self, tokens: usize) -> Result<(), LabError> {
        (self.progress)(tokens)
    }

    /// Of the reference and of recipes, with nothing in them.
    fn records(&self, name: &ItemName, recipes: &[Arc<dyn Candidate>]) -> Vec<Record> {
        let own = Record::new(self.settings.reference.name(), true, name);
        [own].into_iter().chain(recipes.iter().map(|recipe| Record::new(recipe.name(), false, name))).collect()
    }

    /// Ranges of recipes whose caches fit into memory together with the reference's, for sequences of `tokens`.
    fn groups(&self, tokens: usize, recipes: &[Arc<dyn Candidate>]) -> Result<Vec<Range<usize>>, LabError> {
        let RunSettings { reference, chunk, kv_budget_bytes, .. } = &self.settings;
        let bytes = |candidate: &Arc<dyn Candidate>| -> Result<u64, LabError> {
            let cache = candidate.cache(self.subject, 0)?;
            Ok(cache.peak_bytes(&cache.config().plan, tokens, *chunk))
        };
        let own = bytes(reference)
            .map_err(|e| LabError::Reference { name: reference.name().into(), reason: e.to_string() })?;
        let (mut groups, mut start, mut held) = (Vec::new(), 0, own);
        for (i, recipe) in recipes.iter().enumerate() {
            // Where recipe and model do not go together there is nothing to hold.
            let more = bytes(recipe).unwrap_or(0);
            if own + more > *kv_budget_bytes {
                return Err(LabError::Settings(format!(
                    "the caches of {} and {} take {} bytes together, the budget is {kv_budget_bytes}; choose shorter \
                     windows and prompts or a larger budget",
                    reference.name(),
                    recipe.name(),
                    own + more,
                )));
            }
            if held + more > *kv_budget_bytes {
                groups.push(start..i);
                (start, held) = (i, own);
            }
            held += more;
        }
        groups.push(start..recipes.len());
        Ok(groups)
    }
}

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
    /// A recipe has been through an item.
    Record(&'a Record),
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
    let items = settings.items(subject, text)?;
    let cost = |named: &Named| named.item.cost(settings.question_known) as u64;
    let total = items.iter().map(cost).sum::<u64>() * (recipes.len() as u64 + 1);
    let mut records: Vec<Vec<Record>> = (0..=recipes.len()).map(|_| Vec::new()).collect();
    let mut done = 0;
    for named in &items {
        let mut here = 0;
        let mut progress = |tokens: usize| {
            here += tokens as u64;
            observe(Event::Progress { done: (done + here).min(total), total })
        };
        let mut run = Run { subject, settings: settings.run(), progress: &mut progress };
        let found = measure_item(&mut run, named, recipes)?;
        done += cost(named) * (recipes.len() as u64 + 1);
        observe(Event::Progress { done, total })?;
        for (record, all) in found.into_iter().zip(&mut records) {
            observe(Event::Record(&record))?;
            all.push(record);
        }
    }
    let reference = records.first().cloned().unwrap_or_default();
    Ok(records.iter().map(|own| Outcome::of(own, &reference, settings)).collect())
}
