//! `/v1/kv/sessions`: named sessions of a tenant.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use cachalot_engine::session::{Listed, Session, Turn};
use cachalot_model::template::Message;
use serde_json::{Value, json};

use crate::auth::Tenant;
use crate::body::read_json;
use crate::engine_backend::message;
use crate::error::ApiError;
use crate::generate::{Clock, check_model, prepare, refusal};
use crate::request::{ChatRequest, CompletionRequest, Fields, Prompt, parse_json};
use crate::session::{SessionService, blocking, failure, name, service};
use crate::state::AppState;

type Answer = Result<Json<Value>, ApiError>;

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
        Asked::Save { session, replace } => save(clock, service, tenant, *session, replace).await,
        Asked::Fork { name, of, turn } => fork(clock, service, tenant, (name, of), turn).await,
    }
}

async fn save(
    clock: Clock,
    service: Arc<SessionService>,
    tenant: String,
    mut session: Session,
    replace: bool,
) -> Answer {
    let called = name("name", &session.name)?;
    blocking(clock, async move {
        let guard = service.sessions.lock(&tenant, &called).await;
        if !replace && service.sessions.shelf().has(&tenant, &called) {
            return Err(failure(cachalot_engine::session::SessionError::Exists { name: called.to_string() }));
        }
        let now = crate::ids::unix_seconds();
        (session.created, session.used) = (now, now);
        let computed = service.sessions.compute(&session.tokens, &session.recipe, &tenant).await;
        let usage = computed.map_err(|error| refusal(&error, "messages"))?;
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
    clock: Clock,
    service: Arc<SessionService>,
    tenant: String,
    (to, of): (String, String),
    turn: Option<usize>,
) -> Answer {
    let (to, of) = (name("name", &to)?, name("fork_of", &of)?);
    blocking(clock, async move {
        // An answer that is being saved belongs to what is forked.
        drop(service.sessions.lock(&tenant, &of).await);
        let _guard = service.sessions.lock(&tenant, &to).await;
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
        let ChatRequest { common, chat, .. } = ChatRequest::parse(body, &state.limits)?;
        let messages: Vec<Message> = chat.messages.iter().map(message).collect();
        let mut session = Session { tools: chat.tools, arguments: chat.arguments, ..Session::default() };
        session.tokens = service.encode(&session, &messages)?;
        let ends = service.ends(&session, &messages, &session.tokens, &[])?;
        session.turns = Session::turns_of(&messages, &ends);
        (common, session)
    } else if fields.get("prompt").is_some() {
        let CompletionRequest { common, mut prompts, .. } = CompletionRequest::parse(body, &state.limits)?;
        let one = prompts.pop().filter(|_| prompts.is_empty());
        let one = one.ok_or_else(|| ApiError::invalid("prompt", "A session has one prompt; send one."))?;
        (common, prompt(state, one)?)
    } else {
        let what = "Send 'messages' or 'prompt' to save, or 'fork_of' to fork a session.";
        return Err(ApiError { message: what.to_owned(), ..ApiError::missing("messages") });
    };
    check_model(state, common.model.as_deref())?;
    session.name = called;
    session.recipe = common.kv.unwrap_or_else(|| state.backend.info().kv_recipe.clone());
    Ok(Asked::Save { session: Box::new(session), replace })
}

fn prompt(state: &AppState, prompt: Prompt) -> Result<Session, ApiError> {
    let (text, tokens) = match prompt {
        Prompt::Text(text) => {
            let tokens = state.backend.encode_text(&text).map_err(|reason| {
                ApiError::invalid("prompt", format!("The prompt cannot be given to this model: {reason}."))
            })?;
            (text, tokens)
        }
        Prompt::Tokens(ids) => {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| state.backend.token_bytes(*id)).collect();
            (String::from_utf8_lossy(&bytes).into_owned(), ids)
        }
    };
    let turns = vec![Turn::of(&Message::new("text", text), 0..tokens.len())];
    Ok(Session { turns, tokens, ..Session::default() })
}

pub(crate) async fn list(State(state): State<AppState>, request: Request) -> Answer {
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request).0);
    let service = service(&state, "name")?;
    blocking(clock, async move {
        let (listed, damaged) = service.sessions.shelf().list(&tenant).map_err(failure)?;
        damaged.iter().for_each(|error| tracing::warn!(%error, "a session cannot be listed"));
        let data: Vec<Value> = listed.iter().map(document).collect();
        Ok(Json(json!({"object": "list", "data": data, "damaged": damaged.len()})))
    })
    .await
}

