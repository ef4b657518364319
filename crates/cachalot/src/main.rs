//! `cachalot`: LLM inference whose heart is the key-value cache.

mod args;
mod batch;
mod bench;
mod calibrate;
mod chat;
mod embedded;
mod forget;
mod info;
mod kv;
mod lab;
mod load;
mod run;
mod serve;
mod session;
mod size;
mod tiers;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cachalot", version, about, arg_required_else_help = true)]
#[command(after_help = "Without -m, the embedded model calf answers: small, offline, and no judge of quality.\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer a prompt, or chat where no prompt is given.
    Run(run::RunArgs),
    /// Answer all prompts of a file, those that begin alike after each other.
    Batch(batch::BatchArgs),
    /// Chat in the terminal, and go on another day.
    Chat(session::ChatArgs),
    /// Save, load, list, show, fork, rewind and remove named sessions.
    Session(session::SessionCommand),
    /// Serve the OpenAI-compatible HTTP API.
    Serve(Box<serve::ServeArgs>),
    /// Measure prefill and decode speed at several depths, memory, and bytes moved.
    Bench(bench::BenchArgs),
    /// Show a model's architecture, what its KV cache costs, and how much context fits into this machine.
    Info(info::InfoArgs),
    /// List the recipes for the key-value cache, show what each does and costs; forget what a server kept for somebody.
    Kv(kv::KvCommand),
    /// Make the profile that some recipes need, from a text that the model reads.
    Calibrate(calibrate::CalibrateArgs),
    /// Measure what KV recipes cost in answers, memory and speed, on your own model and text.
    Lab(lab::LabArgs),
}

/// What ends a command early: a message for a person.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("CACHALOT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,cachalot=info,cachalot_server=info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Batch(args) => batch::batch(args),
        Command::Chat(args) => session::chat(args),
        Command::Session(args) => session::session(args),
        Command::Serve(args) => serve::serve(*args),
        Command::Bench(args) => bench::bench(args),
        Command::Info(args) => info::info(args),
        Command::Kv(args) => kv::kv(args),
        Command::Calibrate(args) => calibrate::calibrate(args),
        Command::Lab(args) => lab::lab(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has had enough (`cachalot run ... | head`): not a failure.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
