//! `DELETE /v1/kv/tenant`: whoever asks takes back everything that was kept for them.

use axum::Json;
use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use cachalot_engine::Deletion;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::time::timeout_at;

use crate::auth::Tenant;
use crate::error::ApiError;
use crate::generate::{Clock, admitting, refusal};
use crate::state::AppState;

/// Ends the requests of the key's holder and removes their blocks from pool and tiers, and their sessions. Nothing of the request
/// but its key says whose.
pub(crate) async fn remove(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request));
    admitting(&state)?;
    // Somebody might mean another tenant than the one who would be deleted.
    if request.uri().query().is_some() || !request.body().is_end_stream() {
        let how = "Send neither a body nor a query: what is deleted belongs to the API key that the request carries.";
        return Err(ApiError::bad_request("unexpected_body", how));
    }
    let (later, runtime) = (state.backend.delete_tenant(tenant.0), Handle::current());
    // On a thread of its own it also ends where the client has gone away.
    let task = tokio::task::spawn_blocking(move || {
        let deletion = runtime.block_on(later).map_err(|error| refusal(&error, "tenant"))?;
        let places = deletion.places();
        match deletion.is_complete() {
            true => tracing::info!(?places, "a tenant was deleted"),
            false => tracing::error!(?places, "a tenant was deleted in part only"),
        }
        Ok(deletion)
    });
    let ended = timeout_at(clock.deadline, task).await.map_err(|_| ApiError::timeout(clock.limit))?;
    let deletion = ended.map_err(|_| ApiError::internal("The deletion broke off; ask for it again."))??;
    let document = document(&deletion);
    if deletion.is_complete() {
        return Ok(Json(document).into_response());
    }
    let what = "Not everything could be removed; 'places' says what was found after it. Ask for it again.";
    let mut error = ApiError::internal(what).body();
    if let (Some(error), Value::Object(document)) = (error.as_object_mut(), document) {
        error.extend(document);
    }
    Ok((StatusCode::INTERNAL_SERVER_ERROR, Json(error)).into_response())
}

fn document(deletion: &Deletion) -> Value {
    let places = deletion.places().into_iter().map(|(name, removed)| {
        json!({
            "place": name, "removed": removed.objects, "removed_bytes": removed.bytes, "left": removed.left_objects,
            "left_bytes": removed.left_bytes, "foreign_files": removed.foreign,
            // Paths of the server are nothing for clients.
            "failed": removed.fault.is_some(),
        })
    });
    let places: Vec<Value> = places.collect();
    json!({
        "object": "kv.tenant.deletion", "deleted": deletion.is_complete(), "requests_ended": deletion.requests,
        "places": places,
    })
}
