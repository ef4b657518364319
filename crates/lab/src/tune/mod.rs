//! A quality budget in, a recipe out.
//!
//! [`space`]: what can be set, of layers or of single heads: units. [`bench`]: settings measured on the model. First every unit is
//! looked at by itself: the error of its attention at every width, all at once. [`groups`] leaves out pairs of widths that no
//! unit wants and puts units together that are alike. [`search`] walks along what these errors say, and then tries small
//! changes, those first of which [`surrogate`] expects most. What is found is held against text and questions that the search
//! has not seen; only what holds there is written.

mod aim;
mod bench;
mod groups;
mod search;
mod space;
mod surrogate;
mod verify;

pub use aim::{Aim, Bench, Seen, Tried};
pub use bench::ModelBench;
pub use groups::{Group, Sensitivity, groups, ladder};
pub use search::{Choice, Search};
pub use space::{BUDGETS, KEYS, Pair, Setting, Units, VALUES};
pub use verify::{Evidence, Goal, Held, TaskLoss};

use crate::quality::RunSettings;
use crate::statistics::Random;
use crate::{Candidate, LabError, Subject, Text};
use cachalot_kv::profile::Profile;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

/// Groups of units that are set alike.
const GROUPS: usize = 8;
/// Settings that are held against what the search has not seen, best first.
const FINALISTS: usize = 8;

/// What a search may use.
pub struct TuneSettings {
    /// The full-precision cache.
    pub reference: Arc<dyn Candidate>,
    /// What is wanted.
    pub goal: Goal,
    /// Tokens of windows and prompts.
    pub tokens: usize,
    /// Tokens of the sequence whose bytes count.
    pub context: usize,
    /// Windows that the search sees; as many others are held back.
    pub windows: usize,
    /// Questions of each kind.
    pub questions: usize,
    /// Tokens that the search may compute.
    pub spend: u64,
    /// Whether single heads have widths of their own, or whole layers.
    pub heads: bool,
    /// How small changes are chosen.
    pub choice: Choice,
    /// How tokens are chosen where not all stay.
    pub method: String,
    /// Profiles, for methods that need one.
    pub profiles: Vec<Arc<Profile>>,
    /// Tokens of a step.
    pub chunk: usize,
    /// Seed.
    pub seed: u64,
    /// Most bytes of all caches together.
    pub kv_budget_bytes: u64,
    /// Whether to search by chance as well, at the same cost.
    pub by_chance: bool,
}

/// What was found.
pub struct Found {
    /// The setting, as the text of a recipe file.
    pub recipe: String,
    /// What speaks for it.
    pub evidence: Evidence,
}

/// What happens during a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Every layer or head by itself.
    Sensitivity,
    /// The search: tokens spent, of so many.
    Search(u64, u64),
    /// By chance, likewise.
    Chance(u64, u64),
    /// A finalist is held against what the search has not seen.
    Verify(usize),
}

