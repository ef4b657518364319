//! Recipes as TOML files.
//!
//! ```toml
//! name = "kivi-2"
//! paper = "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache (Liu et al., 2024)"
//! summary = "keys by channel, values by token"
//! needs = "nothing"                 # or "profile"
//! deviations = ["…"]
//!
//! [keep]                            # what stays of a context; everything where there is no such table
//! method = "snapkv(window=64)"
//! budget = 0.5                      # a share, a number of tokens, bytes ("64MiB") or a share of free memory ("50% free")
//! when = "prompt"                   # or "decode" or "both"; as the method has it where absent
//! every = 64                        # tokens between reductions after the context
//! merge = "d2o(weight=exact)"       # what becomes of the others; as the method has it where absent, "none" drops them
//!
//! [encode]
//! sinks = 0                         # first tokens that stay exact
//! window = 128                      # last tokens that stay exact
//! exact = "f16"                     # format of what stays exact
//! importance = false                # whether stages want to know how much a token matters
//! bits = "written"                  # or "profile": widths from a calibration
//! k = ["uniform(bits=2, axis=channel, group=32)"]
//! v = ["uniform(bits=2, axis=token, group=32)"]
//!
//! [[encode.rules]]                  # what differs for some layers and heads; later rules win
//! layers = "0..2, last"
//! k = ["uniform(bits=4, axis=channel, group=32)"]
//! ```

use super::text::MAX_LEN;
use super::{Bits, Encode, KeepSpec, Needs, Places, Ranges, Recipe, RecipeError, Rule, nearest};
use crate::KvFormat;
use crate::encode::registry::{stage, stages};
use crate::encode::stage::StageSpec;
use serde::Deserialize;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;

