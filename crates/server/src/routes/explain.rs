//! `GET` and `POST /v1/kv/explain`: what of a prompt is there already, and why matching stops where it does.

use axum::Json;
use axum::extract::{RawQuery, Request, State};
use axum::http::header;
use cachalot_engine::EditId;
use cachalot_engine::blend::Wish;
use cachalot_engine::reuse::Stop;
use cachalot_engine::session::Session;
use serde_json::{Value, json};

use crate::auth::Tenant;
use crate::body::{Bytes, read_json};
use crate::error::ApiError;
use crate::generate::{Clock, prepare, refusal};
use crate::prompt;
use crate::request::{ChatRequest, parse_json};
use crate::session_turn;
use crate::state::AppState;

/// A prompt as a question.
struct Asked {
    tokens: Vec<u32>,
    /// The recipe, where it is not the server's own.
    kv: Option<String>,
    /// The edit that its session comes after.
    edit: Option<EditId>,
    /// What the request's answer would say of its session.
    session: Option<Value>,
    /// What the request wants of stretches that were computed elsewhere.
    wish: Wish,
}

enum Question {
    Known(Box<Asked>),
    /// It has to wait for its session first.
    OfSession(Box<ChatRequest>),
}

/// The same body as the request in question; its answer is not generated. A session is brought into memory, as the request
/// would.
pub(crate) async fn of_body(State(state): State<AppState>, request: Request) -> Result<Json<Value>, ApiError> {
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request));
    let body = read_json(&state, request).await?;
    let asked = match prepare(&state, clock, move |state| parse(state, body)).await? {
        Question::Known(asked) => *asked,
        Question::OfSession(request) => of_session(&state, clock, &tenant, *request).await?,
    };
    explain(&state, asked, tenant).await
}

/// `?prompt=TEXT`, with `&kv=RECIPE` where it is not the server's; or a body, as some clients send with a GET.
pub(crate) async fn of_query(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request));
    let query = query.unwrap_or_default();
    let field = |name: &str| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.map(decode).transpose()
    };
    let Some(text) = field("prompt")? else {
        // Not asked first: some clients declare a body with every request, and send none.
        if request.headers().contains_key(header::CONTENT_TYPE) {
            return of_body(State(state), request).await;
        }
        let message = "Send ?prompt=TEXT, or POST the body of the request in question.";
        return Err(ApiError::invalid("prompt", message.to_owned()));
    };
    let body = json!({"prompt": text, "kv": field("kv")?}).to_string();
    let asked = prepare(&state, clock, move |state| completion(state, body.as_bytes())).await?;
    explain(&state, asked, tenant).await
}

fn parse(state: &AppState, body: Bytes) -> Result<Question, ApiError> {
    if parse_json(&body)?.get("messages").is_none() {
        return Ok(Question::Known(Box::new(completion(state, &body)?)));
    }
    let request = prompt::chat(state, &body)?;
    if request.common.session.is_some() {
        return Ok(Question::OfSession(Box::new(request)));
    }
    let tokens = prompt::of_chat(state, &request.chat)?;
    let common = request.common;
    let marked = if common.chunks.is_empty() { state.backend.stretches(&request.chat, &tokens) } else { common.chunks };
    let wish = Wish { blend: common.reuse, chunks: marked, ..Wish::default() };
    Ok(Question::Known(Box::new(Asked { tokens, kv: common.kv, edit: None, session: None, wish })))
}

fn completion(state: &AppState, body: &[u8]) -> Result<Asked, ApiError> {
    let request = prompt::completion(state, body)?;
    let one = prompt::only(request.prompts, "Ask about one prompt at a time.")?;
    let tokens = prompt::of_text(state, one, "The prompt")?;
    let common = request.common;
    let wish = Wish { blend: common.reuse, chunks: common.chunks, ..Wish::default() };
    Ok(Asked { tokens, kv: common.kv, edit: None, session: None, wish })
}

async fn of_session(state: &AppState, clock: Clock, tenant: &Tenant, request: ChatRequest) -> Result<Asked, ApiError> {
    let (service, guard) = session_turn::take(state, clock, tenant, &request.common).await?;
    prepare(state, clock, move |state| {
        let opened = session_turn::open(state, &service, &guard, &request.common, request.chat)?;
        let Session { tokens, recipe, edit, .. } = opened.session;
        let wish = Wish { blend: request.common.reuse, ..Wish::default() };
        Ok(Asked { tokens, kv: Some(recipe), edit, session: Some(opened.said), wish })
    })
    .await
}

async fn explain(state: &AppState, asked: Asked, tenant: Tenant) -> Result<Json<Value>, ApiError> {
    let Asked { tokens, kv, edit, session, wish } = asked;
    let recipe = kv.clone().unwrap_or_else(|| state.backend.info().kv_recipe.clone());
    let answer = state.backend.explain(tokens, kv, tenant.0, edit, wish).await;
    let explanation = answer.map_err(|error| refusal(&error, "prompt"))?;
    let mut json = json!({"object": "kv.explanation", "recipe": recipe});
    if let Some(session) = session {
        json["session"] = session;
    }
    let text = |id: u32| String::from_utf8_lossy(&state.backend.token_bytes(id)).into_owned();
    let differs = match explanation.stop {
        Stop::Differs { token, cached, .. } => Some(json!({"text": text(token), "cached_text": text(cached)})),
        _ => None,
    };
    if let (Some(json), Ok(Value::Object(fields))) = (json.as_object_mut(), serde_json::to_value(&explanation)) {
        json.extend(fields);
        if let (Some(Value::Object(stop)), Some(Value::Object(differs))) = (json.get_mut("stop"), differs) {
            stop.extend(differs);
        }
    }
    Ok(Json(json))
}

/// Percent signs and plus signs of a query.
fn decode(text: &str) -> Result<String, ApiError> {
    let wrong = || ApiError::invalid("prompt", "The query is not UTF-8 in percent signs.".to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
                let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
                (16 * high + low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_or_refused() {
        assert_eq!(decode("a+b%20%C3%A9").unwrap(), "a b é");
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }
}
