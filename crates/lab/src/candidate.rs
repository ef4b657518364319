//! Names to caches: the one place that knows how recipes are found and what a cache is built from.

use crate::{LabError, Subject};
use cachalot_kv::plan::CachePlan;
use cachalot_kv::profile::Profile;
use cachalot_kv::recipe::expression::Files;
use cachalot_kv::recipe::{Needs, Recipe, Registry};
use cachalot_kv::{CacheConfig, KvCache};
use cachalot_model::passes;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A setting of the key-value cache that can be measured.
pub trait Candidate: Send + Sync {
    /// As users name it, and as results are filed.
    fn name(&self) -> &str;

    /// Whether it keeps less than everything of a context.
    fn keeps(&self) -> bool {
        false
    }

    /// The recipe behind it, where there is one.
    fn recipe(&self) -> Option<&Recipe> {
        None
    }

    /// What its results depend on besides model and program: everything the name stands for.
    fn digest(&self) -> String {
        blake3::hash(self.name().as_bytes()).to_hex().to_string()
    }

    /// A cache of at most `budget_bytes` for the subject's model, whose sequences are written as the setting wants.
    ///
    /// # Errors
    /// Where the setting and the model do not go together.
    fn cache(&self, subject: &Subject<'_>, budget_bytes: u64) -> Result<KvCache, LabError>;
}

/// A recipe, with a profile where there is one for it.
struct FromRecipe {
    recipe: Recipe,
    profile: Option<Arc<Profile>>,
    /// The plan for the last model; making one may take a while.
    plan: Mutex<Option<Arc<CachePlan>>>,
    /// Profiles are long.
    digest: OnceLock<String>,
}

impl Candidate for FromRecipe {
    fn name(&self) -> &str {
        &self.recipe.name
    }

    fn keeps(&self) -> bool {
        self.recipe.keep.is_some()
    }

    fn recipe(&self) -> Option<&Recipe> {
        Some(&self.recipe)
    }

    fn digest(&self) -> String {
        let digest = self.digest.get_or_init(|| {
            let profile = self.profile.as_ref().map(|profile| profile.checksum());
            blake3::hash(format!("{:?} {profile:?}", self.recipe).as_bytes()).to_hex().to_string()
        });
        digest.clone()
    }

    fn cache(&self, subject: &Subject<'_>, budget_bytes: u64) -> Result<KvCache, LabError> {
        let plan = self.plan(subject)?;
        let config = CacheConfig::with_plan(subject.layers.clone(), budget_bytes, plan);
        let words = passes::words(subject.tokenizer)?;
        Ok(KvCache::new(config, subject.team.clone(), subject.isa)?.with_words(words))
    }
}

impl FromRecipe {
    fn plan(&self, subject: &Subject<'_>) -> Result<Arc<CachePlan>, LabError> {
        let mut last = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = last.as_ref().filter(|plan| plan.check(&subject.layers).is_ok()) {
            return Ok(plan.clone());
        }
        if let Some(profile) = &self.profile {
            profile.check_model(&subject.digest).map_err(cachalot_kv::recipe::RecipeError::from)?;
        }
        let plan = Arc::new(self.recipe.plan(&subject.layers, self.profile.as_deref())?);
        *last = Some(plan.clone());
        Ok(plan)
    }
}

/// The candidate of this name: a recipe of the registry, an inline expression or a file, with the profile among
/// `profiles` that was made for it.
///
/// # Errors
/// [`LabError::Recipe`]: unknown, with the nearest name, or not to be read.
pub fn resolve(name: &str, profiles: &[Arc<Profile>]) -> Result<Arc<dyn Candidate>, LabError> {
    Ok(candidate(Recipe::parse(name, Files::Allowed)?, profiles))
}

/// The candidate of a recipe file's text; `path` is for messages.
///
/// # Errors
/// [`LabError::Recipe`] with line and column.
pub fn from_toml(text: &str, path: &str, profiles: &[Arc<Profile>]) -> Result<Arc<dyn Candidate>, LabError> {
    Ok(candidate(Recipe::from_toml(text, path)?, profiles))
}

/// Candidates from a list separated by commas, each once; `all` is everything in the registry that can run at once or has
/// a profile. Commas within brackets separate nothing, nor does the one of `k=q8_0,v=q4_0`.
///
/// # Errors
/// As [`resolve`]; also for an empty list.
pub fn resolve_list(list: &str, profiles: &[Arc<Profile>]) -> Result<Vec<Arc<dyn Candidate>>, LabError> {
    let mut candidates: Vec<Arc<dyn Candidate>> = Vec::new();
    let mut push = |one: Arc<dyn Candidate>| {
        if candidates.iter().all(|known| known.name() != one.name()) {
            candidates.push(one);
        }
    };
    for name in split(list) {
        if name == "all" {
            let runs = |r: &&Recipe| {
                r.needs == Needs::Nothing
                    || r.profile_among(profiles).is_some_and(|profile| r.check_profile(profile).is_ok())
            };
            Registry::all().iter().filter(runs).for_each(|recipe| push(candidate(recipe.clone(), profiles)));
        } else {
            push(resolve(name, profiles)?);
        }
    }
    if candidates.is_empty() {
        return Err(LabError::Settings("no recipe is named; give for example --recipes f16,bf16".into()));
    }
    Ok(candidates)
}

fn candidate(recipe: Recipe, profiles: &[Arc<Profile>]) -> Arc<dyn Candidate> {
    let profile = recipe.profile_among(profiles).cloned();
    Arc::new(FromRecipe { recipe, profile, plan: Mutex::default(), digest: OnceLock::new() })
}

fn split(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 && !list[at + 1..].trim_start().starts_with("v=") => {
                parts.push(list[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(list[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_split_where_recipes_end() {
        assert_eq!(split("f16, bf16"), ["f16", "bf16"]);
        assert_eq!(split("k=f16,v=bf16,f32"), ["k=f16,v=bf16", "f32"]);
        assert_eq!(
            split("snap(budget=0.25, window=32) + int4(a=[1,2]), f16"),
            ["snap(budget=0.25, window=32) + int4(a=[1,2])", "f16"]
        );
        assert_eq!(split(" , ,"), [""; 0]);
    }

    #[test]
    fn a_recipe_is_measured_once_and_unknown_ones_are_named() {
        let names = |list| resolve_list(list, &[]).unwrap().iter().map(|r| r.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names("f16,bf16,f16"), ["f16", "bf16"]);
        let all = names("bf16,all");
        assert_eq!(all[0], "bf16");
        assert!(all.iter().any(|name| name == "f32") && all.iter().filter(|name| *name == "bf16").count() == 1);
        let error = resolve_list("f16,bf17", &[]).err().unwrap().to_string();
        assert!(error.contains("`bf17`, did you mean `bf16`?"), "{error}");
        assert!(resolve_list(",", &[]).is_err());
    }
}
