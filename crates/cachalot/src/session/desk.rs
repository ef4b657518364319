//! An engine with sessions, for one command.

use super::TENANT;
use super::folder::{FolderArgs, now};
use crate::args::{KvArgs, ModelArgs};
use crate::load::{self, Ready};
use crate::run::{self, Answer};
use crate::{Failure, size};
use cachalot_engine::blend::Wish;
use cachalot_engine::session::{
    Guard, Restored, Session, SessionConfig, SessionError, SessionName, Sessions, Turn, encode, ends, splice,
};
use cachalot_engine::{Engine, Request};
use cachalot_kv::Recipe;
use cachalot_model::template::{ChatTemplate, Message};
use cachalot_model::tokenizer::Tokenizer;
use clap::Args;
use std::path::PathBuf;

/// The key-value cache. Without `--kv` a session has the recipe that it was saved with.
#[derive(Args, Clone)]
pub struct SessionKvArgs {
    /// How keys and values are kept, as for `cachalot run`; the session's own recipe if absent, f16 for a new session.
    #[arg(long, value_name = "RECIPE", value_parser = crate::args::recipe)]
    pub kv: Option<Recipe>,
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

/// What an engine with sessions is made of.
#[derive(Args, Clone)]
pub struct DeskArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub kv: SessionKvArgs,
    #[command(flatten)]
    pub folder: FolderArgs,
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
    pub fn open(args: &DeskArgs, name: &SessionName) -> Result<Desk, Failure> {
        let shelf = args.folder.shelf()?;
        let there = match shelf.read(TENANT, name) {
            Ok(kept) => Some(kept.session.recipe),
            Err(SessionError::Unknown { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let kv = args.kv.over(there.as_deref())?;
        let ready = load::load(&args.model)?;
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
        let spliced = splice(&session.tokens, &rendered, |id| bytes_of(tokenizer, id));
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
        let wish = Wish { edit: session.edit, ..request.wish };
        let answer = run::answer(self.sessions.handle(), Request { prompt, wish, ..request }, show)?;
        let from = session.turns.last().map_or(0, |turn| turn.tokens.end);
        session.tokens.extend(&answer.ids);
        session.turns.push(Turn::of(&Message::new("assistant", &answer.text), from..session.tokens.len()));
        session.used = now();
        Ok(answer)
    }
}

/// What a token spells.
pub(super) fn bytes_of(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    if tokenizer.is_control(id) { Vec::new() } else { tokenizer.token_bytes(id).into_owned() }
}

/// What files say of the model.
pub fn session_config(ready: &Ready) -> SessionConfig {
    let name = ready.loaded.name.clone();
    SessionConfig { tokenizer: name.clone(), model: name, pin_share: 0.5 }
}
