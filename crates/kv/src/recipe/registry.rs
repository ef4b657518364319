//! The recipes this program comes with.

use super::{Recipe, RecipeError, expression, nearest, shorthand};
use std::sync::OnceLock;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// Name and text of every file in `recipes/`.
        const FILES: &[(&str, &str)] = &[$((
            concat!("recipes/", $name, ".toml"),
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/", $name, ".toml")),
        )),*];
    };
}

files!["f32", "f16", "bf16"];

/// All recipes by name.
pub struct Registry;

impl Registry {
    /// All of them: those of `recipes/`, then the shorthands `int2` to `int8`.
    pub fn all() -> &'static [Recipe] {
        static ALL: OnceLock<Vec<Recipe>> = OnceLock::new();
        ALL.get_or_init(|| {
            // That all of them parse is a test.
            let files = FILES.iter().filter_map(|(path, text)| Recipe::from_toml(text, path).ok());
            let none = expression::Arguments::default();
            let short = shorthand::NAMES.iter().filter_map(|name| shorthand::recipe(name, &none).ok().flatten());
            files.chain(short).collect()
        })
    }

    /// The recipe of this name.
    ///
    /// # Errors
    /// [`RecipeError::Unknown`], with the nearest name.
    pub fn find(name: &str) -> Result<&'static Recipe, RecipeError> {
        Registry::all().iter().find(|recipe| recipe.name == name).ok_or_else(|| {
            let nearest = nearest(name, Registry::all().iter().map(|recipe| recipe.name.as_str()));
            let name = super::text::shorten(name);
            RecipeError::Unknown { what: "recipe", name, nearest: nearest.map(str::to_owned) }
        })
    }

    /// Path and text of the files, for tests of all of them.
    pub fn files() -> &'static [(&'static str, &'static str)] {
        FILES
    }
}
