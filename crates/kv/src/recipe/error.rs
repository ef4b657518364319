//! What can be wrong with a recipe, and how to mend it.

use crate::encode::codec::Side;
use crate::encode::stage::StageError;
use crate::profile::ProfileError;

/// An error of a recipe: always somebody's input, never a state of the cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// No such recipe, or no such stage.
    #[error("unknown {what} `{name}`{}", meant(.nearest))]
    Unknown {
        /// `recipe`, `stage`, …
        what: &'static str,
        /// As asked for.
        name: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// An inline expression that cannot be read.
    #[error("`{text}`, column {column}: {what}")]
    Syntax {
        /// The expression.
        text: String,
        /// Character, from 1.
        column: usize,
        /// What is wrong.
        what: String,
    },
    /// A recipe file that cannot be understood.
    #[error("{path}:{line}:{column}: {what}")]
    File {
        /// The file.
        path: String,
        /// From 1.
        line: usize,
        /// Character, from 1.
        column: usize,
        /// What is wrong.
        what: String,
    },
    /// A recipe file that cannot be read.
    #[error("cannot read the recipe {path}: {reason}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// Two terms of an expression that do the same thing in two ways.
    #[error("`{first}` and `{second}` clash: both set the {what}; keep one of them")]
    Clash {
        /// The earlier term.
        first: String,
        /// The later term.
        second: String,
        /// What both set.
        what: &'static str,
    },
    /// An argument of a term that it does not take, or with an impossible value.
    #[error("`{term}`: {what}")]
    Argument {
        /// The term.
        term: String,
        /// What is wrong.
        what: String,
    },
    /// A stage that cannot be built for a model.
    #[error("{}recipe {recipe}, {lane}: {error}", at(.place))]
    Stage {
        /// Name of the recipe.
        recipe: String,
        /// File, line and column, where the recipe came from a file.
        place: Option<String>,
        /// Layer, head and side.
        lane: Lane,
        /// What the stage said.
        error: StageError,
    },
    /// Stages that do not make a pipeline.
    #[error("{}recipe {recipe}, {lane}: {what}", at(.place))]
    Pipeline {
        /// Name of the recipe.
        recipe: String,
        /// File, line and column, where the recipe came from a file.
        place: Option<String>,
        /// Layer, head and side.
        lane: Lane,
        /// What is wrong.
        what: String,
    },
    /// A rule that no plan can follow.
    #[error("recipe {recipe}: {what}")]
    Rule {
        /// Name of the recipe.
        recipe: String,
        /// What is wrong.
        what: String,
    },
    /// A recipe that needs a profile, without one.
    #[error(
        "the recipe {recipe} needs a profile of this model; make one with `cachalot calibrate --recipe {recipe} -o FILE` \
         and give it with --kv-profile FILE"
    )]
    NeedsProfile {
        /// Name of the recipe.
        recipe: String,
    },
    /// A profile that does not fit.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

/// Which lane an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Layer.
    pub layer: usize,
    /// KV head.
    pub head: usize,
    /// Keys or values.
    pub side: Side,
}

impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = match self.side {
            Side::Keys => "keys",
            Side::Values => "values",
        };
        write!(f, "{side} of layer {}, head {}", self.layer, self.head)
    }
}

fn meant(nearest: &Option<String>) -> String {
    let all = "`cachalot kv list` shows what there is";
    nearest.as_ref().map_or(format!("; {all}"), |name| format!(", did you mean `{name}`? ({all})"))
}

fn at(place: &Option<String>) -> String {
    place.as_ref().map_or(String::new(), |place| format!("{place}: "))
}
