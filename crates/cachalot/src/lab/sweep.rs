//! `cachalot lab sweep`: recipes by tasks by lengths.

use super::{describe, report};
use crate::args::ModelArgs;
use crate::{Failure, load, size};
use cachalot_lab::sweep::{self, Event, Kind, Plan, Store, SweepSettings, sheet};
use cachalot_lab::tasks::Mode;
use cachalot_lab::{LabError, Subject, Text, candidate};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Sentences that are made up where no text is given: enough for the longest windows of small models.
const SENTENCES: usize = 20_000;

#[derive(Args)]
pub struct SweepArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// KV recipes to measure, separated by commas; `all` is every one that needs nothing or has a profile.
    #[arg(long, value_name = "LIST")]
    recipes: String,
    /// What they are measured on, separated by commas: perplexity, generation, attention (its error by layer and head), and
    /// everything in docs/tasks.md: needle, multi-key, variable-tracking, jsonl:PATH and so on.
    #[arg(long, default_value = "perplexity,generation,needle", value_name = "LIST")]
    tasks: String,
    /// Lengths of windows and prompts, in tokens.
    #[arg(long, value_delimiter = ',', default_value = "512,1024", value_name = "LIST")]
    depths: Vec<usize>,
    /// The folder of results: what is there already is not measured again.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The text that is predicted, and that facts are hidden in; made-up sentences if absent.
    #[arg(long, value_name = "PATH")]
    text: Option<PathBuf>,
    /// The cache that recipes are compared with.
    #[arg(long, default_value = "f16", value_name = "RECIPE")]
    reference: String,
    /// Calibration profiles of this model, each used for the recipe it was made for.
    #[arg(long, value_delimiter = ',', value_name = "FILES", env = "CACHALOT_KV_PROFILE")]
    kv_profile: Vec<PathBuf>,
    /// Windows of each length.
    #[arg(long, default_value_t = 2)]
    windows: usize,
    /// Generations of each length.
    #[arg(long, default_value_t = 2)]
    generations: usize,
    /// Tokens of a generation.
    #[arg(long, default_value_t = 64)]
    generation_tokens: usize,
    /// Questions of each kind and length.
    #[arg(long, default_value_t = 10)]
    questions: usize,
    /// Questions about one text, which is then read once for all of them.
    #[arg(long, default_value_t = 5)]
    questions_per_text: usize,
    /// How questions share texts: `single` (one each), `shared` (several, each as if it were the only one), `turns` (one after
    /// the other, with the right answers to those before).
    #[arg(long, default_value_t, value_name = "MODE")]
    mode: Mode,
    /// Whether recipes that reduce a text see the question before they do.
    #[arg(long, value_enum, default_value = "unknown")]
    question: Question,
    /// Cut prompts of jsonl files in the middle where the model has no room for them; else they are errors.
    #[arg(long)]
    cut: bool,
    /// Tokens of a step.
    #[arg(long, default_value_t = 512)]
    chunk: usize,
    /// Tokens to decode after each window, for speed.
    #[arg(long, default_value_t = 8)]
    decode: usize,
    /// Seed of everything that is made up.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Most bytes of all caches together, as in 4GiB; half of the memory that is free if absent.
    #[arg(long, value_parser = size::parse, value_name = "BYTES")]
    kv_budget: Option<u64>,
}

/// When the question is known.
#[derive(Clone, Copy, ValueEnum)]
enum Question {
    /// After the text is reduced: it serves any question.
    Unknown,
    /// Before.
    Known,
    /// Each in turn.
    Both,
}

pub fn sweep(args: &SweepArgs) -> Result<(), Failure> {
    let profiles = describe::profiles(&args.kv_profile)?;
    let settings = SweepSettings {
        reference: candidate::resolve(&args.reference, &profiles)?,
        recipes: candidate::resolve_list(&args.recipes, &profiles)?,
        kinds: Kind::named(&args.tasks)?,
        depths: args.depths.clone(),
        windows: args.windows,
        generations: args.generations,
        generation_tokens: args.generation_tokens,
        questions: args.questions,
        per_text: args.questions_per_text,
        mode: args.mode,
        known: match args.question {
            Question::Unknown => vec![false],
            Question::Known => vec![true],
            Question::Both => vec![false, true],
        },
        chunk: args.chunk,
        decode: args.decode,
        seed: args.seed,
        kv_budget_bytes: load::budget_or_half(args.kv_budget),
        cut: args.cut,
    };
    let text = match &args.text {
        Some(path) => Text::read(path)?,
        None => Text::made_up(SENTENCES, args.seed)?,
    };
    let ready = load::load(&args.model)?;
    let subject = Subject::new(&ready.loaded, ready.team.clone());
    let plan = Plan::new(&subject, &text, &settings)?;
    describe::warn(&plan.warnings);
    for skipped in &plan.skipped {
        eprintln!("warning: {} at {} tokens is left out: {}", skipped.task, skipped.tokens, skipped.reason);
    }
    let mut store = Store::open(&args.out, &describe::run(&args.model, &ready, &text, described(args, &settings)))?;
    if !store.broken().is_empty() {
        eprintln!(
            "warning: {} lines of {} were cut off and are measured again",
            store.broken().len(),
            args.out.display()
        );
    }
    let had = store.len();
    let bar = describe::bar("measuring");
    let mut observe = |event: Event<'_>| -> Result<(), LabError> {
        match event {
            Event::Progress { done, total } => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Event::Item(named) => bar.set_message(format!("{} at {}", named.name.task, named.name.tokens)),
            Event::Record(_) => {}
        }
        Ok(())
    };
    let added = sweep::sweep(&subject, &plan, &settings, &mut store, &mut observe);
    bar.finish_and_clear();
    let added = added?;
    println!("{added} results are new, {had} were there");
    drop(store);
    // From the file alone, so that the report says what anyone can make of it.
    report::write(&args.out, &sheet(&Store::read(&args.out)?))
}

fn described(args: &SweepArgs, settings: &SweepSettings) -> Value {
    json!({
        "recipes": args.recipes,
        "reference": settings.reference.name(),
        "tasks": args.tasks,
        "depths": settings.depths,
        "windows": settings.windows,
        "generations": settings.generations,
        "generation_tokens": settings.generation_tokens,
        "questions": settings.questions,
        "questions_per_text": settings.per_text,
        "mode": settings.mode.to_string(),
        "questions_known": settings.known,
        "cut": settings.cut,
        "chunk": settings.chunk,
        "decode": settings.decode,
        "seed": settings.seed,
    })
}
