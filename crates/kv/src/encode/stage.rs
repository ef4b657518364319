//! Stages by name: what `hadamard`, `uniform(bits=4, group=32)` and the like in a recipe stand for, and how each is built
//! for one lane.

use super::codec::{Part, Shape, Side, Transform};
use crate::Rope;
use crate::recipe::nearest;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

/// A stage as written: `name(key=value, …)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StageSpec {
    /// Name in the registry.
    pub name: String,
    /// Arguments as written.
    pub args: BTreeMap<String, String>,
}

/// A stage that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {what}")]
pub struct StageError {
    /// The stage as written.
    pub stage: String,
    /// What is wrong and how to mend it.
    pub what: String,
}

/// Where a stage is built for: one side of one lane, and what the pipeline has become before it.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Keys or values.
    pub side: Side,
    /// Tokens of a page.
    pub tokens: usize,
    /// Channels after the stages before this one.
    pub channels: usize,
    /// Layer and how many there are.
    pub layer: usize,
    /// See `layer`.
    pub layers: usize,
    /// KV head and how many the layer has.
    pub head: usize,
    /// See `head`.
    pub heads: usize,
    /// Rotary position of the layer.
    pub rope: Option<&'a Rope>,
    /// Calibration, where the recipe has it.
    pub profile: Option<&'a dyn Tensors>,
    /// Place of the stage within its pipeline; part of the names of its tensors.
    pub stage: usize,
}

impl Context<'_> {
    /// The shape a part built here writes.
    pub fn shape(&self) -> Shape {
        Shape { side: self.side, tokens: self.tokens, channels: self.channels }
    }

    /// The name under which a profile keeps a tensor of this stage: `layer.3.head.1.k.0.codebook`.
    pub fn tensor_name(&self, what: &str) -> String {
        format!("layer.{}.head.{}.{}.{}.{what}", self.layer, self.head, self.side.letter(), self.stage)
    }

    /// The tensor of this stage, of the given shape.
    ///
    /// # Errors
    /// Where there is no profile, or no such tensor in it, or one of another shape.
    pub fn tensor(&self, args: &Args, what: &str, shape: &[usize]) -> Result<&[f32], StageError> {
        let name = self.tensor_name(what);
        let profile = self.profile.ok_or_else(|| {
            args.error("needs a calibration profile; make one with `cachalot calibrate` and give it with the recipe")
        })?;
        let found = profile.tensor(&name);
        let (have, data) = found.ok_or_else(|| args.error(format!("the profile has no tensor `{name}`")))?;
        if have != shape {
            return Err(args.error(format!("tensor `{name}` of the profile is {have:?}, not {shape:?}")));
        }
        Ok(data)
    }
}

/// Tensors by name: a profile that was read, or one that is being made.
pub trait Tensors {
    /// Shape and values.
    fn tensor(&self, name: &str) -> Option<(&[usize], &[f32])>;
}

/// A tensor made by calibration.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// See [`Context::tensor_name`].
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Values.
    pub data: Vec<f32>,
}

/// What calibration shows a stage: rows of its lane, already through the stages before it.
pub struct Samples<'a> {
    /// `[n][channels]`.
    pub rows: &'a [f32],
    /// Queries that met these keys, in the same basis, `[m][channels]`; empty for values.
    pub queries: &'a [f32],
    /// Randomness.
    pub seed: u64,
}

/// What a stage builds.
pub enum Built {
    /// A change of basis.
    Transform(Arc<dyn Transform>),
    /// Something that writes.
    Part(Arc<dyn Part>),
    /// Keys are stored before rotary position; must come first.
    BeforeRope,
    /// Wraps the part that the next stage builds.
    Wrap(Box<Wrapper>),
}

/// Makes a part of the part that the next stage builds.
pub type Wrapper = dyn FnOnce(Arc<dyn Part>) -> Result<Arc<dyn Part>, StageError>;

