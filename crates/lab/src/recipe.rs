//! Names to caches: the one place that knows how recipes are found and what a cache is built from.

use crate::{LabError, Subject};
use cachalot_kv::{CacheConfig, KvCache, KvError, KvFormat, SequenceKv};
use std::sync::Arc;

/// A setting of the key-value cache that can be measured.
pub trait Recipe: Send + Sync {
    /// As users name it, and as results are filed.
    fn name(&self) -> &str;

    /// A cache of at most `budget_bytes` for the subject's model.
    ///
    /// # Errors
    /// Where the recipe and the model do not go together.
    fn cache(&self, subject: &Subject<'_>, budget_bytes: u64) -> Result<KvCache, KvError>;

    /// An empty sequence written as the recipe says.
    fn sequence(&self, cache: &KvCache) -> SequenceKv {
        cache.create()
    }
}

/// Everything in plain elements.
struct Plain {
    name: String,
    format: KvFormat,
}

impl Recipe for Plain {
    fn name(&self) -> &str {
        &self.name
    }

    fn cache(&self, subject: &Subject<'_>, budget_bytes: u64) -> Result<KvCache, KvError> {
        let config = CacheConfig::new(subject.layers.clone(), budget_bytes, self.format);
        KvCache::new(config, subject.team.clone(), subject.isa)
    }
}

/// The recipe of this name.
///
/// # Errors
/// [`LabError::Recipe`] with the names that are known.
pub fn resolve(name: &str) -> Result<Arc<dyn Recipe>, LabError> {
    let format: KvFormat = name.parse().map_err(LabError::Recipe)?;
    Ok(Arc::new(Plain { name: format.to_string(), format }))
}

/// Recipes from a list separated by commas, each once. Commas within brackets, and the one of `k=f16,v=bf16`, separate
/// nothing.
///
/// # Errors
/// As [`resolve`]; also for an empty list.
pub fn resolve_list(list: &str) -> Result<Vec<Arc<dyn Recipe>>, LabError> {
    let mut recipes: Vec<Arc<dyn Recipe>> = Vec::new();
    for name in split(list) {
        let recipe = resolve(name)?;
        if recipes.iter().all(|known| known.name() != recipe.name()) {
            recipes.push(recipe);
        }
    }
    if recipes.is_empty() {
        return Err(LabError::Settings("no recipe is named; give for example --recipes f16,bf16".into()));
    }
    Ok(recipes)
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
        let names = |list| resolve_list(list).unwrap().iter().map(|r| r.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names("f16,bf16,k=f16,v=f16"), ["f16", "bf16"]);
        let error = resolve_list("f16,fp3").err().unwrap().to_string();
        assert!(error.contains("fp3") && error.contains("bf16"), "{error}");
        assert!(resolve_list(",").is_err());
    }
}
