//! `cachalot session`: named sessions that survive the program, and `cachalot chat`, which goes on with one.

mod chat;
mod desk;
mod edit;
mod engine;
mod files;
mod folder;

pub use chat::{ChatArgs, chat};
pub use desk::session_config;
pub use folder::now;

use crate::Failure;
use clap::{Args, Subcommand};

/// Sessions of one person at one machine need nobody to be told apart.
const TENANT: &str = "";

#[derive(Args)]
pub struct SessionCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compute a prompt or a conversation and save it under a name.
    Save(engine::SaveArgs),
    /// Restore a session into an engine, check all of it, and say what would be computed again.
    Load(engine::LoadArgs),
    /// List the sessions there are.
    List(files::ListArgs),
    /// Show a session's conversation.
    Show(files::ShowArgs),
    /// Remove a session.
    Rm(files::RmArgs),
    /// Make a second session of the first turns of another.
    Fork(files::ForkArgs),
    /// Take a session back to its first turns.
    Rewind(files::RewindArgs),
    /// Replace a text in the middle of a session; what follows is moved, and what deviates computed again.
    Edit(edit::EditArgs),
}

pub fn session(command: SessionCommand) -> Result<(), Failure> {
    match command.command {
        Command::Save(args) => engine::save(args),
        Command::Load(args) => engine::load(args),
        Command::List(args) => files::list(args),
        Command::Show(args) => files::show(args),
        Command::Rm(args) => files::rm(args),
        Command::Fork(args) => files::fork(args),
        Command::Rewind(args) => files::rewind(args),
        Command::Edit(args) => edit::edit(args),
    }
}
