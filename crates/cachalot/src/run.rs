//! `cachalot run`: one prompt, one answer.

use crate::args::{KvArgs, ModelArgs, SamplingArgs};
use crate::load::{self, Ready};
use crate::{Failure, chat};
use cachalot_engine::{EngineHandle, Event, FinishReason, Request, Usage};
use cachalot_model::template::{ChatTemplate, Message};
use cachalot_model::tokenizer::Specials;
use clap::Args;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

/// Tokens of an answer to a plain prompt, which has no turn that ends.
const DEFAULT_TOKENS: usize = 256;

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt. Without it: standard input if that is no terminal, else a chat.
    #[arg(short, long, conflicts_with = "file")]
    prompt: Option<String>,
    /// Read the prompt from a file.
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Most tokens to generate; 256 for a plain prompt, to the end of the turn for a chat.
    #[arg(short = 'n', long)]
    max_tokens: Option<usize>,
    /// Put the prompt into the model's chat template, as the user's turn.
    #[arg(long)]
    chat: bool,
    /// The system's turn of a chat.
    #[arg(long)]
    system: Option<String>,
    /// A text that ends the answer; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on after the token that ends a turn.
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    kv: KvArgs,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Print no timings.
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(args: RunArgs) -> Result<(), Failure> {
    let prompt = prompt(&args)?;
    let ready = load::load(&args.model)?;
    let engine = load::engine(&ready, &args.kv, 1, 1)?;
    let handle = engine.handle();
    let request = Request {
        sampling: args.sampling.over(&ready.loaded.generation),
        beam: args.sampling.beam(),
        max_tokens: args.max_tokens,
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
        ..Request::default()
    };
    let Some(prompt) = prompt else {
        return chat::chat(&ready, &handle, request, args.system.as_deref(), args.quiet);
    };
    let ids = encode(&ready, &args, &prompt)?;
    let max_tokens = args.max_tokens.or((!args.chat).then_some(DEFAULT_TOKENS));
    let request = Request { prompt: ids.clone(), max_tokens, starts_text: args.chat, ..request };
    let mut out = std::io::stdout().lock();
    let answer = answer(&handle, request, |text| {
        if args.json {
            return Ok(());
        }
        out.write_all(text.as_bytes())?;
        out.flush()
    })?;
    if args.json {
        let report = serde_json::json!({
            "model": ready.loaded.name,
            "text": answer.text,
            "finish_reason": answer.reason,
            "usage": answer.usage,
            "kv": { "recipe": args.kv.kv.to_string(), "budget_bytes": handle.stats().kv_budget_bytes },
            "isa": ready.isa.name(),
            "threads": ready.team.threads(),
            "prompt_token_ids": ids,
            "token_ids": answer.ids,
        });
        writeln!(out, "{report:#}")?;
        return Ok(());
    }
    if !answer.text.ends_with('\n') {
        writeln!(out)?;
    }
    if !args.quiet {
        eprintln!("{}", timings(&answer.usage));
    }
    Ok(())
}

/// The prompt's text; `None` asks for a chat.
fn prompt(args: &RunArgs) -> Result<Option<String>, Failure> {
    if let Some(prompt) = &args.prompt {
        return Ok(Some(prompt.clone()));
    }
    let (what, bytes) = match &args.file {
        Some(path) => {
            let name = path.display().to_string();
            (name.clone(), std::fs::read(path).map_err(|e| format!("cannot read {name}: {e}"))?)
        }
        None if std::io::stdin().is_terminal() => return Ok(None),
        None => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes)?;
            ("standard input".to_owned(), bytes)
        }
    };
    let text = String::from_utf8(bytes).map_err(|e| {
        format!("{what} is not UTF-8: byte {} is wrong; convert it first", e.utf8_error().valid_up_to())
    })?;
    Ok(Some(text))
}

fn encode(ready: &Ready, args: &RunArgs, prompt: &str) -> Result<Vec<u32>, Failure> {
    let tokenizer = &ready.loaded.tokenizer;
    if args.chat || args.system.is_some() {
        let template = ChatTemplate::require(ready.loaded.template.as_ref())?;
        let system = args.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.chain([Message::new("user", prompt)]).collect();
        return Ok(template.encode(tokenizer, &messages, true, None, None)?);
    }
    // A plain prompt is its author's own: control tokens spelled in it are honoured, as in llama.cpp.
    let mut ids = tokenizer.encode(prompt, Specials::Parse)?;
    if tokenizer.add_bos() && ids.first().copied() != tokenizer.bos() {
        ids.splice(..0, tokenizer.bos());
    }
    Ok(ids)
}

/// A finished answer.
pub struct Answer {
    pub text: String,
    pub ids: Vec<u32>,
    pub reason: FinishReason,
    pub usage: Usage,
}

/// Submits a request and hands its text to `show` as it comes; progress of a long prompt goes to a bar.
pub fn answer(
    handle: &EngineHandle,
    request: Request,
    mut show: impl FnMut(&str) -> std::io::Result<()>,
) -> Result<Answer, Failure> {
    let mut generation = handle.submit(request)?;
    let bar = load::bar("reading");
    let (mut text, mut ids) = (String::new(), Vec::new());
    let mut reason = FinishReason::Stop;
    let mut failed = None;
    while let Some(event) = generation.next_blocking() {
        match event {
            Event::PromptProgress { done, total } => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            }
            Event::Token { text: piece, id, .. } => {
                bar.finish_and_clear();
                show(&piece)?;
                text.push_str(&piece);
                ids.push(id);
            }
            Event::Finished { reason: why, .. } => reason = why,
            Event::Report { .. } => {}
            Event::Done(usage) => {
                bar.finish_and_clear();
                return match failed {
                    None => Ok(Answer { text, ids, reason, usage }),
                    Some(error) => Err(error),
                };
            }
            Event::Error(error) => failed = Some(Failure::from(error)),
        }
    }
    bar.finish_and_clear();
    Err(failed.unwrap_or_else(|| "the engine stopped before the answer was complete".into()))
}

/// A line about how long it took.
pub fn timings(usage: &Usage) -> String {
    let t = &usage.timings;
    let prompt = t.prompt_ms.map_or(String::new(), |ms| {
        format!(" in {ms:.0} ms ({:.0} tok/s)", usage.prompt_tokens as f64 / (ms / 1e3).max(1e-9))
    });
    let decode = t.decode_tokens_per_second.map_or(String::new(), |speed| format!(" ({speed:.1} tok/s)"));
    format!("[prompt {} tokens{prompt}, answer {} tokens{decode}]", usage.prompt_tokens, usage.completion_tokens)
}
