//! Recipes that requests name: planned once, and kept while they are in use.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use cachalot_kv::recipe::expression::Files;
use cachalot_kv::{CachePlan, LayerGeometry, Profile, Recipe, RecipeError, Registry};

/// Plans that are remembered; a plan may hold megabytes of codebooks.
const KEPT: usize = 16;

/// Plans of one model by the expression that asked for them.
pub struct Recipes {
    layers: Vec<LayerGeometry>,
    profiles: Vec<Arc<Profile>>,
    /// The server's own.
    default: Arc<CachePlan>,
    /// The one asked for last comes last.
    plans: Mutex<VecDeque<(String, Arc<CachePlan>)>>,
}

impl Recipes {
    /// For a model with these layers and profiles of it. `default` is what requests get that name nothing.
    pub fn new(layers: Vec<LayerGeometry>, profiles: Vec<Arc<Profile>>, default: Arc<CachePlan>) -> Recipes {
        Recipes { layers, profiles, default, plans: Mutex::default() }
    }

    /// The plan that a request's expression stands for. Expressions come from clients: they cannot name files.
    ///
    /// Planning may build tables; asynchronous callers may want to do that where blocking is allowed.
    ///
    /// # Errors
    /// What is wrong with the expression, or why it is impossible on this model.
    pub fn plan(&self, expression: Option<&str>) -> Result<Arc<CachePlan>, RecipeError> {
        let Some(expression) = expression.map(str::trim).filter(|&name| name != self.default.name) else {
            return Ok(self.default.clone());
        };
        if let Some(plan) = self.remembered(expression) {
            return Ok(plan);
        }
        let recipe = Recipe::parse(expression, Files::Refused)?;
        let plan = Arc::new(recipe.plan(&self.layers, recipe.profile_among(&self.profiles).map(|profile| &**profile))?);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.push_back((expression.to_owned(), plan.clone()));
        if plans.len() > KEPT {
            plans.pop_front();
        }
        Ok(plan)
    }

    /// A recipe's name for metrics. What clients write has no end, and a series each would fill the server: the engine's own
    /// recipe and those of the registry have their names, all else is `other`.
    pub fn label(&self, expression: Option<&str>) -> Arc<str> {
        match expression.map(str::trim).filter(|&name| name != self.default.name) {
            None => self.default.name.as_str().into(),
            Some(name) => Registry::find(name).map_or("other", |recipe| &recipe.name).into(),
        }
    }

    fn remembered(&self, expression: &str) -> Option<Arc<CachePlan>> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let found = plans.iter().position(|(name, _)| name == expression)?;
        let entry = plans.remove(found)?;
        let plan = entry.1.clone();
        plans.push_back(entry);
        Some(plan)
    }

    /// Layers of the model.
    pub fn layers(&self) -> &[LayerGeometry] {
        &self.layers
    }

    /// The model's profiles.
    pub fn profiles(&self) -> &[Arc<Profile>] {
        &self.profiles
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cachalot_kv::KvFormat;

    fn recipes() -> Recipes {
        let layer = LayerGeometry {
            heads: 2,
            kv_heads: 1,
            head_dim: 64,
            scale: 0.125,
            softcap: None,
            window: None,
            rope: None,
            output: None,
        };
        let default = Arc::new(CachePlan::exact(KvFormat::default(), [1].into_iter()));
        Recipes::new(vec![layer], Vec::new(), default)
    }

    #[test]
    fn plans_are_made_once_and_few_are_kept() {
        let recipes = recipes();
        let default = recipes.plan(None).unwrap();
        assert!(Arc::ptr_eq(&default, &recipes.plan(Some(" f16 ")).unwrap()));
        let first = recipes.plan(Some("bf16(window=0)")).unwrap();
        for window in 1..KEPT {
            recipes.plan(Some(&format!("bf16(window={window})"))).unwrap();
        }
        // Asked for again, it is the youngest.
        assert!(Arc::ptr_eq(&first, &recipes.plan(Some("bf16(window=0)")).unwrap()));
        for window in 100..100 + KEPT {
            recipes.plan(Some(&format!("bf16(window={window})"))).unwrap();
        }
        assert_eq!(recipes.plans.lock().unwrap().len(), KEPT);
        assert!(!Arc::ptr_eq(&first, &recipes.plan(Some("bf16(window=0)")).unwrap()));
    }

    #[test]
    fn metrics_have_names_of_ours_only() {
        let recipes = recipes();
        for (asked, label) in [
            (None, "f16"),
            (Some(" f16 "), "f16"),
            (Some("kivi-2"), "kivi-2"),
            (Some("kivi-2(window=64)"), "other"),
            (Some("a name\"} 1\n"), "other"),
        ] {
            assert_eq!(&*recipes.label(asked), label);
        }
    }

    #[test]
    fn clients_name_recipes_and_not_files() {
        let error = recipes().plan(Some("f17")).unwrap_err().to_string();
        assert!(error.contains("did you mean `f16`"), "{error}");
        for path in ["/etc/passwd", "recipes/f16.toml", "Cargo.toml"] {
            assert!(matches!(recipes().plan(Some(path)), Err(RecipeError::Unknown { .. })), "{path}");
        }
    }
}
