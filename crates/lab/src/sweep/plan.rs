//! What a sweep measures, item by item.

use super::Kind;
use crate::quality::{Item, ItemName, Named, RunSettings, rows};
use crate::tasks::{Case, Mode, Source, Wanted};
use crate::{Candidate, LabError, Subject, Text};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Fewest tokens of a prompt that something is generated after.
const LEAST_PROMPT: usize = 16;

/// What a sweep is asked for.
pub struct SweepSettings {
    /// The full-precision cache that recipes are compared with.
    pub reference: Arc<dyn Candidate>,
    /// Recipes.
    pub recipes: Vec<Arc<dyn Candidate>>,
    /// What they are measured on.
    pub kinds: Vec<Kind>,
    /// Lengths, in tokens.
    pub depths: Vec<usize>,
    /// Windows of each length.
    pub windows: usize,
    /// Generations of each length.
    pub generations: usize,
    /// Tokens of a generation.
    pub generation_tokens: usize,
    /// Questions of each kind and length.
    pub questions: usize,
    /// Questions about one text.
    pub per_text: usize,
    /// How questions share texts.
    pub mode: Mode,
    /// Whether recipes that reduce a text see the question before they do: both are measured where both are here.
    pub known: Vec<bool>,
    /// Tokens of a step.
    pub chunk: usize,
    /// Tokens decoded after a window, for speed.
    pub decode: usize,
    /// Seed of everything that is made up.
    pub seed: u64,
    /// Most bytes of all caches together.
    pub kv_budget_bytes: u64,
    /// Whether prompts of files that do not fit are cut in the middle.
    pub cut: bool,
}

impl SweepSettings {
    pub(super) fn run(&self) -> RunSettings {
        RunSettings {
            reference: self.reference.clone(),
            chunk: self.chunk,
            decode: self.decode,
            block: 64,
            tail: 0,
            kv_budget_bytes: self.kv_budget_bytes,
            recipes_alone: false,
        }
    }
}

/// A task that does not fit a length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The task.
    pub task: String,
    /// The length.
    pub tokens: usize,
    /// Why.
    pub reason: String,
}

/// The items of a sweep, in the order in which they are measured.
pub struct Plan {
    /// Items: the first of every task and length, then the second, and so on.
    pub items: Vec<Named>,
    /// What does not fit.
    pub skipped: Vec<Skipped>,
    /// What was wrong with files of questions.
    pub warnings: Vec<String>,
    /// Digest of each item.
    digests: Vec<String>,
    /// Of model, reference and version of the measures.
    base: String,
}

/// Raised when measures change what they mean: older records do not count any more.
const VERSION: u32 = 1;

