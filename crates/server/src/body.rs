//! Taking in a request body, bounded in size, time and in the sum over all requests.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use futures::StreamExt;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::ApiError;
use crate::state::AppState;

/// A complete body. Its share of the budget is returned when it is dropped.
pub(crate) struct Bytes {
    data: Vec<u8>,
    _share: Option<OwnedSemaphorePermit>,
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data
    }
}

/// Read the JSON body of a request.
///
/// # Errors
/// 415 when it is not declared as JSON, 413 when it is too large, 408 when it does not arrive in time, 503 when too many
/// bodies are held already, 400 when the connection breaks.
pub(crate) async fn read_json(state: &AppState, request: Request<Body>) -> Result<Bytes, ApiError> {
    declared_as_json(request.headers())?;
    let limit = state.config.body_limit;
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|n| n > limit as u64) {
        return Err(ApiError::body_too_large(limit));
    }
    let timeout = state.config.body_timeout;
    match tokio::time::timeout(timeout, read(state, request.into_body(), limit)).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::body_timeout(timeout.as_secs_f64())),
    }
}

async fn read(state: &AppState, body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut data = Vec::new();
    let mut share: Option<OwnedSemaphorePermit> = None;
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| {
            ApiError::bad_request("incomplete_body", format!("The request body could not be read: {e}."))
        })?;
        if data.len() + chunk.len() > limit {
            return Err(ApiError::body_too_large(limit));
        }
        let more = u32::try_from(chunk.len())
            .ok()
            .and_then(|n| Arc::clone(&state.body_budget).try_acquire_many_owned(n).ok())
            .ok_or_else(|| {
                ApiError::unavailable("overloaded", "The server holds too many request bodies at the moment.", 1)
            })?;
        match &mut share {
            Some(share) => share.merge(more),
            None => share = Some(more),
        }
        data.extend_from_slice(&chunk);
    }
    Ok(Bytes { data, _share: share })
}

/// Only `application/json` (or `+json`) passes. Besides being honest about what is read, it keeps web pages of other
/// origins out: a browser asks before it sends that type across origins.
fn declared_as_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let declared = headers.get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap_or("(not text)"));
    let essence = declared.map(|d| d.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match essence.as_deref() {
        Some("application/json") => Ok(()),
        Some(e) if e.starts_with("application/") && e.ends_with("+json") => Ok(()),
        _ => Err(ApiError::unsupported_media(declared)),
    }
}
