//! What needs files only: list, show, rm, fork, rewind.

use super::TENANT;
use super::folder::{FolderArgs, now};
use crate::{Failure, size};
use cachalot_engine::session::{Listed, Session, SessionName};
use clap::Args;
use serde_json::{Value, json};
use std::io::Write;

#[derive(Args)]
pub struct ListArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct ShowArgs {
    /// The session.
    name: SessionName,
    #[command(flatten)]
    folder: FolderArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct RmArgs {
    /// The session.
    name: SessionName,
    #[command(flatten)]
    folder: FolderArgs,
}

#[derive(Args)]
pub struct ForkArgs {
    /// The session that is there.
    of: SessionName,
    /// The one to be made.
    name: SessionName,
    /// Turns to take along, from the first; all if absent.
    #[arg(long)]
    turn: Option<usize>,
    #[command(flatten)]
    folder: FolderArgs,
}

#[derive(Args)]
pub struct RewindArgs {
    /// The session.
    name: SessionName,
    /// Turns that stay, from the first.
    turn: usize,
    #[command(flatten)]
    folder: FolderArgs,
}

pub fn list(args: ListArgs) -> Result<(), Failure> {
    let (sessions, damaged) = args.folder.shelf()?.list(TENANT)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let list: Vec<Value> = sessions.iter().map(|listed| document(listed, now())).collect();
        writeln!(out, "{:#}", Value::from(list))?;
    } else {
        writeln!(
            out,
            "{:24} {:>6} {:>8} {:>8} {:>10}  {:16} recipe",
            "name", "turns", "tokens", "saved", "size", "model"
        )?;
        for Listed { session, saved_tokens, bytes } in &sessions {
            let Session { name, model, recipe, tokens, turns, .. } = session;
            let (turns, tokens, bytes) = (turns.len(), tokens.len(), size::show(*bytes));
            writeln!(out, "{name:24} {turns:>6} {tokens:>8} {saved_tokens:>8} {bytes:>10}  {model:16} {recipe}")?;
        }
    }
    damaged.iter().for_each(|error| eprintln!("{error}"));
    Ok(())
}

pub fn show(args: ShowArgs) -> Result<(), Failure> {
    let kept = args.folder.shelf()?.read(TENANT, &args.name)?;
    let mut out = std::io::stdout().lock();
    let turns = &kept.session.turns;
    if args.json {
        let mut json = document(&kept.listed(), now());
        let turn = |turn: &cachalot_engine::session::Turn| {
            let range = [turn.tokens.start, turn.tokens.end];
            json!({"role": turn.role, "content": turn.text, "extra": turn.extra, "tokens": range})
        };
        json["messages"] = turns.iter().map(turn).collect();
        writeln!(out, "{json:#}")?;
        return Ok(());
    }
    for (i, turn) in turns.iter().enumerate() {
        let count = turn.tokens.len();
        writeln!(out, "--- turn {}, {}, {count} tokens", i + 1, turn.role)?;
        writeln!(out, "{}", turn.text.trim_end_matches('\n'))?;
    }
    Ok(())
}

pub fn rm(args: RmArgs) -> Result<(), Failure> {
    Ok(args.folder.shelf()?.remove(TENANT, &args.name)?)
}

pub fn fork(args: ForkArgs) -> Result<(), Failure> {
    let shelf = args.folder.shelf()?;
    shelf.fork(TENANT, &args.of, &args.name, args.turn, now())?;
    say(&shelf.read(TENANT, &args.name)?.listed());
    Ok(())
}

pub fn rewind(args: RewindArgs) -> Result<(), Failure> {
    let shelf = args.folder.shelf()?;
    shelf.rewind(TENANT, &args.name, args.turn, now())?;
    say(&shelf.read(TENANT, &args.name)?.listed());
    Ok(())
}

fn say(Listed { session, saved_tokens, .. }: &Listed) {
    let Session { name, turns, tokens, .. } = session;
    eprintln!("{name}: {} turns of {} tokens, {saved_tokens} of them saved", turns.len(), tokens.len());
}

fn document(listed: &Listed, now: u64) -> Value {
    let Session { name, model, recipe, tokens, turns, created, used, pinned_until, .. } = &listed.session;
    json!({
        "name": name, "model": model, "recipe": recipe, "turns": turns.len(), "tokens": tokens.len(),
        "saved_tokens": listed.saved_tokens, "bytes": listed.bytes, "created": created, "used": used,
        "pinned_until": pinned_until.filter(|&until| until > now),
    })
}
