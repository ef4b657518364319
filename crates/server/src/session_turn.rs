//! A chat that goes on with a session: its prompt begins with the session's tokens, and its answer becomes a turn.

use std::sync::Arc;

use cachalot_engine::session::{Guard, Restored, Session, SessionError, Turn, splice};
use cachalot_model::template::Message;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::answer::{ChatShape, Header};
use crate::auth::Tenant;
use crate::engine_backend::message;
use crate::error::ApiError;
use crate::generate::{Clock, Run, engine_request, prepare};
use crate::request::{ChatRequest, Common, Conversation};
use crate::session::{SessionService, failure, lock, name, service};
use crate::state::AppState;

/// An answer on its way into a session. Dropped before its end, it leaves the session as it was.
pub(crate) struct SessionTurn {
    service: Arc<SessionService>,
    guard: Guard,
    /// With the turns of the prompt, and its tokens.
    session: Session,
    text: String,
    said: Value,
}

impl SessionTurn {
    /// A token of the answer.
    pub fn token(&mut self, id: u32, text: &str) {
        self.session.tokens.push(id);
        self.text += text;
    }

    /// The answer is complete: it becomes a turn, and the session is saved in the background. What the answer says of it.
    pub fn finish(self) -> Value {
        let SessionTurn { service, guard, mut session, text, mut said } = self;
        let from = session.turns.last().map_or(0, |turn| turn.tokens.end);
        let answer = Message::new("assistant", text);
        session.turns.push(Turn::of(&answer, from..session.tokens.len()));
        session.used = crate::ids::unix_seconds();
        said["turns"] = json!(session.turns.len());
        said["saved"] = json!("in the background");
        service.save_later(guard, session);
        said
    }
}

/// Begins the answer to a request with `kv.session`. Waits for its turn: a session is gone on with by one request at a time,
/// and the next waits until the answer before it is saved.
///
/// # Errors
/// Of the request, of the session, or of the engine.
pub(crate) async fn begin(
    state: &AppState,
    clock: Clock,
    tenant: Tenant,
    request: ChatRequest,
) -> Result<(Common, ChatShape, Run), ApiError> {
    let (service, guard) = take(state, clock, &tenant, &request.common).await?;
    prepare(state, clock, move |state| submit(state, clock, tenant, service, guard, request)).await
}

/// The session that a request wants to go on with, as soon as nobody else has it.
///
/// # Errors
/// 400 for what no session can do; 504 past the deadline.
pub(crate) async fn take(
    state: &AppState,
    clock: Clock,
    tenant: &Tenant,
    common: &Common,
) -> Result<(Arc<SessionService>, Guard), ApiError> {
    let service = service(state, "kv.session")?;
    if common.n != 1 {
        return Err(ApiError::unsupported("n", "A session has one answer a turn; send n = 1, or fork the session."));
    }
    if !common.spans.is_empty() {
        let why = "Positions of the prompt are not known before the session is; leave 'kv.spans' out.";
        return Err(ApiError::unsupported("kv.spans", why));
    }
    if !common.chunks.is_empty() {
        let why = "Positions of the prompt are not known before the session is; leave 'kv.chunks' out.";
        return Err(ApiError::unsupported("kv.chunks", why));
    }
    let called = name("kv.session", common.session.as_deref().unwrap_or_default())?;
    let guard = lock(&service, clock, &tenant.0, &called).await?;
    Ok((service, guard))
}

/// A session, in memory, with the turns of a request; its tokens are the request's prompt.
pub(crate) struct Opened {
    pub session: Session,
    /// What the answer says of it.
    pub said: Value,
}

/// Brings a session into memory and adds what a request says. One that is not there begins. Blocks, and may only be called where
/// that is allowed.
///
/// # Errors
/// Of the session, or of the template.
pub(crate) fn open(
    state: &AppState,
    service: &SessionService,
    guard: &Guard,
    common: &Common,
    chat: Conversation,
) -> Result<Opened, ApiError> {
    let now = crate::ids::unix_seconds();
    let called = common.session.clone().unwrap_or_default();
    let loaded = Handle::current().block_on(service.sessions.load(guard, common.recipe.as_deref(), now));
    let (mut session, restored, created) = match loaded {
        Ok((session, restored)) => (session, restored, false),
        Err(SessionError::Unknown { .. }) => {
            let recipe = common.recipe.clone().unwrap_or_else(|| state.backend.info().kv_recipe.clone());
            let session = Session { name: called.clone(), recipe, created: now, ..Session::default() };
            (session, Restored::default(), true)
        }
        Err(error) => return Err(failure(error)),
    };
    if session.is_text() {
        let what = "is a prompt and no conversation: it can be loaded, but not chatted with".to_owned();
        return Err(failure(SessionError::Unsuited { name: called, what }));
    }
    let sent: Vec<Message> = chat.messages.iter().map(message).collect();
    let before = session.messages();
    // Who sends the whole conversation means the whole conversation.
    let messages = if sent.starts_with(&before) { sent } else { [&before[..], &sent].concat() };
    session.tools = chat.tools.or(session.tools);
    session.arguments = chat.arguments.or(session.arguments);
    let rendered = service.encode(&session, &messages)?;
    let spliced = splice(&session.tokens, &rendered, |id| service.bytes(id));
    let known: Vec<usize> = session.turns.iter().map(|turn| turn.tokens.end).collect();
    let known: Vec<usize> = known.into_iter().take_while(|&end| end <= spliced.kept).collect();
    let ends = service.ends(&session, &messages, &spliced.tokens, &known)?;
    session.turns = Session::turns_of(&messages, &ends);
    session.tokens = spliced.tokens;
    let said = json!({
        "name": called,
        "created": created,
        "tokens": restored.tokens,
        "restored_tokens": restored.restored_tokens,
        "recompute_tokens": restored.recompute_tokens,
        "notes": restored.notes.len(),
    });
    restored.notes.iter().for_each(|note| tracing::warn!(note, "a session was not restored as a whole"));
    Ok(Opened { session, said })
}

fn submit(
    state: &AppState,
    clock: Clock,
    tenant: Tenant,
    service: Arc<SessionService>,
    guard: Guard,
    request: ChatRequest,
) -> Result<(Common, ChatShape, Run), ApiError> {
    let ChatRequest { common, chat, logprobs } = request;
    let Opened { session, said } = open(state, &service, &guard, &common, chat)?;
    let mut asked = engine_request(state, clock, &common, logprobs, session.tokens.clone(), "messages")?;
    (asked.starts_text, asked.tenant, asked.kv) = (true, tenant.0, Some(session.recipe.clone()));
    asked.wish.edit = session.edit;
    let header = Header::new(state, "chatcmpl", 1);
    let mut run = Run::submit(state, vec![asked], clock, "messages")?;
    run.follow(SessionTurn { service, guard, session, text: String::new(), said });
    Ok((common, ChatShape { header, logprobs: logprobs.is_some() }, run))
}
