//! Recipes: a method of the literature (or one's own) as a choice for each verb, read from TOML or written inline.
//!
//! - [`file`]: the TOML form; errors say file, line and column.
//! - [`expression`]: the inline form, `kivi-2(window=64)`, `k=q8_0,v=q4_0`, `int4(rotate=hadamard)`.
//! - [`registry`]: the recipes this program comes with.
//! - [`plan`]: a recipe on a model becomes a [`crate::plan::CachePlan`].
//! - [`calibrate`]: how a profile is made.

pub mod calibrate;
pub mod card;
#[cfg(test)]
mod conformance;
pub mod error;
pub mod expression;
pub mod file;
pub mod measure;
mod nearest;
pub mod plan;
pub mod ranges;
pub mod registry;
mod search;
mod shorthand;
#[cfg(test)]
mod tests;
mod text;

pub use card::Card;
pub use error::RecipeError;
pub use measure::Measure;
pub use nearest::nearest;
pub use ranges::Ranges;
pub use registry::Registry;

use crate::KvFormat;
use crate::LayerGeometry;
use crate::allot::Budget;
use crate::encode::codec::Side;
use crate::encode::stage::{StageSpec, Tensors};
use crate::reduce::{Keep, When};
use std::collections::BTreeMap;
use std::fmt;

/// What a recipe cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Needs {
    /// Works on any model at once.
    #[default]
    Nothing,
    /// Needs a profile of the model, made by `cachalot calibrate`.
    Profile,
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Needs::Nothing => "nothing",
            Needs::Profile => "profile",
        })
    }
}

/// Where the widths of codes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Bits {
    /// From the stages as they are written.
    #[default]
    Written,
    /// From the profile's tensor `bits`, `[layers, 2]` or `[layers, heads, 2]` (keys, values): it replaces the argument
    /// `bits` of every stage that has one.
    Profile,
}

/// How one method keeps the cache.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// As users name it; parses back to this recipe (given the file, where it came from one).
    pub name: String,
    /// Where the method comes from.
    pub paper: String,
    /// One line.
    pub summary: String,
    /// What must be there before it works.
    pub needs: Needs,
    /// Where this implementation differs from the paper, and why.
    pub deviations: Vec<String>,
    /// The verb **encode**.
    pub encode: Encode,
    /// The verbs **score**, **allot** and **reduce**: what stays of a context; everything where `None`.
    pub keep: Option<KeepSpec>,
    pub(crate) places: Places,
}

impl Recipe {
    /// What kind of method it is, by the verbs that it makes a choice for.
    pub fn family(&self) -> &'static str {
        let encodes = [Side::Keys, Side::Values].into_iter().any(|side| self.encode.all_stages(side).next().is_some());
        match (self.keep.is_some(), encodes) {
            (false, false) => "exact",
            (false, true) => "encode",
            (true, false) => "keep",
            (true, true) => "keep and encode",
        }
    }
}

/// What stays of a context, as written.
#[derive(Clone, Debug, PartialEq)]
pub struct KeepSpec {
    /// A method of [`crate::score::registry`].
    pub method: StageSpec,
    /// How much.
    pub budget: Budget,
    /// When; as the method has it where `None`.
    pub when: Option<When>,
    /// Tokens between reductions after the context; [`Keep::EVERY`] where `None`.
    pub every: Option<usize>,
    /// What becomes of the others, a way of merging of [`crate::reduce::merge::registry`]; as the method has it where `None`.
    /// `none` drops them.
    pub merge: Option<StageSpec>,
}

impl KeepSpec {
    /// Most tokens between reductions.
    pub const MAX_EVERY: usize = 1 << 20;

    /// What calibration measures of heads for it, if anything.
    pub fn measures(&self) -> Option<Measure> {
        crate::score::registry::method(&self.method.name).and_then(|entry| entry.measures)
    }

    fn needs(&self) -> Needs {
        if self.measures().is_some() { Needs::Profile } else { Needs::Nothing }
    }

    /// What it does on a model with these layers.
    ///
    /// # Errors
    /// [`RecipeError::Argument`] for methods that are not known and arguments that are not possible.
    pub(crate) fn build(&self, layers: &[LayerGeometry], profile: Option<&dyn Tensors>) -> Result<Keep, RecipeError> {
        let table = profile.and_then(|profile| crate::allot::heads::Table::of(profile, layers));
        let method = crate::score::registry::build(&self.method, table.as_ref());
        let method = method.map_err(|e| RecipeError::Argument { term: self.method.to_string(), what: e.what })?;
        let merge = match &self.merge {
            None => method.merge(),
            Some(none) if none.name == "none" && none.args.is_empty() => None,
            Some(own) if own.name == "own" && own.args.is_empty() => {
                let what = || format!("`{}` has no way of merging of its own; name one", self.method.name);
                Some(
                    method
                        .merge()
                        .ok_or_else(|| RecipeError::Argument { term: self.method.to_string(), what: what() })?,
                )
            }
            Some(spec) => {
                let merge = crate::reduce::merge::registry::build(spec);
                Some(merge.map_err(|e| RecipeError::Argument { term: spec.to_string(), what: e.what })?)
            }
        };
        Ok(Keep {
            when: self.when.unwrap_or_else(|| method.when()),
            every: self.every.unwrap_or(Keep::EVERY),
            budget: self.budget,
            method,
            merge,
        })
    }
}