/// Searches, verifies, and writes the recipe down.
///
/// # Errors
/// [`LabError::Settings`] where nothing meets the goal: it says how close the closest came; and what measuring can say.
pub fn tune(
    subject: &Subject<'_>,
    text: &Text,
    settings: &TuneSettings,
    observe: &mut dyn FnMut(Stage) -> Result<(), LabError>,
) -> Result<Found, LabError> {
    check(subject, settings)?;
    let windows = text.windows(subject.tokenizer, 2 * settings.windows, settings.tokens)?;
    // Every other one is held back: both halves are spread over the whole text.
    let (mut seen, mut held) = (Vec::new(), Vec::new());
    for (i, window) in windows.into_iter().enumerate() {
        if i % 2 == 0 { seen.push(window) } else { held.push(window) }
    }
    let layers = &subject.layers;
    let units = match settings.heads {
        true => Units::heads(layers.iter().map(|layer| layer.kv_heads)),
        false => Units::layers(layers.len()),
    };
    let bench = |windows: Vec<Vec<u32>>| ModelBench {
        subject,
        settings: RunSettings {
            reference: settings.reference.clone(),
            chunk: settings.chunk,
            decode: 0,
            block: 64,
            tail: settings.windows * settings.tokens / 100 + 2,
            kv_budget_bytes: settings.kv_budget_bytes,
            recipes_alone: false,
        },
        windows,
        units: units.clone(),
        method: settings.method.clone(),
        profiles: settings.profiles.clone(),
        tokens: settings.context,
        spent: 0,
        made: HashMap::new(),
    };
    observe(Stage::Sensitivity)?;
    let mut own = bench(seen.clone());
    let sensitivity = own.sensitivity()?;
    let groups = groups(&sensitivity, GROUPS);
    let (aim, limit) = (settings.goal.aim, settings.spend);
    let mut progress = |spent| observe(Stage::Search(spent, limit));
    let mut search = Search::new(aim, &mut own, &groups, limit, &mut progress);
    search.run(&sensitivity, settings.choice, &mut Random::of_item(settings.seed, 0))?;
    let tried = search.tried();
    let spent = own.spent;
    let mut chance = None;
    if settings.by_chance {
        let mut other = bench(seen);
        let mut progress = |spent| observe(Stage::Chance(spent, limit));
        // The same tokens, what was spent on looking at layers included.
        let mut search = Search::new(aim, &mut other, &groups, spent, &mut progress);
        search.random(&mut Random::of_item(settings.seed, 1))?;
        chance = Some(search.tried());
    }
    let mut ranked = tried.clone();
    ranked.sort_by(|a, b| match (aim.prefers(a, b), aim.prefers(b, a)) {
        (true, _) => Ordering::Less,
        (_, true) => Ordering::Greater,
        _ => Ordering::Equal,
    });
    let finalists: Vec<&Tried> = ranked.iter().filter(|tried| aim.met(tried)).take(FINALISTS).collect();
    if finalists.is_empty() {
        let closest = ranked.first().map_or_else(String::new, |tried| {
            format!("; the closest came to a divergence of {:.4} in {} bytes", tried.kl, tried.bytes)
        });
        return Err(LabError::Settings(format!("nothing that was tried meets the goal{closest}")));
    }
    let mut judge = verify::Judge::new(text, settings, bench(held))?;
    let mut reasons = Vec::new();
    for (place, chosen) in finalists.into_iter().enumerate() {
        observe(Stage::Verify(place))?;
        let held = judge.hold(&chosen.setting)?;
        if let Some(reason) = settings.goal.missed(&held) {
            reasons.push(reason);
            continue;
        }
        let best_by_chance = chance.as_deref().and_then(|tried| aim.best(tried)).cloned();
        let chance_held = best_by_chance.as_ref().map(|best| judge.hold(&best.setting)).transpose()?;
        let evidence = Evidence {
            goal: settings.goal.words(settings.context),
            chosen: chosen.clone(),
            held,
            place,
            spent,
            tried,
            chance: best_by_chance.zip(chance_held),
            by_chance: chance.map(|tried| tried.len()),
        };
        let name = chosen.setting.name();
        let recipe =
            chosen.setting.recipe(&units, &settings.method, &name, &evidence.summary(), &evidence.notes(settings));
        return Ok(Found { recipe, evidence });
    }
    reasons.dedup();
    Err(LabError::Settings(format!(
        "what the search found does not hold on what it has not seen: {}; allow more, or give it more windows",
        reasons.join("; ")
    )))
}

fn check(subject: &Subject<'_>, settings: &TuneSettings) -> Result<(), LabError> {
    let fail = |reason: String| Err(LabError::Settings(reason));
    if settings.tokens < 4 || settings.tokens > subject.context() {
        let (tokens, context) = (settings.tokens, subject.context());
        return fail(format!("windows of {tokens} tokens; this model has room for 4 to {context}"));
    }
    if settings.windows == 0 || settings.chunk == 0 || settings.context == 0 {
        return fail("give at least one window, one token of a step and one of the sequence".into());
    }
    let number = match settings.goal.aim {
        Aim::Smallest { kl } => kl,
        Aim::Best { bytes } => bytes as f64,
    };
    if !(number > 0.0 && number.is_finite()) {
        return fail("a goal is a divergence or a number of bytes above zero".into());
    }
    Ok(())
}
