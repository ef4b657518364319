//! `/v1/kv/sessions`: named sessions of a tenant, that are there.

use axum::Json;
use axum::extract::{Path, Request, State};
use cachalot_engine::session::{Listed, Session, Turn};
use serde_json::{Value, json};

use crate::auth::Tenant;
use crate::body::read_json;
use crate::error::ApiError;
use crate::generate::Clock;
use crate::request::{Fields, parse_json};
use crate::session::{blocking, failure, lock, name, service};
use crate::state::AppState;

mod create;

pub(crate) use create::create;

type Answer = Result<Json<Value>, ApiError>;

pub(crate) async fn list(State(state): State<AppState>, request: Request) -> Answer {
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request).0);
    let service = service(&state, "name")?;
    blocking(&state, clock, async move {
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
    blocking(&state, clock, async move {
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
    let guard = lock(&service, clock, &tenant, &called).await?;
    blocking(&state, clock, async move {
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
    let guard = lock(&service, clock, &tenant, &called).await?;
    blocking(&state, clock, async move {
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
    let guard = lock(&service, clock, &tenant, &called).await?;
    blocking(&state, clock, async move {
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
    let guard = lock(&service, clock, &tenant, &called).await?;
    blocking(&state, clock, async move {
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
