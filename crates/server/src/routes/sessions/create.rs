//! `POST /v1/kv/sessions`: a new session, of messages, a prompt or another session.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use cachalot_engine::session::{Session, SessionError};
use cachalot_model::template::Message;
use serde_json::json;

use super::{Answer, document};
use crate::auth::Tenant;
use crate::body::read_json;
use crate::engine_backend::message;
use crate::error::ApiError;
use crate::generate::{Clock, prepare, refusal};
use crate::prompt;
use crate::request::{ChatRequest, CompletionRequest, Fields, Prompt, parse_json};
use crate::session::{SessionService, blocking, failure, lock, name, service};
use crate::state::AppState;

/// What a body of `POST /v1/kv/sessions` asks for.
enum Asked {
    Save { session: Box<Session>, replace: bool },
    Fork { name: String, of: String, turn: Option<usize> },
}

pub(crate) async fn create(State(state): State<AppState>, request: Request) -> Answer {
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request).0);
    let service = service(&state, "name")?;
    let body = read_json(&state, request).await?;
    let of_model = service.clone();
    let asked = prepare(&state, clock, move |state| parse(state, &of_model, &body)).await?;
    match asked {
        Asked::Save { session, replace } => save(&state, clock, service, tenant, *session, replace).await,
        Asked::Fork { name, of, turn } => fork(&state, clock, service, tenant, (name, of), turn).await,
    }
}

async fn save(
    state: &AppState,
    clock: Clock,
    service: Arc<SessionService>,
    tenant: String,
    mut session: Session,
    replace: bool,
) -> Answer {
    let called = name("name", &session.name)?;
    let guard = lock(&service, clock, &tenant, &called).await?;
    if !replace && service.sessions.shelf().has(&tenant, &called) {
        return Err(failure(SessionError::Exists { name: called.to_string() }));
    }
    let computed = service.sessions.compute(&session.tokens, &session.recipe, &tenant);
    let computed = tokio::time::timeout_at(clock.deadline, computed).await;
    let computed = computed.map_err(|_| ApiError::timeout(clock.limit))?;
    let usage = computed.map_err(|error| refusal(&error, "messages"))?;
    let now = crate::ids::unix_seconds();
    (session.created, session.used) = (now, now);
    blocking(state, clock, async move {
        let saved = service.sessions.save(&guard, &session).await.map_err(failure)?;
        Ok(Json(json!({
            "object": "kv.session", "name": session.name, "recipe": session.recipe, "turns": session.turns.len(),
            "tokens": saved.tokens, "saved_tokens": saved.saved_tokens, "bytes": saved.bytes,
            "recipe_reduces": saved.reduces, "cached_tokens": usage.cached_tokens,
        })))
    })
    .await
}

async fn fork(
    state: &AppState,
    clock: Clock,
    service: Arc<SessionService>,
    tenant: String,
    (to, of): (String, String),
    turn: Option<usize>,
) -> Answer {
    let (to, of) = (name("name", &to)?, name("fork_of", &of)?);
    // An answer that is being saved belongs to what is forked.
    drop(lock(&service, clock, &tenant, &of).await?);
    let guard = lock(&service, clock, &tenant, &to).await?;
    blocking(state, clock, async move {
        let _guard = guard;
        let shelf = service.sessions.shelf();
        shelf.fork(&tenant, &of, &to, turn, crate::ids::unix_seconds()).map_err(failure)?;
        let kept = shelf.read(&tenant, &to).map_err(failure)?;
        Ok(Json(document(&kept.listed())))
    })
    .await
}

fn parse(state: &AppState, service: &SessionService, body: &[u8]) -> Result<Asked, ApiError> {
    let value = parse_json(body)?;
    let fields = Fields::of(&value, "")?;
    fields.require("name")?;
    let called = fields.string("name")?.unwrap_or_default().to_owned();
    if let Some(of) = fields.string("fork_of")? {
        return Ok(Asked::Fork { name: called, of: of.to_owned(), turn: fields.count("turn", 0, u32::MAX)? });
    }
    name("name", &called)?;
    let replace = fields.boolean("replace")?.unwrap_or(false);
    let (common, mut session) = if fields.get("messages").is_some() {
        let ChatRequest { common, chat, .. } = prompt::chat(state, body)?;
        let messages: Vec<Message> = chat.messages.iter().map(message).collect();
        let mut session = Session { tools: chat.tools, arguments: chat.arguments, ..Session::default() };
        session.tokens = service.encode(&session, &messages)?;
        let ends = service.ends(&session, &messages, &session.tokens, &[])?;
        session.turns = Session::turns_of(&messages, &ends);
        (common, session)
    } else if fields.get("prompt").is_some() {
        let CompletionRequest { common, prompts, .. } = prompt::completion(state, body)?;
        (common, of_prompt(state, prompt::only(prompts, "A session has one prompt; send one.")?)?)
    } else {
        let what = "Send 'messages' or 'prompt' to save, or 'fork_of' to fork a session.";
        return Err(ApiError { message: what.to_owned(), ..ApiError::missing("messages") });
    };
    session.name = called;
    session.recipe = common.kv.unwrap_or_else(|| state.backend.info().kv_recipe.clone());
    Ok(Asked::Save { session: Box::new(session), replace })
}

fn of_prompt(state: &AppState, one: Prompt) -> Result<Session, ApiError> {
    let text = prompt::text_of(state, &one);
    let tokens = prompt::of_text(state, one, "The prompt")?;
    let turns = Session::turns_of_text(text, tokens.len());
    Ok(Session { turns, tokens, ..Session::default() })
}
