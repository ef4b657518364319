//! What is measured in one go: a window, questions that begin alike, a generation.

use super::record::{ItemName, Record};
use super::trial::Trial;
use super::{Run, ask, attention, generate, window};
use crate::tasks::Case;
use crate::{Candidate, LabError, Subject};
use std::sync::Arc;

/// Something that all recipes go through beside the reference.
#[derive(Clone, Debug)]
pub enum Item {
    /// Text that is predicted, token by token, after a context that may be reduced.
    Window {
        /// Its tokens.
        tokens: Vec<u32>,
        /// How many at the beginning are context.
        context: usize,
    },
    /// Questions that begin alike, each with more in common with the next.
    Questions(Vec<Case>),
    /// A prompt, which may be reduced, and what is most likely to follow.
    Generation {
        /// The prompt.
        prompt: Vec<u32>,
        /// Tokens to generate at most.
        tokens: usize,
    },
    /// Text whose queries, keys and values, as the reference has them, go through every cache, layer by layer.
    Attention {
        /// Its tokens.
        tokens: Vec<u32>,
        /// How many at the beginning are context.
        context: usize,
    },
}

impl Item {
    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        match self {
            Item::Window { tokens, .. } | Item::Attention { tokens, .. } => tokens.len(),
            Item::Questions(cases) => {
                cases.iter().map(|case| case.prompt.len() + case.answer_tokens).max().unwrap_or(0)
            }
            Item::Generation { prompt, tokens } => prompt.len() + tokens,
        }
    }

    /// Tokens that one recipe computes, as far as that can be known.
    pub fn cost(&self, known: bool) -> usize {
        match self {
            Item::Questions(cases) if known => cases.iter().map(|case| case.prompt.len()).sum(),
            Item::Questions(cases) => ask::tokens(cases),
            _ => self.longest(),
        }
    }
}

/// An item with its name.
#[derive(Clone, Debug)]
pub struct Named {
    /// As results are filed.
    pub name: ItemName,
    /// The item.
    pub item: Item,
}

/// Every recipe and the reference on one item, in groups that fit into memory. The reference's own record comes first, where
/// there is one ([`super::RunSettings::recipes_alone`]).
///
/// # Errors
/// Where the reference fails, or the observer; a recipe that fails has a record that says so.
pub fn measure_item(run: &mut Run<'_>, named: &Named, recipes: &[Arc<dyn Candidate>]) -> Result<Vec<Record>, LabError> {
    let mut records = Vec::with_capacity(recipes.len() + 1);
    let groups = run.groups(named.item.longest() + run.settings.decode, recipes)?;
    for (i, group) in groups.into_iter().enumerate() {
        let found = match &named.item {
            Item::Window { tokens, context } => window::score(run, &named.name, tokens, *context, &recipes[group])?,
            Item::Questions(cases) => ask::ask(run, &named.name, cases, &recipes[group])?,
            Item::Generation { prompt, tokens } => {
                generate::generate(run, &named.name, prompt, *tokens, &recipes[group])?
            }
            Item::Attention { tokens, context } => {
                attention::compare(run, &named.name, tokens, *context, &recipes[group])?
            }
        };
        // The reference goes along with every group, and is looked at once.
        records.extend(found.into_iter().filter(|record| i == 0 || !record.is_reference));
    }
    Ok(records)
}

/// Trials of the reference and of recipes, with room for `tokens` each.
pub(super) fn trials<'a>(
    subject: &'a Subject<'a>,
    reference: &Arc<dyn Candidate>,
    recipes: &[Arc<dyn Candidate>],
    tokens: usize,
    chunk: usize,
) -> Result<(Trial<'a>, Vec<Trial<'a>>), LabError> {
    let reference = Trial::new(subject, reference, tokens, chunk);
    reference.must_run()?;
    Ok((reference, recipes.iter().map(|recipe| Trial::new(subject, recipe, tokens, chunk)).collect()))
}