/// The verb **encode**: how what stays is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Encode {
    /// First tokens that stay exact, in whole pages.
    pub sinks: usize,
    /// Tokens behind a page before it is encoded.
    pub window: usize,
    /// Format of all that stays exact.
    pub exact: KvFormat,
    /// Stages of the keys; none where they stay exact.
    pub k: Vec<StageSpec>,
    /// Stages of the values; none where they stay exact.
    pub v: Vec<StageSpec>,
    /// Whether the encoder wants to know how much each token matters.
    pub importance: bool,
    /// Where the widths of codes come from.
    pub bits: Bits,
    /// What differs for some layers and heads; later rules win.
    pub rules: Vec<Rule>,
}

impl Default for Encode {
    fn default() -> Encode {
        Encode {
            sinks: 0,
            window: 0,
            exact: KvFormat::default(),
            k: Vec::new(),
            v: Vec::new(),
            importance: false,
            bits: Bits::Written,
            rules: Vec::new(),
        }
    }
}

/// What differs for some lanes.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Rule {
    /// Layers it is for; all where empty.
    pub layers: Ranges,
    /// KV heads it is for; all where empty.
    pub heads: Ranges,
    /// Stages of the keys instead of [`Encode::k`]; an empty list keeps them exact.
    pub k: Option<Vec<StageSpec>>,
    /// Stages of the values instead of [`Encode::v`]; an empty list keeps them exact.
    pub v: Option<Vec<StageSpec>>,
    /// Window instead of [`Encode::window`]; only for whole layers.
    pub window: Option<usize>,
}

impl Encode {
    /// Most tokens that may be kept as sinks.
    pub const MAX_SINKS: usize = 1024;
    /// Largest window: far more than any model's context.
    pub const MAX_WINDOW: usize = 1 << 24;

    /// What its stages and widths need, whatever a file says of itself.
    pub(crate) fn needs(&self) -> Needs {
        let mut stages = [Side::Keys, Side::Values].into_iter().flat_map(|side| self.all_stages(side));
        let stage = stages
            .any(|spec| crate::encode::registry::stage(&spec.name).is_some_and(|entry| entry.needs_profile(spec)));
        if stage || self.bits == Bits::Profile { Needs::Profile } else { Needs::Nothing }
    }

    /// Stages of a side where no rule says otherwise.
    pub fn side(&self, side: Side) -> &[StageSpec] {
        match side {
            Side::Keys => &self.k,
            Side::Values => &self.v,
        }
    }

    /// Stages of one lane.
    pub(crate) fn stages_of(&self, side: Side, layer: (usize, usize), head: (usize, usize)) -> &[StageSpec] {
        let rules = self.rules.iter().rev().filter(|rule| rule.covers(layer, head));
        rules.filter_map(|rule| rule.side(side)).next().unwrap_or(self.side(side))
    }

    /// All stages that may be used for a side, in rules too.
    pub fn all_stages(&self, side: Side) -> impl Iterator<Item = &StageSpec> {
        self.side(side).iter().chain(self.rules.iter().filter_map(move |rule| rule.side(side)).flatten())
    }

    /// Whether the profile sets widths of a side.
    pub(crate) fn chooses_bits(&self, side: Side) -> bool {
        self.bits == Bits::Profile && self.all_stages(side).any(|stage| stage.args.contains_key("bits"))
    }

    /// What a profile must have been made for to fit one side: the stages, their order, and where they apply. Windows
    /// and sinks do not enter, so they may differ.
    pub fn digest(&self, side: Side) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut field = |text: &str| {
            // Lengths keep the fields apart.
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        let list = |stages: &[StageSpec]| stages.iter().map(StageSpec::to_string).collect::<Vec<_>>().join("|");
        field(side.letter());
        field(if self.chooses_bits(side) { "bits from the profile" } else { "" });
        field(&list(self.side(side)));
        for rule in &self.rules {
            if let Some(stages) = rule.side(side) {
                field(&rule.layers.to_string());
                field(&rule.heads.to_string());
                field(&list(stages));
            }
        }
        hasher.finalize().to_hex().to_string()
    }
}

impl Rule {
    fn covers(&self, (layer, layers): (usize, usize), (head, heads): (usize, usize)) -> bool {
        self.layers.contains(layer, layers) && self.heads.contains(head, heads)
    }

    fn side(&self, side: Side) -> Option<&[StageSpec]> {
        match side {
            Side::Keys => self.k.as_deref(),
            Side::Values => self.v.as_deref(),
        }
    }
}

impl Default for Recipe {
    /// Half floats: exact for most purposes, and what every other recipe is compared with.
    fn default() -> Recipe {
        Recipe {
            name: "f16".to_owned(),
            paper: String::new(),
            summary: String::new(),
            needs: Needs::Nothing,
            deviations: Vec::new(),
            encode: Encode::default(),
            keep: None,
            places: Places::default(),
        }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Where stages are written, for errors that are only found when a model is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    path: String,
    /// Stage as printed to line and column.
    stages: BTreeMap<String, (usize, usize)>,
}

impl PartialEq for Places {
    /// Where something is written does not change what it says.
    fn eq(&self, _: &Places) -> bool {
        true
    }
}

impl Places {
    pub(crate) fn of(&self, stage: &str) -> Option<String> {
        let (line, column) = self.stages.get(stage)?;
        Some(format!("{}:{line}:{column}", self.path))
    }
}