impl Plan {
    /// Makes every prompt of the sweep.
    ///
    /// # Errors
    /// [`LabError::Settings`] where nothing fits, or a length exceeds the model's context; [`LabError::Text`] for a text that is
    /// too short.
    pub fn new(subject: &Subject<'_>, text: &Text, settings: &SweepSettings) -> Result<Plan, LabError> {
        check(subject, settings)?;
        let (mut items, mut skipped, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        let mut depths = settings.depths.clone();
        depths.sort_unstable();
        depths.dedup();
        for kind in &settings.kinds {
            if let Kind::Questions(source) = kind {
                warnings.extend(source.warnings().iter().cloned());
            }
            // Prompts of a file are as long as they are.
            let own_length = matches!(kind, Kind::Questions(source) if !source.follows_length());
            let lengths = if own_length { &depths[depths.len() - 1..] } else { &depths[..] };
            for &tokens in lengths {
                match of_kind(subject, text, settings, kind, tokens) {
                    Ok(more) => items.extend(more),
                    Err(LabError::Settings(reason)) => {
                        skipped.push(Skipped { task: kind.name().to_owned(), tokens, reason });
                    }
                    Err(other) => return Err(other),
                }
            }
        }
        if items.is_empty() {
            let reasons: Vec<&str> = skipped.iter().map(|skipped| &skipped.reason[..]).collect();
            return Err(LabError::Settings(format!("nothing to measure: {}", reasons.join("; "))));
        }
        // Stable: tasks and lengths stay in order within a round.
        items.sort_by_key(|named| named.name.index);
        let digests = items.iter().map(digest).collect();
        let model = cachalot_kv::profile::hex(&subject.digest);
        let base = format!("{VERSION} {model} {}", settings.reference.digest());
        Ok(Plan { items, skipped, warnings, digests, base })
    }

    /// Whether a recipe goes through an item. Where nothing is reduced it is all the same whether a question is known.
    pub(super) fn concerns(&self, index: usize, recipe: &dyn Candidate) -> bool {
        self.items[index].name.known != Some(true) || recipe.keeps()
    }

    /// Of the item alone.
    pub(super) fn item_key(&self, index: usize) -> &str {
        &self.digests[index]
    }

    /// Of everything that a record depends on.
    pub(super) fn key(&self, index: usize, recipe: &dyn Candidate) -> String {
        let text = format!("{} {} {}", self.base, self.digests[index], recipe.digest());
        blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
    }

    /// Whether the reference must go along: always where distributions are compared, and where its answers are not there.
    pub(super) fn needs_reference(&self, index: usize, there: bool) -> bool {
        !matches!(self.items[index].item, Item::Questions(_)) || !there && self.items[index].name.known != Some(true)
    }

    /// Tokens that a recipe computes.
    pub(super) fn cost(&self, index: usize) -> usize {
        let Named { name, item } = &self.items[index];
        item.cost(name.known == Some(true)).max(1)
    }

    /// Divergences that have to be kept one by one.
    pub(super) fn tail(&self, index: usize) -> usize {
        let name = &self.items[index].name;
        let alike = |other: &&Named| other.name.task == name.task && other.name.tokens == name.tokens;
        self.items.iter().filter(alike).map(|named| named.item.longest()).sum::<usize>() / 100 + 2
    }
}

fn check(subject: &Subject<'_>, settings: &SweepSettings) -> Result<(), LabError> {
    let fail = |reason: String| Err(LabError::Settings(reason));
    let context = subject.context();
    if settings.depths.is_empty() || settings.depths.contains(&0) {
        return fail("give lengths of at least one token, for example --depths 512,2048".into());
    }
    if let Some(depth) = settings.depths.iter().find(|&&depth| depth > context) {
        return fail(format!("a length of {depth} tokens does not fit the model's context of {context}"));
    }
    if settings.recipes.is_empty() || settings.kinds.is_empty() || settings.known.is_empty() {
        return fail("a sweep needs a recipe, a task, and whether questions are known".into());
    }
    if settings.chunk == 0 || settings.per_text == 0 {
        return fail("a step and a text have at least one token and one question".into());
    }
    Ok(())
}

fn of_kind(
    subject: &Subject<'_>,
    text: &Text,
    settings: &SweepSettings,
    kind: &Kind,
    tokens: usize,
) -> Result<Vec<Named>, LabError> {
    let named = |known: Option<bool>, index: usize, item: Item| Named {
        name: ItemName { task: kind.name().to_owned(), tokens, known, index },
        item,
    };
    let short = |least: usize| {
        let name = kind.name();
        LabError::Settings(format!("{name} needs at least {least} tokens; {tokens} were asked for"))
    };
    let room = subject.context();
    match kind {
        Kind::Perplexity | Kind::Attention => {
            let count = if matches!(kind, Kind::Attention) { 1 } else { settings.windows };
            if tokens < 4 {
                return Err(short(4));
            }
            if tokens + settings.decode > room {
                let reason =
                    format!("{tokens} tokens and {} to decode do not fit its context of {room}", settings.decode);
                return Err(LabError::Settings(reason));
            }
            let windows = text.windows(subject.tokenizer, count, tokens)?.into_iter().enumerate();
            Ok(windows
                .map(|(index, window)| {
                    let context = tokens / 2;
                    let item = match kind {
                        Kind::Attention => Item::Attention { tokens: window, context },
                        _ => Item::Window { tokens: window, context },
                    };
                    named(None, index, item)
                })
                .collect())
        }
        Kind::Generation => {
            let most = settings.generation_tokens;
            if tokens < most + LEAST_PROMPT {
                return Err(short(most + LEAST_PROMPT));
            }
            let windows = text.windows(subject.tokenizer, settings.generations, tokens - most)?.into_iter().enumerate();
            Ok(windows.map(|(index, prompt)| named(None, index, Item::Generation { prompt, tokens: most })).collect())
        }
        Kind::Questions(source) => questions(subject, text, settings, &**source, tokens),
    }
}

fn questions(
    subject: &Subject<'_>,
    text: &Text,
    settings: &SweepSettings,
    source: &dyn Source,
    tokens: usize,
) -> Result<Vec<Named>, LabError> {
    let SweepSettings { questions, per_text, mode, seed, cut, .. } = *settings;
    // The answer has to fit as well.
    let tokens_asked = tokens.min(subject.context().saturating_sub(source.answer_tokens()));
    let wanted = Wanted { text, tokens: tokens_asked, questions, per_text, mode, seed, cut };
    let cases = source.cases(subject, &wanted)?;
    let task = if mode == Mode::Turns { format!("{}:turns", source.name()) } else { source.name().to_owned() };
    let mut items = Vec::new();
    for &known in &settings.known {
        for (index, row) in rows(&cases).into_iter().enumerate() {
            // What nobody knows the answer to is compared with the reference's.
            match row {
                [case] if case.expected.is_empty() => {
                    if known == settings.known[0] {
                        let name = ItemName { task: task.clone(), tokens, known: None, index };
                        items.push(Named { name, item: alone(case) });
                    }
                }
                _ => {
                    let name = ItemName { task: task.clone(), tokens, known: Some(known), index };
                    items.push(Named { name, item: Item::Questions(row.to_vec()) });
                }
            }
        }
    }
    Ok(items)
}

fn alone(case: &Case) -> Item {
    Item::Generation { prompt: case.prompt.clone(), tokens: case.answer_tokens }
}

/// Of everything in an item.
fn digest(named: &Named) -> String {
    let mut hasher = blake3::Hasher::new();
    // `Debug` of these types names every field.
    hasher.update(format!("{named:?}").as_bytes());
    hasher.finalize().to_hex()[..32].to_owned()
}
