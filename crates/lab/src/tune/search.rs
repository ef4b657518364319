//! The search itself, over anything that can be measured: along the ladder of what units' own errors say, then by small changes.

use super::aim::{Aim, Bench, Tried};
use super::groups::{Group, Sensitivity, ladder};
use super::space::{BUDGETS, Setting};
use super::surrogate::Surrogate;
use crate::LabError;
use crate::statistics::Random;
use std::collections::HashMap;

/// Settings that are measured beside one another.
const TOGETHER: usize = 4;
/// Small changes among which the most hopeful are chosen.
const OFFSPRING: usize = 48;
/// Draws of small changes among which none is new before the search ends.
const IDLE: usize = 8;

/// How small changes are chosen, of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Those that the units' own errors speak for, summed as they are (EvoPress's search with KVTuner's errors).
    #[default]
    Errors,
    /// Those from which most is to be expected, by what was measured so far: weights of the groups' errors with their
    /// uncertainty, by Bayes' rule (as KVServe's profiling does).
    Expected,
}

/// A search under way.
pub struct Search<'a> {
    aim: Aim,
    bench: &'a mut dyn Bench,
    groups: &'a [Group],
    units: usize,
    tried: Vec<Tried>,
    known: HashMap<Setting, usize>,
    /// Most tokens.
    limit: u64,
    /// Told after each measurement how many tokens are spent.
    progress: &'a mut dyn FnMut(u64) -> Result<(), LabError>,
}

