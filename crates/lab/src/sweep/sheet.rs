//! From a folder of results to what a report is made of.

use super::Store;
use super::store::RecordLine;
use crate::collect::{Collection, cells};
use crate::quality::Record;
use crate::report::{RecipeInfo, Sheet};
use std::collections::HashSet;

/// Everything that the runs in a folder have found, as far as it belongs to what they measure now: records of items that have
/// changed since are left out.
pub fn sheet(store: &Store) -> Sheet {
    let (recipes, items, planned) = store.union();
    let digests: HashSet<(&str, &str)> = recipes.iter().map(|line| (&line.name[..], &line.digest[..])).collect();
    let current = |line: &RecordLine| {
        items.get(&line.record.item).is_some_and(|now| *now == line.item_key)
            && digests.contains(&(&line.record.recipe[..], &line.recipe_key[..]))
    };
    let records: Vec<(String, Record)> = store
        .records
        .iter()
        .filter(|(_, line)| current(line))
        .map(|(run, line)| (run.clone(), line.record.clone()))
        .collect();
    let names: Vec<String> = recipes.iter().map(|line| line.name.clone()).collect();
    let keeps: HashSet<String> = recipes.iter().filter(|line| line.keeps).map(|line| line.name.clone()).collect();
    let cells = cells(&Collection { records: &records, recipes: &names, keeps: &keeps, planned: &planned });
    let used: HashSet<&String> = cells.iter().flat_map(|cell| &cell.runs).collect();
    let model = store.runs.last().and_then(|(_, run)| run.model["name"].as_str()).unwrap_or("a model");
    Sheet {
        title: format!("KV cache recipes on {model}"),
        runs: store.runs.iter().filter(|(id, _)| used.contains(id)).cloned().collect(),
        reference: names.first().cloned().unwrap_or_default(),
        recipes: recipes
            .iter()
            .map(|line| RecipeInfo {
                name: line.name.clone(),
                paper: line.paper.clone(),
                line: line.summary.clone(),
                family: line.family.clone(),
                needs: line.needs.clone(),
            })
            .collect(),
        cells,
    }
}
