//! `cachalot lab quality`: recipes beside a full-precision cache on one text, in one table.

use super::describe;
use crate::args::ModelArgs;
use crate::bench::machine;
use crate::load;
use crate::{Failure, size};
use cachalot_lab::quality::{self, Event, QualitySettings};
use cachalot_lab::report::{Lines, table};
use cachalot_lab::{LabError, Subject, Text, candidate, tasks};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
pub struct QualityArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text that is predicted, and that needles are hidden in.
    #[arg(long, value_name = "PATH")]
    text: PathBuf,
    /// KV recipes to measure, separated by commas; `all` is every one that needs nothing or has a profile.
    #[arg(long, value_name = "LIST")]
    recipes: String,
    /// The cache they are compared with.
    #[arg(long, default_value = "f16", value_name = "RECIPE")]
    reference: String,
    /// Calibration profiles of this model, each used for the recipe it was made for.
    #[arg(long, value_delimiter = ',', value_name = "FILES", env = "CACHALOT_KV_PROFILE")]
    kv_profile: Vec<PathBuf>,
    /// Tokens of a window.
    #[arg(long, default_value_t = 4096)]
    window: usize,
    /// Windows, spread evenly over the text; 0 for none.
    #[arg(long, default_value_t = 4)]
    windows: usize,
    /// Tokens at the beginning of a window that recipes may reduce; what follows is measured. Half of it where a recipe keeps
    /// less than everything, else none.
    #[arg(long)]
    context: Option<usize>,
    /// Tokens of a step.
    #[arg(long, default_value_t = 512)]
    chunk: usize,
    /// Tokens to decode after each window, for speed.
    #[arg(long, default_value_t = 16)]
    decode: usize,
    /// Where questions come from, separated by commas: needle, multi-key, multi-value, multi-query, passkey, kv-retrieval,
    /// variable-tracking, common-words, frequent-words, copy, two-hop, many-shot; jsonl:PATH, ruler:PATH, longbench:PATH,
    /// scbench:PATH for files, or folders with a file for each dataset (docs/tasks.md).
    #[arg(long, default_value = "needle", value_name = "LIST")]
    tasks: String,
    /// Questions of each kind, their answers at as many depths, or the first of each file; 0 for none.
    #[arg(long, alias = "needles", default_value_t = 20)]
    questions: usize,
    /// Questions about one text, which is then read once for all of them.
    #[arg(long, alias = "needles-per-text", default_value_t = 5)]
    questions_per_text: usize,
    /// How questions share texts: `single` (one each), `shared` (several, each as if it were the only one), `turns` (one after
    /// the other, with the right answers to those before).
    #[arg(long, default_value_t, value_name = "MODE")]
    mode: tasks::Mode,
    /// Tokens of a question with its text. Longer prompts of benchmarks are cut in the middle.
    #[arg(long, alias = "needle-tokens", default_value_t = 3500)]
    question_tokens: usize,
    /// Cut prompts of jsonl files in the middle where the model has no room for them; else they are errors.
    #[arg(long)]
    cut: bool,
    /// Whether recipes that reduce a text see the question before they do.
    #[arg(long)]
    question_known: bool,
    /// Seed of needles and intervals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Most bytes of all caches together, as in 4GiB; half of the memory that is free if absent.
    #[arg(long, value_parser = size::parse, value_name = "BYTES")]
    kv_budget: Option<u64>,
    /// Append results to quality.jsonl in this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn quality(args: &QualityArgs) -> Result<(), Failure> {
    // Names and text first: they cost nothing, a model may take long to load.
    let profiles = describe::profiles(&args.kv_profile)?;
    let recipes = candidate::resolve_list(&args.recipes, &profiles)?;
    let keeps = recipes.iter().any(|recipe| recipe.keeps());
    let settings = QualitySettings {
        context: args.context.unwrap_or(if keeps { args.window / 2 } else { 0 }),
        question_known: args.question_known,
        window: args.window,
        windows: args.windows,
        chunk: args.chunk,
        decode: args.decode,
        tasks: tasks::named(&args.tasks)?,
        questions: args.questions,
        questions_per_text: args.questions_per_text,
        question_tokens: args.question_tokens,
        mode: args.mode,
        cut: args.cut,
        seed: args.seed,
        ..QualitySettings::new(candidate::resolve(&args.reference, &profiles)?, load::budget_or_half(args.kv_budget))
    };
    describe::warn(settings.tasks.iter().flat_map(|source| source.warnings()));
    let text = Text::read(&args.text)?;
    let ready = load::load(&args.model)?;
    let subject = Subject::new(&ready.loaded, ready.team.clone());
    let run = describe::run(&args.model, &ready, &text, described(args, &settings));
    let mut lines = match &args.out {
        Some(folder) => Some(Lines::open(folder, "quality.jsonl", &run)?),
        None => None,
    };
    let bar = describe::bar("measuring");
    let mut observe = |event: Event<'_>| -> Result<(), LabError> {
        match (event, &mut lines) {
            (Event::Progress { done, total }, _) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            (Event::Record(record), Some(lines)) => lines.write("record", record)?,
            _ => {}
        }
        Ok(())
    };
    let outcomes = quality::measure(&subject, &text, &recipes, &settings, &mut observe);
    bar.finish_and_clear();
    let outcomes = outcomes?;
    if let Some(lines) = &mut lines {
        outcomes.iter().try_for_each(|outcome| lines.write("quality", outcome))?;
    }
    println!("{}, {} threads, {}\n", ready.loaded.name, ready.team.threads(), machine::processor());
    if settings.windows > 0 {
        let QualitySettings { windows, window, context, .. } = settings;
        print!("{windows} windows of {window} tokens of {}", args.text.display());
        println!("{}", if context > 0 { format!(", measured after a context of {context}") } else { String::new() });
    }
    if settings.questions > 0 {
        println!(
            "{} questions of each kind in prompts of {} tokens, {} to a text, {} mode, seed {}",
            settings.questions, settings.question_tokens, settings.questions_per_text, settings.mode, settings.seed
        );
        if keeps {
            let when = if settings.question_known { "before" } else { "after" };
            println!("the question comes {when} the text is reduced");
        }
    }
    println!("\n{}", table(&outcomes));
    if let Some(lines) = &lines {
        println!("Run {} in {}", run.id(), lines.path().display());
    }
    match outcomes.iter().filter(|outcome| outcome.failure.is_some()).count() {
        0 => Ok(()),
        failed => Err(format!("{failed} of {} recipes failed; the table says why", recipes.len()).into()),
    }
}

fn described(args: &QualityArgs, settings: &QualitySettings) -> serde_json::Value {
    json!({
        "recipes": args.recipes,
        "reference": settings.reference.name(),
        "window": settings.window,
        "windows": settings.windows,
        "context": settings.context,
        "question_known": settings.question_known,
        "chunk": settings.chunk,
        "decode": settings.decode,
        "tasks": settings.tasks.iter().map(|task| task.name()).collect::<Vec<_>>(),
        "questions": settings.questions,
        "questions_per_text": settings.questions_per_text,
        "mode": settings.mode.to_string(),
        "cut": settings.cut,
        "question_tokens": settings.question_tokens,
        "seed": settings.seed,
        "block": settings.block,
        "resamples": settings.resamples,
    })
}
