//! `cachalot lab tune`: a quality budget in, a recipe out.

use super::describe;
use crate::args::ModelArgs;
use crate::{Failure, load, size};
use cachalot_lab::tasks::{self, Source};
use cachalot_lab::tune::{self, Aim, Choice, Goal, Stage, TuneSettings};
use cachalot_lab::{LabError, Subject, Text, candidate};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Args)]
#[group(id = "aim", required = true, multiple = false, args = ["max_kl", "max_bytes"])]
pub struct TuneArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Text to measure on; half of its windows are held back for the end.
    #[arg(long, value_name = "PATH")]
    text: PathBuf,
    /// Find the smallest cache whose mean KL divergence is at most this, in nats.
    #[arg(long, value_name = "NATS")]
    max_kl: Option<f64>,
    /// Find the best quality within so many bytes, as in 512MiB.
    #[arg(long, value_parser = size::parse, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Tokens of the sequence whose bytes count; the model's context if absent.
    #[arg(long, value_name = "TOKENS")]
    at: Option<usize>,
    /// Most that the score of a task may fall, as in needle=1%; may be given several times.
    #[arg(long, value_name = "TASK=SHARE")]
    max_loss: Vec<String>,
    /// Greatest ratio of perplexities, as in 1.01.
    #[arg(long, value_name = "RATIO")]
    max_perplexity: Option<f64>,
    /// Tokens of windows and prompts.
    #[arg(long, default_value_t = 1024)]
    depth: usize,
    /// Windows that the search sees; as many are held back.
    #[arg(long, default_value_t = 4)]
    windows: usize,
    /// Questions of each task.
    #[arg(long, default_value_t = 20)]
    questions: usize,
    /// Tokens that the search may compute, all recipes together.
    #[arg(long, default_value_t = 400_000)]
    spend: u64,
    /// What has widths of its own.
    #[arg(long, value_enum, default_value_t = Units::Layer, value_name = "WHAT")]
    widths_by: Units,
    /// How the small changes that are tried are chosen of many.
    #[arg(long, value_enum, default_value_t = Search::Errors, value_name = "HOW")]
    search: Search,
    /// How tokens are chosen where not all stay.
    #[arg(long, default_value = "kvzip", value_name = "METHOD")]
    keep: String,
    /// Search by chance as well, at the same cost, and say how that compares.
    #[arg(long)]
    by_chance: bool,
    /// The full-precision cache.
    #[arg(long, default_value = "f16", value_name = "RECIPE")]
    reference: String,
    /// Calibration profiles of this model, for methods that need one.
    #[arg(long, value_delimiter = ',', value_name = "FILES", env = "CACHALOT_KV_PROFILE")]
    kv_profile: Vec<PathBuf>,
    /// Tokens of a step.
    #[arg(long, default_value_t = 512)]
    chunk: usize,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Most bytes of all caches together, as in 4GiB; half of the memory that is free if absent.
    #[arg(long, value_parser = size::parse, value_name = "BYTES")]
    kv_budget: Option<u64>,
    /// The recipe file to write; what was measured goes beside it.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

/// What has widths of its own.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Units {
    /// Whole layers.
    Layer,
    /// Single KV heads.
    Head,
}

/// How small changes are chosen.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Search {
    /// Those from which most is to be expected by what was measured so far (Bayesian).
    Expected,
    /// Those that the attention errors of layers or heads speak for (evolution).
    Errors,
}

pub fn tune(args: &TuneArgs) -> Result<(), Failure> {
    let aim = match (args.max_kl, args.max_bytes) {
        (Some(kl), _) => Aim::Smallest { kl },
        (None, Some(bytes)) => Aim::Best { bytes },
        (None, None) => return Err("give --max-kl or --max-bytes".into()),
    };
    let losses = args.max_loss.iter().map(|text| loss(text)).collect::<Result<Vec<_>, Failure>>()?;
    let profiles = describe::profiles(&args.kv_profile)?;
    let reference = candidate::resolve(&args.reference, &profiles)?;
    let text = Text::read(&args.text)?;
    let ready = load::load(&args.model)?;
    let subject = Subject::new(&ready.loaded, ready.team.clone());
    let settings = TuneSettings {
        reference,
        goal: Goal { aim, losses, perplexity: args.max_perplexity },
        tokens: args.depth,
        context: args.at.unwrap_or(subject.context()),
        windows: args.windows,
        questions: args.questions,
        spend: args.spend,
        heads: args.widths_by == Units::Head,
        choice: match args.search {
            Search::Expected => Choice::Expected,
            Search::Errors => Choice::Errors,
        },
        method: args.keep.clone(),
        profiles,
        chunk: args.chunk,
        seed: args.seed,
        kv_budget_bytes: load::budget_or_half(args.kv_budget),
        by_chance: args.by_chance,
    };
    let bar = describe::bar("looking at layers");
    let found = tune::tune(&subject, &text, &settings, &mut |stage| {
        let (what, done, total) = match stage {
            Stage::Sensitivity => ("looking at layers", 0, settings.spend),
            Stage::Search(done, total) => ("searching", done, total),
            Stage::Chance(done, total) => ("by chance", done, total),
            Stage::Verify(_) => ("holding against other text", settings.spend, settings.spend),
        };
        bar.set_message(what);
        bar.set_length(total);
        bar.set_position(done.min(total));
        Ok(())
    });
    bar.finish_and_clear();
    let found = found?;
    let write = |path: &std::path::Path, text: &str| -> Result<(), LabError> {
        std::fs::write(path, text).map_err(|source| LabError::Io { what: "write", path: path.into(), source })
    };
    write(&args.out, &found.recipe)?;
    let settings =
        json!({ "goal": found.evidence.goal, "depth": args.depth, "windows": args.windows, "spend": args.spend });
    let run = describe::run(&args.model, &ready, &text, settings);
    let evidence = args.out.with_extension("json");
    write(&evidence, &format!("{:#}\n", json!({ "run": run, "evidence": found.evidence })))?;
    println!("{}", found.recipe);
    println!("{}", found.evidence.chosen.setting.words());
    println!("Recipe in {}, what was measured in {}", args.out.display(), evidence.display());
    Ok(())
}

/// `needle=1%` or `needle=0.01`.
fn loss(text: &str) -> Result<(Arc<dyn Source>, f64), Failure> {
    let wrong = || -> Failure { format!("--max-loss {text}: give a task and a share, as in needle=1%").into() };
    let (task, share) = text.rsplit_once('=').ok_or_else(wrong)?;
    let share: f64 = match share.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map_err(|_| wrong())? / 100.0,
        None => share.trim().parse().map_err(|_| wrong())?,
    };
    if !(0.0..=1.0).contains(&share) {
        return Err(wrong());
    }
    match tasks::named(task)?.as_slice() {
        [source] => Ok((source.clone(), share)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_shares() {
        let of = |text: &str| loss(text).map(|(source, share)| (source.name().to_owned(), share));
        assert_eq!(of("needle=1%").unwrap(), ("needle".into(), 0.01));
        assert_eq!(of("copy=0.25").unwrap(), ("copy".into(), 0.25));
        for wrong in ["needle", "needle=x", "needle=-1%", "needle=2", "needles=1%"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