/// Largest recipe file that is read.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Option<Spanned<String>>,
    #[serde(default)]
    paper: String,
    #[serde(default)]
    summary: String,
    #[serde(default)]
    needs: Needs,
    #[serde(default)]
    deviations: Vec<String>,
    keep: Option<KeepTable>,
    encode: Option<EncodeTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeepTable {
    method: Spanned<String>,
    budget: Spanned<toml::Value>,
    when: Option<Spanned<String>>,
    every: Option<Spanned<i64>>,
    merge: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct EncodeTable {
    sinks: Option<Spanned<i64>>,
    window: Option<Spanned<i64>>,
    exact: Option<Spanned<String>>,
    #[serde(default)]
    importance: bool,
    bits: Option<Spanned<String>>,
    #[serde(default)]
    k: Vec<Spanned<String>>,
    #[serde(default)]
    v: Vec<Spanned<String>>,
    #[serde(default)]
    rules: Vec<Spanned<RuleTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleTable {
    layers: Option<Spanned<String>>,
    heads: Option<Spanned<String>>,
    k: Option<Vec<Spanned<String>>>,
    v: Option<Vec<Spanned<String>>>,
    window: Option<Spanned<i64>>,
}

impl Recipe {
    /// Reads a recipe file. Where it gives no name, it is called as the path.
    ///
    /// # Errors
    /// [`RecipeError::Read`], or what [`Recipe::from_toml`] finds.
    pub fn read(path: &Path) -> Result<Recipe, RecipeError> {
        let shown = path.display().to_string();
        let fail = |reason: String| RecipeError::Read { path: shown.clone(), reason };
        let size = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
        if size > MAX_BYTES {
            return Err(fail(format!("it has {size} bytes; no recipe has more than {MAX_BYTES}")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        Recipe::from_toml(&text, &shown)
    }

    /// Parses the text of a recipe file; `path` is for messages.
    ///
    /// # Errors
    /// [`RecipeError::File`] for unknown keys, wrong types, numbers out of range, and stages that do not parse or do not
    /// exist: with line and column.
    pub fn from_toml(text: &str, path: &str) -> Result<Recipe, RecipeError> {
        let mut reader = Reader { text, places: Places { path: path.to_owned(), ..Places::default() } };
        let file: File = toml::from_str(text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            reader.error(&span, suggest(error.message()))
        })?;
        let name = match file.name {
            None => path.to_owned(),
            Some(name) => reader.name(&name)?,
        };
        if file.encode.is_none() && file.keep.is_none() {
            return Err(reader.error(&(0..0), "missing field `encode`: a recipe has a table `[encode]` or `[keep]`"));
        }
        let encode = reader.encode(file.encode.unwrap_or_default())?;
        let keep = file.keep.map(|keep| reader.keep(&keep)).transpose()?;
        Ok(Recipe {
            name,
            paper: file.paper,
            summary: file.summary,
            needs: file.needs.max(encode.needs()).max(keep.as_ref().map_or(Needs::Nothing, KeepSpec::needs)),
            deviations: file.deviations,
            encode,
            keep,
            places: reader.places,
        })
    }
}

/// Adds the nearest of the keys that serde lists.
fn suggest(message: &str) -> String {
    let message = message.trim_end();
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (message.starts_with("unknown field"), names.split_first()) {
        (true, Some((wrong, known))) => match nearest(wrong, known.iter().copied()) {
            Some(meant) => format!("{message}; did you mean `{meant}`?"),
            None => message.to_owned(),
        },
        _ => message.to_owned(),
    }
}

struct Reader<'a> {
    text: &'a str,
    places: Places,
}

impl Reader<'_> {
    fn place(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line..].chars().count() + 1)
    }

    fn error(&self, span: &Range<usize>, what: impl Into<String>) -> RecipeError {
        let (line, column) = self.place(span.start);
        RecipeError::File { path: self.places.path.clone(), line, column, what: what.into() }
    }

    fn name(&self, name: &Spanned<String>) -> Result<String, RecipeError> {
        let text = name.get_ref();
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !text.is_empty() && text.len() <= 64 && text.chars().all(plain) {
            return Ok(text.clone());
        }
        Err(self.error(&name.span(), "a name has letters, digits, `_`, `.` and `-`, and at most 64 of them"))
    }

    fn number(&self, key: &str, value: Option<Spanned<i64>>, most: usize) -> Result<Option<usize>, RecipeError> {
        let Some(value) = value else { return Ok(None) };
        let number = usize::try_from(*value.get_ref()).ok().filter(|&number| number <= most);
        let wrong = || format!("`{key}` is {}; 0 to {most} are possible", value.get_ref());
        number.map(Some).ok_or_else(|| self.error(&value.span(), wrong()))
    }

    fn keep(&mut self, table: &KeepTable) -> Result<KeepSpec, RecipeError> {
        let method: StageSpec =
            table.method.get_ref().parse().map_err(|e: RecipeError| self.error(&table.method.span(), e.to_string()))?;
        let text = match table.budget.get_ref() {
            toml::Value::Float(share) => share.to_string(),
            toml::Value::Integer(tokens) => tokens.to_string(),
            toml::Value::String(text) => text.clone(),
            other => other.type_str().to_owned(),
        };
        let budget = text.parse();
        let budget = budget.map_err(|what: String| self.error(&table.budget.span(), format!("`budget`: {what}")))?;
        let when = match &table.when {
            None => None,
            Some(when) => Some(when.get_ref().parse().map_err(|what: String| self.error(&when.span(), what))?),
        };
        let merge = match &table.merge {
            None => None,
            Some(merge) => {
                Some(merge.get_ref().parse().map_err(|e: RecipeError| self.error(&merge.span(), e.to_string()))?)
            }
        };
        let every = match &table.every {
            Some(every) if *every.get_ref() < 1 => return Err(self.error(&every.span(), "`every` is at least 1")),
            every => self.number("every", every.clone(), KeepSpec::MAX_EVERY)?,
        };
        let keep = KeepSpec { method, budget, when, every, merge };
        keep.build(&[], None).map_err(|e| self.error(&table.method.span(), e.to_string()))?;
        Ok(keep)
    }

    fn encode(&mut self, table: EncodeTable) -> Result<Encode, RecipeError> {
        let exact = match &table.exact {
            None => KvFormat::default(),
            Some(exact) => exact.get_ref().parse().map_err(|e| self.error(&exact.span(), format!("{e}")))?,
        };
        let bits = match table.bits.as_ref().map(|bits| (bits.get_ref().as_str(), bits.span())) {
            None | Some(("written", _)) => Bits::Written,
            Some(("profile", _)) => Bits::Profile,
            Some((_, span)) => return Err(self.error(&span, "`bits` is `written` or `profile`")),
        };
        Ok(Encode {
            sinks: self.number("sinks", table.sinks, Encode::MAX_SINKS)?.unwrap_or(0),
            window: self.number("window", table.window, Encode::MAX_WINDOW)?.unwrap_or(0),
            exact,
            k: self.stages(table.k)?,
            v: self.stages(table.v)?,
            importance: table.importance,
            bits,
            rules: table.rules.into_iter().map(|rule| self.rule(rule)).collect::<Result<_, _>>()?,
        })
    }

    fn rule(&mut self, rule: Spanned<RuleTable>) -> Result<Rule, RecipeError> {
        let span = rule.span();
        let table = rule.into_inner();
        let heads = self.ranges(table.heads)?;
        if table.window.is_some() && !heads.is_all() {
            let window = table.window.as_ref().map_or(span, Spanned::span);
            return Err(self.error(&window, "all heads of a layer share one `window`; leave out `heads`, or `window`"));
        }
        if table.k.is_none() && table.v.is_none() && table.window.is_none() {
            return Err(self.error(&span, "this rule changes nothing; give it `k`, `v` or `window`"));
        }
        Ok(Rule {
            layers: self.ranges(table.layers)?,
            heads,
            k: table.k.map(|stages| self.stages(stages)).transpose()?,
            v: table.v.map(|stages| self.stages(stages)).transpose()?,
            window: self.number("window", table.window, Encode::MAX_WINDOW)?,
        })
    }

    fn ranges(&self, ranges: Option<Spanned<String>>) -> Result<Ranges, RecipeError> {
        let Some(ranges) = ranges else { return Ok(Ranges::all()) };
        ranges.get_ref().parse().map_err(|what: String| self.error(&ranges.span(), what))
    }

    fn stages(&mut self, list: Vec<Spanned<String>>) -> Result<Vec<StageSpec>, RecipeError> {
        list.into_iter().map(|text| self.stage(&text)).collect()
    }

    fn stage(&mut self, text: &Spanned<String>) -> Result<StageSpec, RecipeError> {
        let span = text.span();
        let (line, column) = self.place(span.start);
        let spec: StageSpec = text.get_ref().parse().map_err(|error| match error {
            // One for the quotation mark.
            RecipeError::Syntax { column: at, what, .. } if text.get_ref().len() <= MAX_LEN => {
                RecipeError::File { path: self.places.path.clone(), line, column: column + at, what }
            }
            error => self.error(&span, error.to_string()),
        })?;
        if stage(&spec.name).is_none() {
            let name = &spec.name;
            let meant = nearest(name, stages().map(|entry| entry.name));
            let meant = meant.map_or(String::new(), |meant| format!(", did you mean `{meant}`?"));
            return Err(self.error(&span, format!("unknown stage `{name}`{meant}")));
        }
        self.places.stages.insert(spec.to_string(), (line, column));
        Ok(spec)
    }
}
