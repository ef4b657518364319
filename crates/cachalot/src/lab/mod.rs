//! `cachalot lab`: what a setting of the KV cache costs in answers, memory and speed.

pub(crate) mod describe;
mod quality;
mod report;
mod sweep;
mod tune;

use crate::Failure;
use clap::{Args, Subcommand};

#[derive(Args)]
pub struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Subcommand)]
enum LabCommand {
    /// Compare KV recipes with a full-precision cache on a text: divergence, perplexity, questions, bytes and speed.
    Quality(Box<quality::QualityArgs>),
    /// Measure recipes on many tasks at many lengths, in a folder that can be continued in, and make a report.
    Sweep(Box<sweep::SweepArgs>),
    /// Find a recipe: the smallest cache that is good enough, or the best within so many bytes.
    Tune(Box<tune::TuneArgs>),
    /// Make the report of a folder again.
    Report(report::ReportArgs),
}

pub fn lab(args: LabArgs) -> Result<(), Failure> {
    match args.command {
        LabCommand::Quality(args) => quality::quality(&args),
        LabCommand::Sweep(args) => sweep::sweep(&args),
        LabCommand::Tune(args) => tune::tune(&args),
        LabCommand::Report(args) => report::report(&args),
    }
}
