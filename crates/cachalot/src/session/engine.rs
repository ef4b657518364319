//! `save` and `load`: what needs a model.

use super::TENANT;
use super::desk::{Desk, DeskArgs};
use super::folder::now;
use crate::run::Answer;
use crate::{Failure, size};
use cachalot_engine::session::{Restored, Session, SessionError, SessionName};
use cachalot_engine::{Request, Sampling};
use cachalot_model::template::Message;
use cachalot_model::tokenizer::Specials;
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args)]
pub struct SaveArgs {
    /// Its name: letters, digits and -_.:@, at most 100.
    name: SessionName,
    #[command(flatten)]
    desk: DeskArgs,
    #[command(flatten)]
    what: What,
    /// Replace a session of this name.
    #[arg(long)]
    replace: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// The text of a file, as a plain prompt.
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// A conversation: a JSON array of messages with `role` and `content`.
    #[arg(long, value_name = "PATH")]
    messages: Option<PathBuf>,
}

#[derive(Args)]
pub struct LoadArgs {
    /// The session.
    name: SessionName,
    #[command(flatten)]
    desk: DeskArgs,
    /// Go on with this: the user's next turn of a conversation, or more text of a plain prompt.
    #[arg(short, long)]
    prompt: Option<String>,
    /// Tokens of the answer to --prompt; the most likely ones are taken.
    #[arg(short = 'n', long, default_value_t = 16)]
    max_tokens: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn save(args: SaveArgs) -> Result<(), Failure> {
    if !args.replace && args.desk.folder.shelf()?.has(TENANT, &args.name) {
        return Err(SessionError::Exists { name: args.name.to_string() }.into());
    }
    let desk = Desk::open_new(&args)?;
    let mut session = match (&args.what.file, &args.what.messages) {
        (Some(path), _) => plain(&desk, &read(path)?)?,
        (None, Some(path)) => {
            let messages: Vec<Message> = serde_json::from_str(&read(path)?)
                .map_err(|error| format!("{}: no array of messages: {error}", path.display()))?;
            let mut session = Session::default();
            desk.go_on(&mut session, &messages)?;
            session
        }
        (None, None) => return Err("give --file or --messages".into()),
    };
    (session.recipe, session.created, session.used) = (desk.recipe.clone(), now(), now());
    let begun = Instant::now();
    desk.wait(desk.sessions.compute(&session.tokens, &session.recipe, TENANT))?;
    let saved = desk.wait(desk.sessions.save(&desk.lock(&args.name), &session))?;
    let seconds = begun.elapsed().as_secs_f64();
    if args.json {
        let mut json = serde_json::to_value(saved)?;
        json["name"] = json!(args.name.as_str());
        json["recipe"] = json!(session.recipe);
        json["turns"] = json!(session.turns.len());
        json["seconds"] = json!(seconds);
        writeln!(std::io::stdout(), "{json:#}")?;
        return Ok(());
    }
    let (tokens, bytes) = (saved.tokens, size::show(saved.bytes));
    eprintln!("{}: {} of {tokens} tokens saved, {bytes}, in {seconds:.2} s", args.name, saved.saved_tokens);
    if saved.reduces {
        eprintln!("{} reduces its context: only what is exact before it does so is saved", session.recipe);
    }
    Ok(())
}

impl Desk {
    /// For a session that replaces another, whose recipe is no concern.
    fn open_new(args: &SaveArgs) -> Result<Desk, Failure> {
        let mut desk = args.desk.clone();
        desk.kv.kv.get_or_insert_default();
        Desk::open(&desk, &args.name).or_else(|error| match error.downcast_ref() {
            // A damaged session can be replaced.
            Some(SessionError::Damaged { .. }) => {
                desk.folder.shelf()?.remove(TENANT, &args.name)?;
                Desk::open(&desk, &args.name)
            }
            _ => Err(error),
        })
    }
}

fn plain(desk: &Desk, text: &str) -> Result<Session, Failure> {
    let tokenizer = &desk.ready.loaded.tokenizer;
    let mut tokens = tokenizer.encode(text, Specials::Parse)?;
    if tokenizer.add_bos() && tokens.first().copied() != tokenizer.bos() {
        tokens.splice(..0, tokenizer.bos());
    }
    let turns = Session::turns_of_text(text.to_owned(), tokens.len());
    Ok(Session { tokens, turns, ..Session::default() })
}

fn read(path: &PathBuf) -> Result<String, Failure> {
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let wrong = |error: std::string::FromUtf8Error| {
        format!("{} is not UTF-8: byte {} is wrong", path.display(), error.utf8_error().valid_up_to())
    };
    Ok(String::from_utf8(bytes).map_err(wrong)?)
}

pub fn load(args: LoadArgs) -> Result<(), Failure> {
    let desk = Desk::open(&args.desk, &args.name)?;
    let guard = desk.lock(&args.name);
    let begun = Instant::now();
    let (mut session, restored) = desk.load(&guard)?;
    let seconds = begun.elapsed().as_secs_f64();
    let answer = args.prompt.as_ref().map(|prompt| {
        let is_text = session.is_text();
        match is_text {
            true => session.tokens.extend(desk.ready.loaded.tokenizer.encode(prompt, Specials::Parse)?),
            false => desk.go_on(&mut session, &[Message::new("user", prompt)])?,
        }
        let sampling = Sampling::greedy();
        let request =
            Request { sampling, max_tokens: Some(args.max_tokens), starts_text: !is_text, ..Request::default() };
        desk.answer(&mut session, request, |_| Ok(()))
    });
    let answer = answer.transpose()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut json = serde_json::to_value(&restored)?;
        json["name"] = json!(args.name.as_str());
        json["recipe"] = json!(session.recipe);
        json["seconds"] = json!(seconds);
        if let Some(Answer { text, ids, usage, .. }) = answer {
            json["answer"] = json!({"text": text, "token_ids": ids, "usage": usage});
        }
        writeln!(out, "{json:#}")?;
        return Ok(());
    }
    eprintln!("{}", say(args.name.as_str(), &restored, seconds));
    if let Some(answer) = answer {
        writeln!(out, "{}", answer.text)?;
        let (cached, prompt) = (answer.usage.cached_tokens, answer.usage.prompt_tokens);
        eprintln!("{cached} of the prompt's {prompt} tokens were not computed again");
    }
    Ok(())
}

/// A line about what was restored, and one for whatever was wrong.
pub fn say(name: &str, restored: &Restored, seconds: f64) -> String {
    let Restored { tokens, restored_tokens, recompute_tokens, .. } = restored;
    let line = format!("{name}: {restored_tokens} of {tokens} tokens restored in {seconds:.2} s, ");
    let line = line + &format!("{recompute_tokens} to be computed again");
    restored.notes.iter().fold(line, |line, note| line + "\n  " + note)
}
