//! Recipes written inline: terms joined by `+`.
//!
//! A term is a recipe by name or by file, with arguments (`kivi-2(window=64)`, `int4(rotate=hadamard)`), or chooses for
//! one side (`k=q8_0,v=q4_0`, `k=[hadamard, uniform(bits=4)]`); a side not chosen stays exact. Every term sets certain
//! things; two that set the same clash.

use super::text::{Cursor, MAX_LEN};
use super::{Encode, Places, Recipe, RecipeError, Registry, nearest, shorthand};
use crate::KvFormat;
use crate::allot::Budget;
use crate::encode::codec::Side;
use crate::encode::registry::{stage, stages};
use crate::encode::stage::StageSpec;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Whether an expression may name files: what comes over the network may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// `path/to/recipe.toml` is read.
    Allowed,
    /// Names only.
    Refused,
}

impl Recipe {
    /// The recipe that an expression stands for.
    ///
    /// # Errors
    /// What cannot be read ([`RecipeError::Syntax`]), is not known ([`RecipeError::Unknown`]), is set twice
    /// ([`RecipeError::Clash`]) or has impossible arguments; and what reading a file finds.
    pub fn parse(text: &str, files: Files) -> Result<Recipe, RecipeError> {
        let path = text.trim();
        if files == Files::Allowed && path.ends_with(".toml") && path.len() <= MAX_LEN && Path::new(path).exists() {
            // Before the grammar, since a path may have any character.
            return Recipe::read(Path::new(path));
        }
        let terms = terms(text)?;
        let mut terms = terms.iter().map(|term| Fragment::of(term, files)).collect::<Result<Vec<_>, _>>()?;
        if terms.len() == 1 && terms[0].is_whole() {
            let Fragment { keys, keep, .. } = terms.remove(0);
            if let Some(recipe) = keep.or(keys) {
                return Ok(recipe);
            }
        }
        combine(terms)
    }
}

/// A term as written.
enum Term {
    Recipe(StageSpec),
    Side(Side, Choice),
}

/// What a side is to be.
enum Choice {
    Recipe(StageSpec),
    Stages(Vec<StageSpec>),
}

fn terms(text: &str) -> Result<Vec<Term>, RecipeError> {
    let mut cursor = Cursor::new(text)?;
    let mut terms = Vec::new();
    let mut side = false;
    loop {
        let call = cursor.call("the name of a recipe")?;
        let letter = [Side::Keys, Side::Values].into_iter().find(|side| side.letter() == call.name);
        terms.push(match letter {
            Some(which) if call.args.is_empty() && cursor.eat('=') => Term::Side(which, choice(&mut cursor)?),
            _ if side => return Err(cursor.error("after `k=…,` comes `v=…`")),
            _ => Term::Recipe(call),
        });
        // `,` goes on with the other side, `+` with anything.
        let was_side = matches!(terms.last(), Some(Term::Side(..)));
        side = was_side && cursor.eat(',');
        if !side && !cursor.eat('+') {
            break;
        }
    }
    if cursor.end() { Ok(terms) } else { Err(cursor.error("expected `+` or the end")) }
}

fn choice(cursor: &mut Cursor<'_>) -> Result<Choice, RecipeError> {
    if !cursor.eat('[') {
        return Ok(Choice::Recipe(cursor.call("the name of a recipe")?));
    }
    let mut list = Vec::new();
    while !cursor.eat(']') {
        if !list.is_empty() {
            cursor.expect(',')?;
        }
        let spec = cursor.call("the name of a stage")?;
        if stage(&spec.name).is_none() {
            let nearest = nearest(&spec.name, stages().map(|entry| entry.name)).map(str::to_owned);
            return Err(RecipeError::Unknown { what: "stage", name: spec.name, nearest });
        }
        list.push(spec);
    }
    Ok(Choice::Stages(list))
}

/// What a term sets. The format of a side travels as a recipe of which only that side counts.
struct Fragment {
    /// The term, as printed.
    text: String,
    keys: Option<Recipe>,
    values: Option<Recipe>,
    /// A recipe of which only what it keeps counts.
    keep: Option<Recipe>,
}

impl Fragment {
    fn of(term: &Term, files: Files) -> Result<Fragment, RecipeError> {
        match term {
            Term::Recipe(call) => {
                let recipe = named(call, files)?;
                let keep = recipe.keep.is_some().then(|| recipe.clone());
                // A recipe that says nothing about formats leaves them to other terms.
                let format = (keep.is_none() || recipe.encode != Encode::default()).then_some(recipe.clone());
                Ok(Fragment { text: recipe.name.clone(), values: format.clone(), keys: format, keep })
            }
            Term::Side(side, choice) => {
                let recipe = match choice {
                    Choice::Recipe(call) => named(call, files)?,
                    Choice::Stages(stages) => anonymous(stages),
                };
                let text = format!("{}={}", side.letter(), recipe.name);
                let (keys, values) = match side {
                    Side::Keys => (Some(recipe), None),
                    Side::Values => (None, Some(recipe)),
                };
                Ok(Fragment { text, keys, values, keep: None })
            }
        }
    }

