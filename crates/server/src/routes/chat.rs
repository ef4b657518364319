//! `POST /v1/chat/completions`.

use axum::extract::{Request, State};
use axum::response::Response;

use crate::answer::{ChatShape, Header, respond};
use crate::auth::Tenant;
use crate::body::{Bytes, read_json};
use crate::error::ApiError;
use crate::generate::{Clock, Run, admitting, engine_request, prepare};
use crate::prompt;
use crate::request::{ChatRequest, Common};
use crate::state::AppState;

pub(crate) async fn chat_completions(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let clock = Clock::start(&state);
    admitting(&state)?;
    let tenant = Tenant::of(&request);
    let body = read_json(&state, request).await?;
    let of_session = tenant.clone();
    let begun = prepare(&state, clock, move |state| begin(state, clock, tenant, body)).await?;
    let (common, shape, run) = match begun {
        Begun::Running(common, shape, run) => (*common, shape, *run),
        Begun::OfSession(request) => crate::session_turn::begin(&state, clock, of_session, *request).await?,
    };
    respond(&state, shape, run, common.stream, common.include_usage).await
}

enum Begun {
    Running(Box<Common>, ChatShape, Box<Run>),
    /// It has to wait for its session first.
    OfSession(Box<ChatRequest>),
}

fn begin(state: &AppState, clock: Clock, tenant: Tenant, body: Bytes) -> Result<Begun, ApiError> {
    let request = prompt::chat(state, &body)?;
    // The text lives on in the typed request only.
    drop(body);
    if request.common.session.is_some() {
        return Ok(Begun::OfSession(Box::new(request)));
    }
    let common = request.common;
    let tokens = prompt::of_chat(state, &request.chat)?;
    let marked = state.backend.stretches(&request.chat, &tokens);
    let mut asked = engine_request(state, clock, &common, request.logprobs, tokens, "messages")?;
    if asked.wish.chunks.is_empty() {
        asked.wish.chunks = marked;
    }
    (asked.starts_text, asked.tenant) = (true, tenant.0);
    let header = Header::new(state, "chatcmpl", common.n);
    let run = Run::submit(state, vec![asked], clock, "messages")?;
    let shape = ChatShape { header, logprobs: request.logprobs.is_some() };
    Ok(Begun::Running(Box::new(common), shape, Box::new(run)))
}
