//! Recipes by tasks by lengths, in a folder that a sweep can be continued in.
//!
//! A sweep is a plan ([`Plan`]): items in rounds, so that there is something of everything early. Every record is a line of
//! the folder's file at once ([`Store`]), under a key of all that it depends on: what is there already is not measured
//! again, what depends on something that has changed is. Reports are made of the file alone.

mod kind;
mod plan;
mod sheet;
mod store;

pub use kind::Kind;
pub use plan::{Plan, Skipped, SweepSettings};
pub use sheet::sheet;
use store::RecordLine;
pub use store::{RecipeLine, Store};

use crate::quality::{Named, Record, Run, RunSettings, measure_item};
use crate::{Candidate, LabError, Subject};
use std::sync::Arc;

/// Recipes that go through an item together: what an interruption can cost at most.
const TOGETHER: usize = 6;

/// What happens during a sweep.
#[derive(Debug)]
pub enum Event<'a> {
    /// Tokens computed.
    Progress {
        /// So far.
        done: u64,
        /// In all that this run has to do.
        total: u64,
    },
    /// An item begins for some recipes.
    Item(&'a Named),
    /// A record is in the file.
    Record(&'a Record),
}

/// Told what happens; an error ends the sweep, which can be continued.
pub type Observer<'a> = dyn FnMut(Event<'_>) -> Result<(), LabError> + 'a;

/// Measures all of the plan that the store does not have yet. Returns how many records were added.
///
/// # Errors
/// Where the reference fails, the file cannot be written, or the observer says so.
pub fn sweep(
    subject: &Subject<'_>,
    plan: &Plan,
    settings: &SweepSettings,
    store: &mut Store,
    observe: &mut Observer<'_>,
) -> Result<usize, LabError> {
    store.begin(plan, settings)?;
    let missing = |store: &Store, index: usize| -> Vec<Arc<dyn Candidate>> {
        let wanted = settings.recipes.iter().filter(|recipe| plan.concerns(index, &***recipe));
        wanted.filter(|recipe| !store.has(&plan.key(index, &***recipe))).cloned().collect()
    };
    // The recipes that an item is still to be measured for, in groups, each with whether the reference goes along.
    let groups = |store: &Store, index: usize| -> Vec<(Vec<Arc<dyn Candidate>>, bool)> {
        let mut there = store.has(&plan.key(index, &*settings.reference));
        let mut groups: Vec<(Vec<_>, bool)> = Vec::new();
        for recipes in missing(store, index).chunks(TOGETHER) {
            groups.push((recipes.to_vec(), plan.needs_reference(index, there)));
            there = true;
        }
        if groups.is_empty() && !there && plan.concerns(index, &*settings.reference) {
            groups.push((Vec::new(), true));
        }
        groups
    };
    let cost =
        |index: usize, recipes: usize, reference: bool| (plan.cost(index) * (recipes + usize::from(reference))) as u64;
    let all = (0..plan.items.len()).flat_map(|index| groups(store, index).into_iter().map(move |group| (index, group)));
    let total = all.map(|(index, (recipes, reference))| cost(index, recipes.len(), reference)).sum();
    let (mut done, mut added) = (0, 0);
    observe(Event::Progress { done, total })?;
    for (index, named) in plan.items.iter().enumerate() {
        let groups = groups(store, index);
        if !groups.is_empty() {
            observe(Event::Item(named))?;
        }
        for (recipes, reference) in groups {
            let (mut here, most) = (0, cost(index, recipes.len(), reference));
            let mut progress = |tokens: usize| {
                here += tokens as u64;
                observe(Event::Progress { done: done + here.min(most), total })
            };
            let run_settings = RunSettings { tail: plan.tail(index), recipes_alone: !reference, ..settings.run() };
            let mut run = Run { subject, settings: run_settings, progress: &mut progress };
            let records = measure_item(&mut run, named, &recipes)?;
            done += most;
            let own = [&settings.reference].into_iter().filter(|_| reference).chain(&recipes);
            for (record, candidate) in records.iter().zip(own) {
                let key = plan.key(index, &**candidate);
                if !store.has(&key) {
                    let (item_key, recipe_key) = (plan.item_key(index).to_owned(), candidate.digest());
                    store.add(RecordLine { key, item_key, recipe_key, record: record.clone() })?;
                    added += 1;
                    observe(Event::Record(record))?;
                }
            }
            observe(Event::Progress { done, total })?;
        }
    }
    Ok(added)
}