    /// Whether it is a recipe by itself.
    fn is_whole(&self) -> bool {
        self.keep.is_some() || self.keys.is_some() && self.values.is_some()
    }
}

fn anonymous(stages: &[StageSpec]) -> Recipe {
    let list: Vec<String> = stages.iter().map(StageSpec::to_string).collect();
    let encode = Encode { k: stages.to_vec(), v: stages.to_vec(), ..Encode::default() };
    Recipe {
        name: format!("[{}]", list.join(", ")),
        paper: String::new(),
        summary: String::new(),
        needs: encode.needs(),
        deviations: Vec::new(),
        encode,
        keep: None,
        places: Places::default(),
    }
}

/// One recipe, with its arguments.
fn named(call: &StageSpec, files: Files) -> Result<Recipe, RecipeError> {
    let format_call;
    let mut args = Arguments::new(call);
    let is_file = call.name.ends_with(".toml");
    let mut recipe = match shorthand::recipe(&call.name, &args)? {
        Some(recipe) => recipe,
        None if is_file && files == Files::Allowed => Recipe::read(Path::new(&call.name))?,
        None => Registry::find(&call.name)?.clone(),
    };
    if let Some(keep) = &mut recipe.keep {
        // Whatever is not the budget is the method's.
        if let Some(text) = args.raw("budget") {
            keep.budget = text.parse().map_err(|what| args.error(what))?;
        }
        if let Some(text) = args.raw("ratio") {
            let removed = text.parse::<f64>().ok().filter(|removed| (0.0..1.0).contains(removed));
            let removed = removed.ok_or_else(|| args.error(format!("`ratio={text}` is no share below 1 to remove")))?;
            keep.budget = Budget::Share(1.0 - removed);
        }
        if let Some(text) = args.raw("when") {
            keep.when = Some(text.parse().map_err(|what: String| args.error(what))?);
        }
        keep.every = args.number("every", 1, super::KeepSpec::MAX_EVERY)?.or(keep.every);
        if let Some(text) = args.raw("merge") {
            keep.merge = Some(text.parse()?);
        }
        let own = ["budget", "ratio", "when", "every", "merge"];
        // Where the recipe has a format too, these are the format's.
        let formats = recipe.encode != Encode::default();
        let of_format = |key: &str| formats && ["window", "sinks", "exact"].contains(&key);
        let of_method = |key: &str| !own.contains(&key) && !of_format(key);
        let of_method = call.args.iter().filter(|(key, _)| of_method(key));
        keep.method.args.extend(of_method.map(|(key, value)| (key.clone(), value.clone())));
        keep.build(&[], None)?;
        let rest = call.args.iter().filter(|(key, _)| of_format(key));
        format_call = StageSpec { name: call.name.clone(), args: rest.map(|(k, v)| (k.clone(), v.clone())).collect() };
        args = Arguments::new(&format_call);
    }
    if let Some(window) = args.number("window", 0, Encode::MAX_WINDOW)? {
        recipe.encode.window = window;
    }
    if let Some(sinks) = args.number("sinks", 0, Encode::MAX_SINKS)? {
        recipe.encode.sinks = sinks;
    }
    if let Some(exact) = args.raw("exact") {
        recipe.encode.exact = exact.parse().map_err(|e| args.error(format!("`exact={exact}`: {e}")))?;
    }
    args.done()?;
    if !call.args.is_empty() {
        recipe.name = StageSpec { name: recipe.name, args: call.args.clone() }.to_string();
    }
    Ok(recipe)
}

