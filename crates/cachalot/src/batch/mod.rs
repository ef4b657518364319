//! `cachalot batch`: many prompts of a file, in the order that shares most, with progress, and resumed where it stopped.

mod drive;
mod input;
mod journal;
mod result;

use crate::args::{KvArgs, ModelArgs};
use crate::load::{self, Ready};
use crate::{Failure, lab};
use cachalot_engine::batching::{Plan, Wanted};
use cachalot_engine::{ErrorKind, Request, Usage};
use cachalot_kv::profile::hex;
use cachalot_model::template::ChatTemplate;
use cachalot_server::{Backend, EngineBackend, ServerConfig, refusal, to_engine};
use clap::Args;
use input::{Line, Reader};
use journal::Journal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// Tokens that an answer is expected to have whose line does not limit it: for the order and the time left only.
const EXPECTED: usize = 256;

#[derive(Args)]
pub struct BatchArgs {
    /// One request a line: as in OpenAI's batch files, or {"prompt": ".."} or {"messages": [..]}, with "id" and the fields of
    /// the HTTP API such as max_tokens, temperature, seed and kv if wanted.
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// Where answers go, one line each. If the command was interrupted, the same command goes on.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    kv: KvArgs,
    /// Most tokens of an answer whose line does not say; 256 for a simple prompt, to the end of the turn for a chat.
    #[arg(short = 'n', long)]
    max_tokens: Option<usize>,
    /// Most sequences computed together.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    max_batch: u16,
    /// Compute in the order of the file, to measure what the plan gives. The answers are the same.
    #[arg(long)]
    in_order: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

pub fn batch(args: BatchArgs) -> Result<(), Failure> {
    let name = args.input.display();
    let bytes = std::fs::read(&args.input).map_err(|e| format!("cannot read {name}: {e}"))?;
    let ready = load::load(&args.model)?;
    let max_batch = usize::from(args.max_batch);
    let engine = load::engine(&ready, &args.kv, max_batch, 2 * max_batch)?;
    let config = ServerConfig { kv_recipe: args.kv.kv.to_string(), ..ServerConfig::default() };
    let backend = EngineBackend::new(&config, engine.handle(), ready.loaded.clone());
    let reader = Reader::new(&backend, args.max_tokens);
    let lines = reader.lines(&bytes);
    if lines.is_empty() {
        return Err(format!("{name} has no requests").into());
    }
    let header = json!({ "input": blake3::hash(&bytes).to_hex().as_str(), "settings": settings(&args, &ready)? });
    let mut journal = Journal::open(&args.out, &header)?;
    let there = lines.iter().filter(|line| journal.has(line.number)).count();
    warn(&lines, &ready.loaded.name, |line| journal.has(line.number));

    let mut summary = Summary { prompts: lines.len(), there, ..Summary::default() };
    let mut open: Vec<&Line> = Vec::new();
    for line in lines.iter().filter(|line| !journal.has(line.number)).collect::<Vec<_>>() {
        match &line.asked {
            Ok(_) => open.push(line),
            Err(error) => {
                summary.refused += 1;
                journal.put(line.number, &result::refused(line, error))?;
            }
        }
    }
    let (order, jobs) = plan(&open, &args, &backend, &mut summary);
    let begun = Instant::now();
    let bar = lab::describe::bar("answering");
    let weight = |line: &Line| line.asked.as_ref().map_or(0, |asked| (asked.prompt.len() + expected(line)) as u64);
    bar.set_length(open.iter().map(|line| weight(line)).sum());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let done = |job: usize, outcome: drive::Outcome| {
        let line = open[order[job]];
        bar.inc(weight(line));
        let written = match outcome {
            Ok(answer) => {
                summary.add(&answer.usage);
                result::answered(line, &ready.loaded.name, &answer)
            }
            Err(error) if matches!(error.kind(), ErrorKind::Request | ErrorKind::TooLarge) => {
                summary.refused += 1;
                let error = refusal(&error, "prompt").into();
                bar.suspend(|| eprintln!("warning: {}", input::words(line, &error)));
                result::refused(line, &error)
            }
            // Not the line's fault: the same command tries again.
            Err(error) => {
                summary.failed += 1;
                return bar.suspend(|| {
                    eprintln!("warning: line {}: {error}", line.number);
                    Ok(())
                });
            }
        };
        journal.put(line.number, &written)
    };
    let outcome = runtime.block_on(drive::drive(&engine.handle(), jobs, 2 * max_batch, done));
    bar.finish_and_clear();
    outcome?;
    summary.seconds = begun.elapsed().as_secs_f64();
    if summary.failed > 0 {
        let (failed, out) = (summary.failed, args.out.display());
        return Err(
            format!("{failed} prompts could not be answered; {out} has the others, run the command again").into()
        );
    }
    journal.finish()?;
    if args.json {
        println!("{:#}", summary.json())
    } else {
        println!("{}", summary.text())
    }
    Ok(())
}

/// Which of the open lines come in which order, and what the engine is asked for.
fn plan(
    open: &[&Line],
    args: &BatchArgs,
    backend: &EngineBackend,
    summary: &mut Summary,
) -> (Vec<usize>, Vec<Request>) {
    let asked: Vec<_> = open.iter().filter_map(|line| Some((line, line.asked.as_ref().ok()?))).collect();
    let wanted: Vec<Wanted<'_>> =
        asked.iter().map(|(line, asked)| Wanted { prompt: &asked.prompt, answer: expected(line) }).collect();
    let plan = Plan::of(&wanted);
    (summary.groups, summary.shared) = (plan.groups.len(), plan.saved());
    let order: Vec<usize> = if args.in_order { (0..asked.len()).collect() } else { plan.order().collect() };
    let defaults = &backend.info().defaults;
    let request = |&i: &usize| {
        let asked = asked[i].1;
        Request { starts_text: asked.chat, ..to_engine(&asked.common, asked.prompt.clone(), defaults) }
    };
    let jobs = order.iter().map(request).collect();
    (order, jobs)
}

fn expected(line: &Line) -> usize {
    line.asked
        .as_ref()
        .map_or(0, |asked| asked.common.n * asked.common.max_tokens.unwrap_or(EXPECTED).min(EXPECTED * 8))
}

/// All that answers depend on beside the input.
fn settings(args: &BatchArgs, ready: &Ready) -> Result<Value, Failure> {
    let digest = |path: &PathBuf| -> Result<String, Failure> {
        let bytes = std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        Ok(blake3::hash(&bytes).to_hex().to_string())
    };
    let profiles = args.kv.kv_profile.iter().map(digest).collect::<Result<Vec<_>, _>>()?;
    let template = ready.loaded.template.as_ref().map_or("", ChatTemplate::source);
    Ok(json!({
        "model": hex(&ready.loaded.digest),
        "chat template": blake3::hash(template.as_bytes()).to_hex().as_str(),
        "--exact-weights": args.model.exact_weights,
        "--kv": args.kv.kv.to_string(),
        "--kv-profile": profiles,
        "--context": args.kv.context,
        "--max-tokens": args.max_tokens,
    }))
}

/// Lines that are not answered, or not by the model they name.
fn warn(lines: &[Line], model: &str, is_there: impl Fn(&Line) -> bool) {
    let refused = lines.iter().filter(|line| !is_there(line));
    let refused: Vec<String> =
        refused.filter_map(|line| line.asked.as_ref().err().map(|error| input::words(line, error))).collect();
    lab::describe::warn(&refused);
    let mut others: BTreeMap<&str, usize> = BTreeMap::new();
    for named in lines.iter().filter_map(|line| line.asked.as_ref().ok()?.common.model.as_deref()) {
        *others.entry(named).or_default() += usize::from(named != model);
    }
    for (named, count) in others.into_iter().filter(|(_, count)| *count > 0) {
        eprintln!("warning: {count} lines ask for the model `{named}`; {model} answers them");
    }
}

/// What a run came to.
#[derive(Default)]
struct Summary {
    prompts: usize,
    /// Answered by an earlier run.
    there: usize,
    refused: usize,
    failed: usize,
    answered: usize,
    groups: usize,
    /// Tokens that the plan shares.
    shared: usize,
    read: usize,
    cached: usize,
    generated: usize,
    seconds: f64,
}

impl Summary {
    fn add(&mut self, usage: &Usage) {
        self.answered += 1;
        self.read += usage.prompt_tokens;
        self.cached += usage.cached_tokens;
        self.generated += usage.completion_tokens;
    }

    fn speed(&self, tokens: usize) -> f64 {
        tokens as f64 / self.seconds.max(1e-9)
    }

    fn text(&self) -> String {
        let Summary { prompts, there, refused, answered, groups, shared, read, cached, generated, seconds, .. } = self;
        format!(
            "{prompts} prompts: {answered} answered, {refused} refused, {there} were there\n\
             {read} prompt tokens in {groups} groups: {shared} shared by the plan, {cached} found in the cache\n\
             {generated} tokens generated in {seconds:.1} s: {:.1} tok/s, {:.1} with the prompts'",
            self.speed(*generated),
            self.speed(generated + read),
        )
    }

    fn json(&self) -> Value {
        json!({
            "prompts": self.prompts,
            "answered": self.answered,
            "refused": self.refused,
            "were_there": self.there,
            "groups": self.groups,
            "prompt_tokens": self.read,
            "shared_tokens": self.shared,
            "cached_tokens": self.cached,
            "completion_tokens": self.generated,
            "seconds": self.seconds,
            "completion_tokens_per_second": self.speed(self.generated),
            "tokens_per_second": self.speed(self.generated + self.read),
        })
    }
}
