//! `GET` and `POST /v1/kv/explain`: what of a prompt is there already, and why matching stops where it does.

use axum::Json;
use axum::extract::{RawQuery, Request, State};
use axum::http::header;
use cachalot_engine::reuse::Stop;
use serde_json::{Value, json};

use crate::auth::Tenant;
use crate::body::{Bytes, read_json};
use crate::error::ApiError;
use crate::generate::{Clock, check_model, prepare, refusal};
use crate::request::{ChatRequest, Common, CompletionRequest, Prompt, parse_json};
use crate::state::AppState;

/// A prompt as a question: its tokens, and the recipe.
type Asked = (Vec<u32>, Option<String>);

/// The same body as the request in question; its answer is not generated.
pub(crate) async fn of_body(State(state): State<AppState>, request: Request) -> Result<Json<Value>, ApiError> {
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request));
    let body = read_json(&state, request).await?;
    let asked = prepare(&state, clock, move |state| parse(state, body)).await?;
    explain(&state, asked, tenant).await
}

/// `?prompt=TEXT`, with `&kv=RECIPE` where it is not the server's; or a body, as some clients send with a GET.
pub(crate) async fn of_query(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    if request.headers().contains_key(header::CONTENT_TYPE) {
        return of_body(State(state), request).await;
    }
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request));
    let query = query.unwrap_or_default();
    let field = |name: &str| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.map(decode).transpose()
    };
    let Some(prompt) = field("prompt")? else {
        let message = "Send ?prompt=TEXT, or POST the body of the request in question.";
        return Err(ApiError::invalid("prompt", message.to_owned()));
    };
    let body = json!({"prompt": prompt, "kv": field("kv")?}).to_string();
    let asked = prepare(&state, clock, move |state| completion(state, body.as_bytes())).await?;
    explain(&state, asked, tenant).await
}

fn parse(state: &AppState, body: Bytes) -> Result<Asked, ApiError> {
    if parse_json(&body)?.get("messages").is_none() {
        return completion(state, &body);
    }
    let request = ChatRequest::parse(&body, &state.limits)?;
    check_model(state, request.common.model.as_deref())?;
    let tokens = state.backend.encode_chat(&request.chat).map_err(|reason| {
        ApiError::invalid("messages", format!("The messages cannot be given to this model: {reason}."))
    })?;
    Ok((tokens, recipe(request.common)))
}

fn completion(state: &AppState, body: &[u8]) -> Result<Asked, ApiError> {
    let mut request = CompletionRequest::parse(body, &state.limits)?;
    check_model(state, request.common.model.as_deref())?;
    let tokens = match (request.prompts.pop(), request.prompts.is_empty()) {
        (Some(Prompt::Tokens(ids)), true) => ids,
        (Some(Prompt::Text(text)), true) => state.backend.encode_text(&text).map_err(|reason| {
            ApiError::invalid("prompt", format!("The prompt cannot be given to this model: {reason}."))
        })?,
        _ => return Err(ApiError::invalid("prompt", "Ask about one prompt at a time.".to_owned())),
    };
    Ok((tokens, recipe(request.common)))
}

fn recipe(common: Common) -> Option<String> {
    common.kv
}

async fn explain(state: &AppState, (tokens, kv): Asked, tenant: Tenant) -> Result<Json<Value>, ApiError> {
    let recipe = kv.clone().unwrap_or_else(|| state.backend.info().kv_recipe.clone());
    let answer = state.backend.explain(tokens, kv, tenant.0).await;
    let explanation = answer.map_err(|error| refusal(&error, "prompt"))?;
    let mut json = json!({"object": "kv.explanation", "recipe": recipe});
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