/// The terms as one recipe.
fn combine(fragments: Vec<Fragment>) -> Result<Recipe, RecipeError> {
    let mut all = Fragment { text: String::new(), keys: None, values: None, keep: None };
    let (mut setter_k, mut setter_v, mut setter_keep) = (None, None, None);
    let mut texts = Vec::new();
    for Fragment { text, keys, values, keep } in fragments {
        if let Some(keep) = keep {
            set(&mut all.keep, keep, &mut setter_keep, &text, "choice of what stays")?;
        }
        if let Some(keys) = keys {
            set(&mut all.keys, keys, &mut setter_k, &text, "format of the keys")?;
        }
        if let Some(values) = values {
            set(&mut all.values, values, &mut setter_v, &text, "format of the values")?;
        }
        texts.push(text);
    }
    // The separator only matters to readers: a side after a side reads best with a comma.
    let name = texts.join(if texts.iter().all(|text| text.contains('=') && !text.contains('(')) { "," } else { " + " });
    let parts: Vec<&Recipe> = all.keep.iter().chain(&all.keys).chain(&all.values).collect();
    let mut recipe = Recipe {
        name,
        paper: join(parts.iter().map(|part| part.paper.as_str()), "; "),
        summary: join(parts.iter().map(|part| part.summary.as_str()), "; "),
        needs: parts.iter().map(|part| part.needs).max().unwrap_or_default(),
        deviations: Vec::new(),
        encode: Encode::default(),
        keep: all.keep.as_ref().and_then(|recipe| recipe.keep.clone()),
        places: Places::default(),
    };
    for part in &parts {
        let new: Vec<String> = part.deviations.iter().filter(|d| !recipe.deviations.contains(d)).cloned().collect();
        recipe.deviations.extend(new);
        recipe.places.path.clone_from(&part.places.path);
        recipe.places.stages.extend(part.places.stages.clone());
        recipe.encode.sinks = recipe.encode.sinks.max(part.encode.sinks);
        // What one side must keep exact, the other keeps too: they share a lane.
        recipe.encode.window = recipe.encode.window.max(part.encode.window);
        recipe.encode.importance |= part.encode.importance;
        recipe.encode.bits =
            if part.encode.bits == super::Bits::Profile { part.encode.bits } else { recipe.encode.bits };
    }
    take_side(&mut recipe.encode, all.keys, Side::Keys);
    take_side(&mut recipe.encode, all.values, Side::Values);
    Ok(recipe)
}

fn set(
    slot: &mut Option<Recipe>,
    recipe: Recipe,
    setter: &mut Option<String>,
    text: &str,
    what: &'static str,
) -> Result<(), RecipeError> {
    if let Some(first) = setter {
        return Err(RecipeError::Clash { first: first.clone(), second: text.to_owned(), what });
    }
    *setter = Some(text.to_owned());
    *slot = Some(recipe);
    Ok(())
}

/// Takes the stages and rules of one side.
fn take_side(encode: &mut Encode, from: Option<Recipe>, side: Side) {
    let Some(Recipe { encode: from, .. }) = from else { return };
    match side {
        Side::Keys => (encode.k, encode.exact) = (from.k, KvFormat { k: from.exact.k, ..encode.exact }),
        Side::Values => (encode.v, encode.exact) = (from.v, KvFormat { v: from.exact.v, ..encode.exact }),
    }
    for rule in from.rules {
        let (k, v) = match side {
            Side::Keys => (rule.k, None),
            Side::Values => (None, rule.v),
        };
        if k.is_some() || v.is_some() || rule.window.is_some() {
            encode.rules.push(super::Rule { k, v, ..rule });
        }
    }
}

fn join<'a>(parts: impl Iterator<Item = &'a str>, separator: &str) -> String {
    let mut seen = BTreeSet::new();
    parts.filter(|part| !part.is_empty() && seen.insert(*part)).collect::<Vec<_>>().join(separator)
}

/// Arguments of a term, read with ranges; unknown ones are refused by [`Arguments::done`].
#[derive(Default)]
pub(super) struct Arguments<'a> {
    term: String,
    args: Option<&'a BTreeMap<String, String>>,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Arguments<'a> {
    fn new(call: &'a StageSpec) -> Arguments<'a> {
        Arguments { term: call.to_string(), args: Some(&call.args), known: RefCell::default() }
    }

    fn error(&self, what: impl Into<String>) -> RecipeError {
        RecipeError::Argument { term: self.term.clone(), what: what.into() }
    }

    fn raw(&self, key: &'static str) -> Option<&'a str> {
        self.known.borrow_mut().insert(key);
        self.args?.get(key).map(String::as_str)
    }

    pub(super) fn number(&self, key: &'static str, least: usize, most: usize) -> Result<Option<usize>, RecipeError> {
        let Some(raw) = self.raw(key) else { return Ok(None) };
        match raw.parse::<usize>() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            Ok(_) => Err(self.error(format!("`{key}={raw}` is out of range; {least} to {most} are possible"))),
            Err(_) => Err(self.error(format!("`{key}={raw}` is not a whole number"))),
        }
    }

    /// One of some words; the first is the default.
    pub(super) fn word(&self, key: &'static str, choices: &[&'static str]) -> Result<&'static str, RecipeError> {
        let Some(raw) = self.raw(key) else { return Ok(choices[0]) };
        let found = choices.iter().copied().find(|&choice| choice == raw);
        found.ok_or_else(|| self.error(format!("`{key}={raw}` is not one of {}", choices.join(", "))))
    }

    fn done(&self) -> Result<(), RecipeError> {
        let known = self.known.borrow();
        let unknown = self.args.into_iter().flatten().map(|(key, _)| key).find(|key| !known.contains(key.as_str()));
        let Some(key) = unknown else { return Ok(()) };
        let meant = nearest(key, known.iter().copied()).map_or(String::new(), |m| format!(", did you mean `{m}`?"));
        let known = known.iter().copied().collect::<Vec<_>>().join(", ");
        Err(self.error(format!("it has no argument `{key}`{meant} (it takes {known})")))
    }
}
