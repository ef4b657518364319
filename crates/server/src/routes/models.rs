//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::generate::check_model;
use crate::state::AppState;

pub(crate) async fn list(State(state): State<AppState>) -> Json<Value> {
    Json(json!({"object": "list", "data": [document(&state)]}))
}

pub(crate) async fn one(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    check_model(&state, Some(&id))?;
    Ok(Json(document(&state)))
}

fn document(state: &AppState) -> Value {
    let info = state.backend.info();
    json!({
        "id": info.id, "object": "model", "created": info.created, "owned_by": "cachalot",
        "max_model_len": info.context, "aliases": info.aliases, "kv": info.kv_recipe,
    })
}
