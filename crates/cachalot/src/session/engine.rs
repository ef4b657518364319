//! What needs a model: save and load, and what chats share with them.

use super::TENANT;
use super::folder::{FolderArgs, now};
use crate::args::{KvArgs, ModelArgs};
use crate::load::{self, Ready};
use crate::run::{self, Answer};
use crate::{Failure, size};
use cachalot_engine::session::{
    Guard, Restored, Session, SessionConfig, SessionError, SessionName, Sessions, Turn, encode, ends, splice,
};
use cachalot_engine::{Engine, Request, Sampling};
use cachalot_kv::Recipe;
use cachalot_model::template::{ChatTemplate, Message};
use cachalot_model::tokenizer::{Specials, Tokenizer};
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// The key-value cache. Without `--kv` a session has the recipe that it was saved with.
#[derive(Args, Clone)]
pub struct SessionKvArgs {
    /// How keys and values are kept, as for `cachalot run`; the session's own recipe if absent, f16 for a new session.
    #[arg(long, value_name = "RECIPE", value_parser = crate::args::recipe)]
    kv: Option<Recipe>,
    /// What `cachalot calibrate` made for this model, each file for the recipes it suits.
    #[arg(long, value_delimiter = ',', value_name = "FILES", env = "CACHALOT_KV_PROFILE")]
    kv_profile: Vec<PathBuf>,
    /// Most bytes of key-value cache, as in 4GiB; half of the memory that is free if absent.
    #[arg(long, value_parser = size::parse, value_name = "BYTES")]
    kv_budget: Option<u64>,
    /// Most tokens of prompt and answer together; what the model was made for if absent.
    #[arg(short, long, default_value_t = 0, hide_default_value = true)]
    context: usize,
}

impl SessionKvArgs {
    /// With the recipe of a session that is there, where none is asked for.
    fn over(&self, session: Option<&str>) -> Result<KvArgs, Failure> {
        let kv = match (&self.kv, session) {
            (Some(kv), _) => kv.clone(),
            (None, Some(recipe)) => crate::args::recipe(recipe)?,
            (None, None) => Recipe::default(),
        };
        let SessionKvArgs { kv_profile, kv_budget, context, .. } = self.clone();
        Ok(KvArgs { kv, kv_profile, kv_budget, context })
    }
}

#[derive(Args)]
pub struct SaveArgs {
    /// Its name: letters, digits and -_.:@, at most 100.
    name: SessionName,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    kv: SessionKvArgs,
    #[command(flatten)]
    folder: FolderArgs,
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
    model: ModelArgs,
    #[command(flatten)]
    kv: SessionKvArgs,
    #[command(flatten)]
    folder: FolderArgs,
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

/// An engine with sessions.
pub struct Desk {
    pub ready: Ready,
    pub sessions: Sessions,
    pub recipe: String,
    runtime: tokio::runtime::Runtime,
    _engine: Engine,
}

impl Desk {
    /// For a session by name, which need not be there.
    pub fn open(
        model: &ModelArgs,
        kv: &SessionKvArgs,
        folder: &FolderArgs,
        name: &SessionName,
    ) -> Result<Desk, Failure> {
        let shelf = folder.shelf()?;
        let there = match shelf.read(TENANT, name) {
            Ok(kept) => Some(kept.session.recipe),
            Err(SessionError::Unknown { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let kv = kv.over(there.as_deref())?;
        let ready = load::load(model)?;
        let engine = load::engine(&ready, &kv, 1, 1)?;
        let config = session_config(&ready);
        let sessions = Sessions::new(engine.handle(), shelf, config);
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(Desk { ready, sessions, recipe: kv.kv.to_string(), runtime, _engine: engine })
    }

    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub fn lock(&self, name: &SessionName) -> Guard {
        self.wait(self.sessions.lock(TENANT, name))
    }

    /// The session in memory, and what that took.
    pub fn load(&self, guard: &Guard) -> Result<(Session, Restored), SessionError> {
        self.wait(self.sessions.load(guard, Some(&self.recipe), now()))
    }

    /// Puts messages behind those of a session, whose tokens become the prompt of the answer to them.
    pub fn go_on(&self, session: &mut Session, more: &[Message]) -> Result<(), Failure> {
        let template = ChatTemplate::require(self.ready.loaded.template.as_ref())?;
        let tokenizer = &*self.ready.loaded.tokenizer;
        let messages = [&session.messages()[..], more].concat();
        let (tools, arguments) = (session.tools.as_ref(), session.arguments.as_ref());
        let rendered = encode(template, tokenizer, &messages, tools, arguments)?;
        let spliced = splice(&session.tokens, &rendered, |id| bytes(tokenizer, id));
        let known = session.turns.iter().map(|turn| turn.tokens.end).take_while(|&end| end <= spliced.kept);
        let known: Vec<usize> = known.collect();
        let places = ends(template, tokenizer, &messages, tools, arguments, &spliced.tokens, &known)?;
        session.turns = Session::turns_of(&messages, &places);
        session.tokens = spliced.tokens;
        Ok(())
    }

    /// Answers a prompt that is a session's tokens; the answer becomes its last turn.
    pub fn answer(
        &self,
        session: &mut Session,
        request: Request,
        show: impl FnMut(&str) -> std::io::Result<()>,
    ) -> Result<Answer, Failure> {
        let prompt = session.tokens.clone();
        let answer = run::answer(self.sessions.handle(), Request { prompt, ..request }, show)?;
        let from = session.turns.last().map_or(0, |turn| turn.tokens.end);
        session.tokens.extend(&answer.ids);
        session.turns.push(Turn::of(&Message::new("assistant", &answer.text), from..session.tokens.len()));
        session.used = now();
        Ok(answer)
    }
}

fn bytes(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    if tokenizer.is_control(id) { Vec::new() } else { tokenizer.token_bytes(id).into_owned() }
}

/// What files say of the model.
pub fn session_config(ready: &Ready) -> SessionConfig {
    let name = ready.loaded.name.clone();
    SessionConfig { tokenizer: name.clone(), model: name, pin_share: 0.5 }
}

pub fn save(args: SaveArgs) -> Result<(), Failure> {
    if !args.replace && args.folder.shelf()?.has(TENANT, &args.name) {
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
        let mut kv = args.kv.clone();
        kv.kv.get_or_insert_default();
        Desk::open(&args.model, &kv, &args.folder, &args.name).or_else(|error| match error.downcast_ref() {
            // A damaged session can be replaced.
            Some(SessionError::Damaged { .. }) => {
                args.folder.shelf()?.remove(TENANT, &args.name)?;
                Desk::open(&args.model, &kv, &args.folder, &args.name)
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
    let turns = vec![Turn::of(&Message::new("text", text), 0..tokens.len())];
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
    let desk = Desk::open(&args.model, &args.kv, &args.folder, &args.name)?;
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
