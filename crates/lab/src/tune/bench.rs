//! Settings measured on the model.

use super::aim::{Bench, Seen};
use super::groups::Sensitivity;
use super::space::{KEYS, Setting, Units, VALUES, even};
use crate::quality::{Item, ItemName, Named, Record, Run, RunSettings, measure_item};
use crate::{Candidate, LabError, Subject, candidate};
use cachalot_kv::profile::Profile;
use std::collections::HashMap;
use std::sync::Arc;

/// A model with windows to measure on.
pub struct ModelBench<'a> {
    /// What is experimented on.
    pub subject: &'a Subject<'a>,
    /// How.
    pub settings: RunSettings,
    /// Windows, half of each context.
    pub windows: Vec<Vec<u32>>,
    /// What has widths of its own.
    pub units: Units,
    /// How tokens are chosen where not all stay.
    pub method: String,
    /// Profiles, for methods that need one.
    pub profiles: Vec<Arc<Profile>>,
    /// Tokens of the sequence whose bytes count.
    pub tokens: usize,
    /// Tokens computed so far.
    pub spent: u64,
    /// What was made of settings.
    pub made: HashMap<Setting, Arc<dyn Candidate>>,
}

impl ModelBench<'_> {
    /// The cache of a setting.
    ///
    /// # Errors
    /// Where it is impossible on this model.
    pub fn candidate(&mut self, setting: &Setting) -> Result<Arc<dyn Candidate>, LabError> {
        if let Some(known) = self.made.get(setting) {
            return Ok(known.clone());
        }
        let text = setting.recipe(&self.units, &self.method, &setting.name(), "under trial", &[]);
        let made = candidate::from_toml(&text, "a setting", &self.profiles)?;
        self.made.insert(setting.clone(), made.clone());
        Ok(made)
    }

    /// All on one item; tokens of all are counted.
    ///
    /// # Errors
    /// Where the reference fails.
    pub fn measure(&mut self, named: &Named, recipes: &[Arc<dyn Candidate>]) -> Result<Vec<Record>, LabError> {
        let mut spent = 0;
        let mut count = |tokens: usize| {
            spent += tokens as u64;
            Ok(())
        };
        let mut run = Run { subject: self.subject, settings: self.settings.clone(), progress: &mut count };
        let records = measure_item(&mut run, named, recipes);
        self.spent += spent;
        records
    }

    pub(super) fn window(&self, index: usize) -> Named {
        let tokens = self.windows[index].clone();
        let name = ItemName { task: "perplexity".into(), tokens: tokens.len(), known: None, index };
        let context = tokens.len() / 2;
        Named { name, item: Item::Window { tokens, context } }
    }

    /// Errors of every unit at every rung, keys and values by themselves, from one reading each.
    ///
    /// # Errors
    /// Where the reference fails, or a rung does not go together with the model.
    pub fn sensitivity(&mut self) -> Result<Sensitivity, LabError> {
        let alone = |side: &str, stages: &[&str]| {
            let list = stages.iter().map(|stage| format!("{stage:?}")).collect::<Vec<_>>().join(", ");
            let text = format!("name = \"rung\"\n[encode]\n{side} = [{list}]");
            candidate::from_toml(&text, "a rung", &[])
        };
        let keys = KEYS.iter().map(|stages| alone("k", stages));
        let recipes = keys.chain(VALUES.iter().map(|stages| alone("v", stages))).collect::<Result<Vec<_>, _>>()?;
        let tokens = self.windows[0].clone();
        let name = ItemName { task: "attention".into(), tokens: tokens.len(), known: None, index: 0 };
        // Everything is looked at, but where it has been encoded.
        let context = tokens.len() / 2;
        let records = self.measure(&Named { name, item: Item::Attention { tokens, context } }, &recipes)?;
        let mut errors: Vec<Vec<f64>> = Vec::new();
        for record in &records[1..] {
            if let Some(reason) = &record.failure {
                return Err(LabError::Settings(format!("a rung does not go together with this model: {reason}")));
            }
            let square = |heads: &[f64]| heads.iter().map(|e| e * e).sum::<f64>() / heads.len().max(1) as f64;
            let of = |(layer, head): (usize, Option<usize>)| {
                let all = &record.heads[layer];
                // Query heads that read the KV head.
                let group = all.len() / self.subject.layers[layer].kv_heads.max(1);
                square(head.map_or(&all[..], |head| &all[head * group..(head + 1) * group]))
            };
            errors.push(self.units.iter().map(of).collect());
        }
        let count = self.units.count();
        let by_unit = |errors: &[Vec<f64>]| -> Vec<Vec<f64>> {
            (0..count).map(|unit| errors.iter().map(|rung| rung[unit]).collect()).collect()
        };
        let (keys, values) = errors.split_at(KEYS.len());
        let bits = |setting: &Setting, bench: &mut Self| -> Result<f64, LabError> {
            let cache = bench.candidate(setting)?.cache(bench.subject, 0)?;
            let each: usize = bench.subject.layers.iter().map(|layer| 2 * layer.kv_heads * layer.head_dim).sum();
            Ok(8.0 * cache.bytes_per_token() / each.max(1) as f64)
        };
        // Bits of one side from settings that differ in it alone; the other side has its finest.
        let finest = KEYS.len() - 1;
        let all = |pair| Setting::uniform(count, pair, super::space::BUDGETS.len() - 1);
        let both = bits(&all(even(finest)), self)?;
        let (mut key_bits, mut value_bits) = (Vec::new(), Vec::new());
        for rung in 0..KEYS.len() {
            let pair = super::space::Pair { keys: rung, values: finest };
            key_bits.push(2.0 * bits(&all(pair), self)? - both);
            let pair = super::space::Pair { keys: finest, values: rung };
            value_bits.push(2.0 * bits(&all(pair), self)? - both);
        }
        Ok(Sensitivity { keys: by_unit(keys), values: by_unit(values), key_bits, value_bits })
    }
}

impl Bench for ModelBench<'_> {
    fn bytes(&mut self, setting: &Setting) -> Result<u64, LabError> {
        let cache = self.candidate(setting)?.cache(self.subject, 0)?;
        Ok(cache.bytes_for_tokens(self.tokens))
    }

    fn divergence(&mut self, settings: &[Setting], limit: f64) -> Result<Vec<Seen>, LabError> {
        let recipes = settings.iter().map(|setting| self.candidate(setting)).collect::<Result<Vec<_>, _>>()?;
        let all: f64 = self.windows.iter().map(|window| (window.len() - window.len() / 2 - 1) as f64).sum();
        let mut sums = vec![0.0; recipes.len()];
        let mut seen = vec![0; recipes.len()];
        for index in 0..self.windows.len() {
            // Divergence is never negative: a sum that is too large already stays so.
            let open: Vec<usize> = (0..recipes.len()).filter(|&i| sums[i] <= limit * all).collect();
            if open.is_empty() {
                break;
            }
            let some: Vec<Arc<dyn Candidate>> = open.iter().map(|&i| recipes[i].clone()).collect();
            let records = self.measure(&self.window(index), &some)?;
            for (&i, record) in open.iter().zip(&records[1..]) {
                seen[i] += 1;
                match &record.window {
                    Some(window) => sums[i] += window.blocks.iter().map(|block| block[1]).sum::<f64>(),
                    None => sums[i] = f64::INFINITY,
                }
            }
        }
        let windows = self.windows.len();
        Ok(sums.into_iter().zip(seen).map(|(sum, seen)| Seen { kl: sum / all, whole: seen == windows }).collect())
    }

    fn spent(&self) -> u64 {
        self.spent
    }
}
