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

files![
    "f32",
    "f16",
    "bf16",
    "q8_0",
    "q5_1",
    "q5_0",
    "q4_1",
    "q4_0",
    "iq4_nl",
    "fp8-e4m3",
    "fp8-e5m2",
    "mxfp8",
    "mxfp4",
    "nvfp4",
    "hqq-2",
    "hqq-4",
    "hqq-8",
    "quanto-2",
    "quanto-4",
    "kivi-2",
    "kivi-4",
    "zipcache",
    "mikv",
    "kvquant-2",
    "kvquant-3",
    "kvquant-4",
    "gear-2",
    "gear-4",
    "kvtuner-3",
    "kvtuner-4",
    "saw-int4",
    "fireq",
    "vidkv",
    "bfp-ksort",
    "olive",
    "soft-prune-int4",
    "prq-int4",
    "quarot-kv-int4",
    "quarot-4",
    "rotatekv-2",
    "rotatekv-3",
    "rotatekv-4",
    "qjl",
    "turboquant-2",
    "turboquant-2.5",
    "turboquant-3",
    "turboquant-3.5",
    "turboquant-4",
    "turboquant-prod-2",
    "turboquant-prod-3",
    "turboquant-prod-4",
    "octopus-2",
    "octopus-3",
    "octopus-4",
    "polarquant",
    "polarquant-key",
    "million-2",
    "million-3",
    "million-4",
    "commvq-1",
    "commvq-2",
    "a2ats",
    "mustafar-50",
    "mustafar-70",
    "kvtc",
    "cachalot-2",
    "cachalot-3",
    "cachalot-4",
    "cachalot-quarter",
    "cachalot-tenth",
    "cachalot-tenth-fast",
    "streamingllm",
    "knorm",
    "keydiff",
    "tova",
    "kvzip",
    "fastkv",
    "snapkv",
    "pyramidkv",
    "adakv",
    "chunkkv",
    "h2o",
    "observedattention",
    "scissorhands",
    "keyformer",
    "treekv",
    "windowkv",
    "mpcache",
    "expectedattention",
    "rkv",
    "guikv",
    "audiokv",
    "kvcrush",
    "criticalkv",
    "criticaladakv",
    "duoattention",
    "razorattention",
    "headkv",
    "tangram",
    "uncomp",
    "prefixkv",
    "zipvl",
    "d2o",
    "ems",
    "elasticcache",
    "kvmerger",
    "chelsea",
];

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