impl<'a> Search<'a> {
    /// One that may compute about `limit` tokens.
    pub fn new(
        aim: Aim,
        bench: &'a mut dyn Bench,
        groups: &'a [Group],
        limit: u64,
        progress: &'a mut dyn FnMut(u64) -> Result<(), LabError>,
    ) -> Search<'a> {
        let units = groups.iter().map(|group| group.units.len()).sum();
        Search { aim, bench, groups, units, tried: Vec::new(), known: HashMap::new(), limit, progress }
    }

    /// Everything that was tried.
    pub fn tried(self) -> Vec<Tried> {
        self.tried
    }

    fn over(&self) -> bool {
        self.bench.spent() >= self.limit
    }

    fn setting(&self, at: &[usize], budget: usize) -> Setting {
        let mut setting = Setting::uniform(self.units, super::space::even(0), budget);
        for (group, &at) in self.groups.iter().zip(at) {
            group.units.iter().for_each(|&unit| setting.pairs[unit] = group.pairs[at]);
        }
        setting
    }

    /// Measures those that are not known and could be any good. Settings that take too many bytes are not.
    fn measure(&mut self, settings: Vec<Setting>) -> Result<(), LabError> {
        let mut new: Vec<(Setting, u64)> = Vec::new();
        for setting in settings {
            if self.known.contains_key(&setting) || new.iter().any(|(known, _)| *known == setting) {
                continue;
            }
            let bytes = self.bench.bytes(&setting)?;
            if matches!(self.aim, Aim::Best { bytes: most } if bytes > most) {
                continue;
            }
            new.push((setting, bytes));
        }
        for part in new.chunks(TOGETHER) {
            if self.over() {
                return Ok(());
            }
            let limit = match self.aim {
                Aim::Smallest { kl } => kl,
                Aim::Best { .. } => self.aim.best(&self.tried).map_or(f64::INFINITY, |best| best.kl),
            };
            let settings: Vec<Setting> = part.iter().map(|(setting, _)| setting.clone()).collect();
            let found = self.bench.divergence(&settings, limit)?;
            let spent = self.bench.spent();
            for ((setting, bytes), seen) in part.iter().cloned().zip(found) {
                self.known.insert(setting.clone(), self.tried.len());
                self.tried.push(Tried { setting, bytes, kl: seen.kl, whole: seen.whole, spent });
            }
            (self.progress)(spent)?;
        }
        Ok(())
    }

    fn meets(&mut self, setting: &Setting) -> Result<bool, LabError> {
        self.measure(vec![setting.clone()])?;
        Ok(self.known.get(setting).is_some_and(|&at| self.aim.met(&self.tried[at])))
    }

    /// Along the ladder of what units' own errors say, for every share of the context that may stay; then small changes of the
    /// best, as EvoPress (Sieberling et al., 2024) makes them: a bit from one group for a bit to another.
    ///
    /// # Errors
    /// What the bench says.
    pub fn run(&mut self, sensitivity: &Sensitivity, choice: Choice, random: &mut Random) -> Result<(), LabError> {
        let ladder = ladder(sensitivity, self.groups);
        for budget in (0..BUDGETS.len()).rev() {
            if self.over() {
                break;
            }
            let any = match self.aim {
                Aim::Smallest { .. } => self.down(&ladder, budget)?,
                Aim::Best { bytes } => self.within(&ladder, budget, bytes)?,
            };
            // What is too much with the finest widths is too much with coarser ones and with fewer tokens.
            if !any && matches!(self.aim, Aim::Smallest { .. }) {
                break;
            }
        }
        let mut idle = 0;
        while !self.over() && idle < IDLE {
            let Some(best) = self.aim.best(&self.tried).cloned() else { break };
            let before = self.known.len();
            let hopeful = self.hopeful(&best, sensitivity, choice, random)?;
            self.measure(hopeful)?;
            idle = if self.known.len() == before { idle + 1 } else { 0 };
        }
        Ok(())
    }

    /// The most hopeful of many small changes of the best.
    fn hopeful(
        &mut self,
        best: &Tried,
        sensitivity: &Sensitivity,
        choice: Choice,
        random: &mut Random,
    ) -> Result<Vec<Setting>, LabError> {
        let mut worth: Vec<(f64, Setting)> = Vec::new();
        let surrogate = match choice {
            Choice::Errors => None,
            Choice::Expected => Surrogate::of(&self.tried, self.groups, sensitivity),
        };
        let count = if surrogate.is_some() { OFFSPRING } else { 4 * TOGETHER };
        let mut offspring: Vec<Setting> = (0..count).map(|_| self.changed(&best.setting, random)).collect();
        if let Some(surrogate) = &surrogate {
            offspring.extend(self.relearned(surrogate, best));
        }
        for setting in offspring {
            if self.known.contains_key(&setting) || worth.iter().any(|(_, known)| *known == setting) {
                continue;
            }
            let bytes = self.bench.bytes(&setting)?;
            let possible = match self.aim {
                Aim::Smallest { .. } => bytes <= best.bytes,
                Aim::Best { bytes: most } => bytes <= most,
            };
            if !possible {
                continue;
            }
            let value = match &surrogate {
                None => -predicted(sensitivity, &setting),
                Some(surrogate) => surrogate.gain(self.aim, best, &setting, bytes),
            };
            worth.push((value, setting));
        }
        worth.sort_by(|a, b| b.0.total_cmp(&a.0));
        worth.truncate(TOGETHER);
        Ok(worth.into_iter().map(|(_, setting)| setting).collect())
    }

    /// Steps of the ladder as it is with learned weights, for about the same share of tokens, that may come to as much as the
    /// best.
    fn relearned(&self, surrogate: &Surrogate<'_>, best: &Tried) -> Vec<Setting> {
        let ladder = ladder(&surrogate.weighted(), self.groups);
        let budgets = best.setting.budget.saturating_sub(1)..(best.setting.budget + 2).min(BUDGETS.len());
        let settings = budgets.flat_map(|budget| ladder.iter().map(move |at| self.setting(at, budget)));
        let wanted = match self.aim {
            Aim::Smallest { kl } => kl,
            Aim::Best { .. } => best.kl,
        };
        settings.filter(|setting| (0.5..1.2).contains(&(surrogate.predict(setting).0 / wanted))).collect()
    }

    /// The coarsest step of the ladder that is good enough, by halving. Whether any is.
    fn down(&mut self, ladder: &[Vec<usize>], budget: usize) -> Result<bool, LabError> {
        let Some(finest) = ladder.last() else { return Ok(false) };
        let finest = self.setting(finest, budget);
        if !self.meets(&finest)? {
            return Ok(false);
        }
        let (mut fails, mut meets) = (0, ladder.len() - 1);
        // The coarsest may do as well; it stands one below the range.
        if self.meets(&self.setting(&ladder[0], budget))? {
            return Ok(true);
        }
        while meets - fails > 1 && !self.over() {
            let middle = (fails + meets) / 2;
            match self.meets(&self.setting(&ladder[middle], budget))? {
                true => meets = middle,
                false => fails = middle,
            }
        }
        Ok(true)
    }

    /// The finest step of the ladder that has room.
    fn within(&mut self, ladder: &[Vec<usize>], budget: usize, bytes: u64) -> Result<bool, LabError> {
        for at in ladder.iter().rev() {
            let setting = self.setting(at, budget);
            if self.bench.bytes(&setting)? <= bytes {
                self.measure(vec![setting])?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A few groups moved by a rung, now and then the share of tokens.
    fn changed(&self, setting: &Setting, random: &mut Random) -> Setting {
        let mut changed = setting.clone();
        for step in 0..1 + random.below(3) {
            let group = &self.groups[random.below(self.groups.len())];
            let now = changed.pairs[group.units[0]];
            let at = group.pairs.iter().position(|pair| *pair == now).unwrap_or(0);
            // Down first, so that there is something to spend.
            let next = if step % 2 == 0 { at.saturating_sub(1) } else { (at + 1).min(group.pairs.len() - 1) };
            group.units.iter().for_each(|&unit| changed.pairs[unit] = group.pairs[next]);
        }
        if random.below(8) == 0 {
            let up = random.below(2) == 0;
            changed.budget =
                if up { (changed.budget + 1).min(BUDGETS.len() - 1) } else { changed.budget.saturating_sub(1) };
        }
        changed
    }

    /// The plain alternative at the same cost: settings drawn evenly from the same space.
    ///
    /// # Errors
    /// What the bench says.
    pub fn random(&mut self, random: &mut Random) -> Result<(), LabError> {
        let mut idle = 0;
        while !self.over() && idle < 1000 {
            let before = self.known.len();
            let draw = |random: &mut Random| {
                let at: Vec<usize> = self.groups.iter().map(|group| random.below(group.pairs.len())).collect();
                self.setting(&at, random.below(BUDGETS.len()))
            };
            let settings = (0..TOGETHER).map(|_| draw(random)).collect();
            self.measure(settings)?;
            idle = if self.known.len() == before { idle + 1 } else { 0 };
        }
        Ok(())
    }
}

/// What units' own errors say of a setting.
fn predicted(sensitivity: &Sensitivity, setting: &Setting) -> f64 {
    let units = setting.pairs.iter().enumerate().map(|(unit, &pair)| sensitivity.error(unit, pair)).sum::<f64>();
    units / BUDGETS[setting.budget]
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
