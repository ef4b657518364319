//! The folder of a sweep.

use super::{Plan, Skipped, SweepSettings};
use crate::quality::{ItemName, Record};
use crate::report::{Lines, Run};
use crate::{Candidate, LabError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The file of results.
const FILE: &str = "results.jsonl";

/// A recipe in words, as results say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeLine {
    /// As it was named.
    pub name: String,
    /// Where the method comes from.
    pub paper: String,
    /// What it does.
    pub summary: String,
    /// The verbs that it makes a choice for.
    pub family: String,
    /// What it cannot do without.
    pub needs: String,
    /// Whether it keeps less than everything of a context.
    pub keeps: bool,
    /// Of everything that the name stands for.
    pub digest: String,
}

impl RecipeLine {
    fn of(candidate: &dyn Candidate) -> RecipeLine {
        let recipe = candidate.recipe();
        RecipeLine {
            name: candidate.name().to_owned(),
            paper: recipe.map_or_else(String::new, |recipe| recipe.paper.clone()),
            summary: recipe.map_or_else(String::new, |recipe| recipe.summary.clone()),
            family: recipe.map_or("cache", |recipe| recipe.family()).to_owned(),
            needs: recipe.map_or_else(String::new, |recipe| recipe.needs.to_string()),
            keeps: candidate.keeps(),
            digest: candidate.digest(),
        }
    }
}

/// What a run meant to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlanLine {
    pub reference: String,
    pub recipes: Vec<RecipeLine>,
    pub items: Vec<ItemLine>,
    #[serde(default)]
    pub skipped: Vec<Skipped>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ItemLine {
    #[serde(flatten)]
    pub name: ItemName,
    /// Digest of its contents.
    pub item_key: String,
}

/// A record as it lies in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RecordLine {
    /// Of everything that the record depends on.
    pub key: String,
    pub item_key: String,
    pub recipe_key: String,
    #[serde(flatten)]
    pub record: Record,
}

/// The results in a folder, and where more are added.
pub struct Store {
    /// Where they are added; `None` where they are only read.
    lines: Option<Lines>,
    keys: HashSet<String>,
    pub(super) runs: Vec<(String, Run)>,
    pub(super) plans: Vec<PlanLine>,
    pub(super) records: Vec<(String, RecordLine)>,
    /// Lines that could not be read.
    broken: Vec<usize>,
}

impl Store {
    /// Opens a folder for a run, after whatever earlier runs left there. No other run can have it open.
    ///
    /// # Errors
    /// [`LabError::Busy`] where another run writes, [`LabError::Io`].
    pub fn open(folder: &Path, run: &Run) -> Result<Store, LabError> {
        let lines = Lines::open(folder, FILE, run)?;
        Ok(Store { lines: Some(lines), ..Store::read(folder)? })
    }

    /// What lies in a folder; another run may be adding to it.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn read(folder: &Path) -> Result<Store, LabError> {
        let path = folder.join(FILE);
        let text = std::fs::read(&path).map_err(|source| LabError::Io { what: "read", path, source })?;
        let mut store = Store {
            lines: None,
            keys: HashSet::new(),
            runs: Vec::new(),
            plans: Vec::new(),
            records: Vec::new(),
            broken: Vec::new(),
        };
        for (number, line) in text.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            if store.line(line).is_err() {
                store.broken.push(number + 1);
            }
        }
        Ok(store)
    }

    fn line(&mut self, line: &[u8]) -> Result<(), serde_json::Error> {
        let value: Value = serde_json::from_slice(line)?;
        let run = value["run"].as_str().unwrap_or_default().to_owned();
        match value["kind"].as_str() {
            Some("run") => self.runs.push((run, serde_json::from_value(value)?)),
            Some("plan") => self.plans.push(serde_json::from_value(value)?),
            Some("record") => {
                let line: RecordLine = serde_json::from_value(value)?;
                self.keys.insert(line.key.clone());
                self.records.push((run, line));
            }
            // Written by a later version.
            _ => {}
        }
        Ok(())
    }

    /// Numbers of lines that could not be read: what an interruption cut off, most likely.
    pub fn broken(&self) -> &[usize] {
        &self.broken
    }

    /// Records that are there.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Says what a run means to do.
    pub(super) fn begin(&mut self, plan: &Plan, settings: &SweepSettings) -> Result<(), LabError> {
        let all = [&settings.reference].into_iter().chain(&settings.recipes);
        let mut recipes: Vec<RecipeLine> = Vec::new();
        for line in all.map(|candidate| RecipeLine::of(&**candidate)) {
            if recipes.iter().all(|known| known.name != line.name) {
                recipes.push(line);
            }
        }
        let items = plan.items.iter().enumerate();
        let items =
            items.map(|(i, named)| ItemLine { name: named.name.clone(), item_key: plan.item_key(i).to_owned() });
        let line = PlanLine {
            reference: settings.reference.name().to_owned(),
            recipes,
            items: items.collect(),
            skipped: plan.skipped.clone(),
        };
        if let Some(lines) = &mut self.lines {
            lines.write("plan", &line)?;
        }
        self.plans.push(line);
        Ok(())
    }

    pub(super) fn add(&mut self, line: RecordLine) -> Result<(), LabError> {
        let mut run = String::new();
        if let Some(lines) = &mut self.lines {
            lines.write("record", &line)?;
            run = lines.run().to_owned();
        }
        self.keys.insert(line.key.clone());
        self.records.push((run, line));
        Ok(())
    }

    /// Recipes by name, the reference of the last run first; items by name with the digest they have now.
    pub(super) fn union(&self) -> (Vec<RecipeLine>, HashMap<ItemName, String>, Vec<ItemName>) {
        let (mut recipes, mut items, mut order) = (Vec::<RecipeLine>::new(), HashMap::new(), Vec::new());
        let reference = self.plans.last().map(|plan| plan.reference.clone()).unwrap_or_default();
        for plan in self.plans.iter().filter(|plan| plan.reference == reference) {
            for line in &plan.recipes {
                match recipes.iter_mut().find(|known| known.name == line.name) {
                    Some(known) => *known = line.clone(),
                    None => recipes.push(line.clone()),
                }
            }
            for item in &plan.items {
                if items.insert(item.name.clone(), item.item_key.clone()).is_none() {
                    order.push(item.name.clone());
                }
            }
        }
        (recipes, items, order)
    }
}
