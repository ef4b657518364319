//! `GET /v1/kv/recipes`: how requests may have their cache kept.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::AppState;

pub(crate) async fn recipes(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let own = state.backend.info().kv_recipe.clone();
    // Planning every recipe for the model is work, the first time.
    let cards = tokio::task::spawn_blocking(move || state.backend.recipes()).await;
    let cards = cards.map_err(|_| ApiError::internal("The recipes could not be listed."))?;
    Ok(Json(json!({"object": "list", "default": own, "data": cards})))
}