pub(crate) async fn one(State(state): State<AppState>, Path(called): Path<String>, request: Request) -> Answer {
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request).0);
    let service = service(&state, "name")?;
    let called = name("name", &called)?;
    blocking(clock, async move {
        let kept = service.sessions.shelf().read(&tenant, &called).map_err(failure)?;
        let mut json = document(&kept.listed());
        json["busy"] = json!(service.sessions.is_busy(&tenant, &called));
        let turn = |turn: &Turn| {
            let Turn { role, text, extra, tokens } = turn;
            let mut message = json!({"role": role, "content": text, "tokens": [tokens.start, tokens.end]});
            if let Some(map) = message.as_object_mut() {
                map.extend(extra.clone());
            }
            message
        };
        json["messages"] = kept.session.turns.iter().map(turn).collect();
        Ok(Json(json))
    })
    .await
}

pub(crate) async fn load(State(state): State<AppState>, Path(called): Path<String>, request: Request) -> Answer {
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request).0);
    let service = service(&state, "name")?;
    let called = name("name", &called)?;
    blocking(clock, async move {
        let guard = service.sessions.lock(&tenant, &called).await;
        let begun = std::time::Instant::now();
        let loaded = service.sessions.load(&guard, None, crate::ids::unix_seconds()).await;
        let (session, restored) = loaded.map_err(failure)?;
        let mut json = json!({"object": "kv.session.load", "name": session.name, "recipe": session.recipe});
        extend(&mut json, &restored);
        json["seconds"] = json!(begun.elapsed().as_secs_f64());
        Ok(Json(json))
    })
    .await
}

pub(crate) async fn rewind(State(state): State<AppState>, Path(called): Path<String>, request: Request) -> Answer {
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request).0);
    let service = service(&state, "name")?;
    let called = name("name", &called)?;
    let turn = number(&state, request, "turn", u32::MAX).await? as usize;
    blocking(clock, async move {
        let guard = service.sessions.lock(&tenant, &called).await;
        service.sessions.rewind(&guard, turn, crate::ids::unix_seconds()).map_err(failure)?;
        Ok(Json(document(&service.sessions.shelf().read(&tenant, &called).map_err(failure)?.listed())))
    })
    .await
}

pub(crate) async fn pin(State(state): State<AppState>, Path(called): Path<String>, request: Request) -> Answer {
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request).0);
    let service = service(&state, "name")?;
    let called = name("name", &called)?;
    let seconds = number(&state, request, "seconds", u32::MAX).await?;
    blocking(clock, async move {
        let guard = service.sessions.lock(&tenant, &called).await;
        let now = crate::ids::unix_seconds();
        let (restored, bytes) = service.sessions.pin(&guard, seconds, now).await.map_err(failure)?;
        let until = (seconds > 0).then(|| now + seconds);
        let mut json = json!({"object": "kv.session.pin", "name": called.as_str(), "pinned_until": until});
        extend(&mut json, &restored);
        json["pinned_bytes"] = json!(bytes);
        json["pin_limit_bytes"] = json!(service.sessions.pin_limit());
        Ok(Json(json))
    })
    .await
}

pub(crate) async fn remove(State(state): State<AppState>, Path(called): Path<String>, request: Request) -> Answer {
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request).0);
    let service = service(&state, "name")?;
    let called = name("name", &called)?;
    blocking(clock, async move {
        let guard = service.sessions.lock(&tenant, &called).await;
        service.sessions.remove(&guard).map_err(failure)?;
        Ok(Json(json!({"object": "kv.session", "name": called.as_str(), "deleted": true})))
    })
    .await
}

async fn number(state: &AppState, request: Request, field: &str, most: u32) -> Result<u64, ApiError> {
    let body = read_json(state, request).await?;
    let value = parse_json(&body)?;
    let fields = Fields::of(&value, "")?;
    fields.require(field)?;
    Ok(fields.count(field, 0, most)?.unwrap_or_default() as u64)
}

fn extend(json: &mut Value, with: &impl serde::Serialize) {
    if let (Some(json), Ok(Value::Object(fields))) = (json.as_object_mut(), serde_json::to_value(with)) {
        json.extend(fields);
    }
}

fn document(listed: &Listed) -> Value {
    let Session { name, model, recipe, tokens, turns, created, used, pinned_until, .. } = &listed.session;
    json!({
        "object": "kv.session", "name": name, "model": model, "recipe": recipe, "tokens": tokens.len(),
        "saved_tokens": listed.saved_tokens, "turns": turns.len(), "bytes": listed.bytes, "created": created,
        "used": used, "pinned_until": pinned_until,
    })
}
