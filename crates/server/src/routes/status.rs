//! `GET /`, `GET /health`, `GET /metrics`, and the answers to everything that is not a route.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::ApiError;
use crate::state::{AppState, Phase};

const POINTER: &str = "\
This is a Cachalot server. It speaks OpenAI's API:

  POST /v1/chat/completions
  POST /v1/completions
  GET  /v1/models
  GET  /v1/models/{id}
  GET  /v1/kv/recipes
  GET  /v1/kv/explain
  GET  /v1/kv/sessions
  POST /v1/kv/sessions
  DELETE /v1/kv/tenant
  GET  /health
  GET  /metrics
";

pub(crate) async fn pointer() -> &'static str {
    POINTER
}

/// 200 while requests are taken, 503 once the server is shutting down: what a load balancer wants to know.
pub(crate) async fn health(State(state): State<AppState>) -> Response {
    match *state.phase.borrow() {
        Phase::Running => Json(json!({"status": "ok"})).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "shutting down"}))).into_response(),
    }
}

pub(crate) async fn metrics(State(state): State<AppState>) -> Result<Response, ApiError> {
    let Some(handle) = &state.metrics else {
        return Err(ApiError::internal("Metrics are off: another recorder is installed in this process."));
    };
    let text = crate::metrics::render(handle);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

pub(crate) async fn not_found(request: Request) -> ApiError {
    ApiError::unknown_route(request.method().as_str(), &crate::error::shorten(request.uri().path()))
}

pub(crate) async fn not_allowed(request: Request) -> ApiError {
    ApiError::method_not_allowed(request.method().as_str(), &crate::error::shorten(request.uri().path()))
}