/// Builds a stage for one lane.
pub type Build = fn(&Args, &Context<'_>) -> Result<Built, StageError>;
/// Makes the tensors that [`Build`] wants from a profile.
pub type Calibrate = fn(&Args, &Context<'_>, &Samples<'_>) -> Result<Vec<NamedTensor>, StageError>;

/// A line of the registry.
pub struct StageEntry {
    /// As recipes name it.
    pub name: &'static str,
    /// One line, arguments included.
    pub summary: &'static str,
    /// See [`Build`].
    pub build: Build,
    /// See [`Calibrate`]; `None` where the stage needs no profile. Such a stage depends on nothing but its arguments and
    /// the side, shape and rotary position of its context, not on layer or head: lanes share what it builds.
    pub calibrate: Option<Calibrate>,
}

impl StageEntry {
    /// Whether a recipe that writes the stage like this needs a profile. Stages that can do without one have the argument
    /// `calibrated` and want it only where that is set.
    pub fn needs_profile(&self, spec: &StageSpec) -> bool {
        let without = self.summary.contains("calibrated=false");
        let asked = spec.args.get("calibrated").is_some_and(|value| value == "true");
        self.calibrate.is_some() && (asked || !without)
    }
}

/// Arguments of one stage, read with defaults and ranges; unknown ones are refused by [`Args::done`].
pub struct Args {
    spec: StageSpec,
    known: RefCell<BTreeSet<&'static str>>,
}

impl Args {
    /// Of a stage as written.
    pub fn new(spec: StageSpec) -> Args {
        Args { spec, known: RefCell::default() }
    }

    /// The stage as written.
    pub fn spec(&self) -> &StageSpec {
        &self.spec
    }

    /// An error that names this stage.
    pub fn error(&self, what: impl Into<String>) -> StageError {
        StageError { stage: self.spec.to_string(), what: what.into() }
    }

    fn raw(&self, key: &'static str) -> Option<&str> {
        self.known.borrow_mut().insert(key);
        self.spec.args.get(key).map(String::as_str)
    }

    fn parsed<T: FromStr>(&self, key: &'static str, kind: &str) -> Result<Option<T>, StageError> {
        let parse = |raw: &str| raw.parse().map_err(|_| self.error(format!("`{key}={raw}` is not {kind}")));
        self.raw(key).map(parse).transpose()
    }

    /// A whole number within `range`.
    ///
    /// # Errors
    /// Where it is none, or out of range.
    pub fn integer(
        &self,
        key: &'static str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> Result<usize, StageError> {
        let value = self.parsed(key, "a whole number")?.unwrap_or(default);
        if range.contains(&value) {
            return Ok(value);
        }
        Err(self.error(format!("`{key}={value}` is out of range; {} to {} are possible", range.start(), range.end())))
    }

    /// A number within `range`.
    ///
    /// # Errors
    /// Where it is none, or out of range.
    pub fn number(&self, key: &'static str, default: f32, range: RangeInclusive<f32>) -> Result<f32, StageError> {
        let value = self.parsed(key, "a number")?.unwrap_or(default);
        if range.contains(&value) {
            return Ok(value);
        }
        Err(self.error(format!("`{key}={value}` is out of range; {} to {} are possible", range.start(), range.end())))
    }

    /// As [`Args::number`], to the last digit.
    ///
    /// # Errors
    /// As there.
    pub fn share(&self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> Result<f64, StageError> {
        let value = self.parsed(key, "a number")?.unwrap_or(default);
        if range.contains(&value) {
            return Ok(value);
        }
        Err(self.error(format!("`{key}={value}` is out of range; {} to {} are possible", range.start(), range.end())))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// Where it is neither.
    pub fn flag(&self, key: &'static str, default: bool) -> Result<bool, StageError> {
        Ok(self.parsed(key, "true or false")?.unwrap_or(default))
    }

    /// Whatever is written there.
    pub fn text(&self, key: &'static str) -> Option<&str> {
        self.raw(key)
    }

    /// One of some words; the first is the default.
    ///
    /// # Errors
    /// Where it is another.
    pub fn word(&self, key: &'static str, choices: &[&'static str]) -> Result<&'static str, StageError> {
        let Some(raw) = self.raw(key) else { return Ok(choices[0]) };
        let found = choices.iter().copied().find(|&choice| choice == raw);
        found.ok_or_else(|| self.error(format!("`{key}={raw}` is not one of {}", choices.join(", "))))
    }

    /// All arguments were asked for.
    ///
    /// # Errors
    /// Names the first that nobody knows.
    pub fn done(&self) -> Result<(), StageError> {
        let known = self.known.borrow();
        match self.spec.args.keys().find(|key| !known.contains(key.as_str())) {
            None => Ok(()),
            Some(key) if known.is_empty() => Err(self.error(format!("takes no arguments, so not `{key}`"))),
            Some(key) => {
                let known: Vec<_> = known.iter().copied().collect();
                let meant = nearest(key, known.iter().copied());
                let meant = meant.map_or(String::new(), |meant| format!(", did you mean `{meant}`?"));
                Err(self.error(format!("has no argument `{key}`{meant} (it knows {})", known.join(", "))))
            }
        }
    }
}

impl fmt::Display for StageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.args.is_empty() {
            return Ok(());
        }
        let args: Vec<_> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        write!(f, "({})", args.join(", "))
    }
}
