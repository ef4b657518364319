//! `POST /v1/completions`.

use axum::extract::{Request, State};
use axum::response::Response;

use crate::answer::{CompletionShape, Header, respond};
use crate::auth::Tenant;
use crate::body::{Bytes, read_json};
use crate::error::ApiError;
use crate::generate::{Clock, Run, admitting, engine_request, prepare};
use crate::prompt;
use crate::request::Common;
use crate::state::AppState;

pub(crate) async fn completions(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let clock = Clock::start(&state);
    admitting(&state)?;
    let tenant = Tenant::of(&request);
    let body = read_json(&state, request).await?;
    let (common, shape, run) = prepare(&state, clock, move |state| begin(state, clock, tenant, body)).await?;
    respond(&state, shape, run, common.stream, common.include_usage).await
}

fn begin(
    state: &AppState,
    clock: Clock,
    tenant: Tenant,
    body: Bytes,
) -> Result<(Common, CompletionShape, Run), ApiError> {
    let request = prompt::completion(state, &body)?;
    // The text lives on in the typed request only.
    drop(body);
    let common = request.common;
    let choices = request.prompts.len() * common.n;
    let echo = request.echo.then(|| request.prompts.iter().map(|p| prompt::text_of(state, p)).collect());
    let mut asked = Vec::with_capacity(request.prompts.len());
    for (i, one) in request.prompts.into_iter().enumerate() {
        let ids = prompt::of_text(state, one, &format!("Prompt {i}"))?;
        let asked_for = engine_request(state, clock, &common, request.logprobs, ids, "prompt")?;
        asked.push(cachalot_engine::Request { tenant: tenant.0.clone(), ..asked_for });
    }
    let header = Header::new(state, "cmpl", choices);
    let run = Run::submit(state, asked, clock, "prompt")?;
    let shape = CompletionShape::new(header, request.logprobs.is_some(), echo, common.n);
    Ok((common, shape, run))
}
