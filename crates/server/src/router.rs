//! The router: routes, and what happens around all of them.

use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use futures::FutureExt;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tracing::Instrument;

use crate::error::ApiError;
use crate::ids::RequestId;
use crate::routes::{chat, completions, edit, explain, kv, models, sessions, status, tenant};
use crate::state::AppState;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// All routes, ready to be served.
pub fn router(state: AppState) -> Router {
    let cors = cors(&state.config.cors_origins);
    let mut router = Router::new()
        .route("/", get(status::pointer))
        .route("/health", get(status::health))
        .route("/metrics", get(status::metrics))
        .route("/v1/models", get(models::list))
        // A wildcard, because model names have slashes.
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/kv/recipes", get(kv::recipes))
        .route("/v1/kv/explain", get(explain::of_query).post(explain::of_body))
        .route("/v1/kv/edit", post(edit::edit))
        .route("/v1/kv/tenant", delete(tenant::remove))
        .route("/v1/kv/sessions", get(sessions::list).post(sessions::create))
        .route("/v1/kv/sessions/{name}", get(sessions::one).delete(sessions::remove))
        .route("/v1/kv/sessions/{name}/load", post(sessions::load))
        .route("/v1/kv/sessions/{name}/rewind", post(sessions::rewind))
        .route("/v1/kv/sessions/{name}/pin", post(sessions::pin))
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/completions", post(completions::completions))
        .method_not_allowed_fallback(status::not_allowed)
        .fallback(status::not_found)
        .layer(from_fn_with_state(state.clone(), crate::auth::require_key))
        .with_state(state);
    if let Some(cors) = cors {
        // Outside the key check: a browser sends no key with its preflight question.
        router = router.layer(cors);
    }
    router.layer(from_fn(around))
}

/// Gives the request its id and its span, counts it, and turns a panic into a 500 that leaves the connection alive.
async fn around(request: Request, next: Next) -> Response {
    let id = RequestId::choose(request.headers().get(REQUEST_ID));
    let route = request.extensions().get::<MatchedPath>().map_or("other", |m| m.as_str()).to_string();
    let span = tracing::info_span!("request", id = %id.0, method = %request.method(), path = %request.uri().path());
    let result = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    let mut response = result.unwrap_or_else(|_| {
        span.in_scope(|| tracing::error!("a handler panicked"));
        ApiError::internal("The server failed on this request; this is a bug in the server.").into_response()
    });
    crate::metrics::answered(&route, response.status().as_u16());
    span.in_scope(|| tracing::debug!(status = response.status().as_u16(), "responded"));
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|o| o == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|o| match HeaderValue::from_str(o) {
            Ok(value) => Some(value),
            Err(_) => {
                tracing::warn!(origin = %o, "ignored: not an origin a browser could send");
                None
            }
        }))
    };
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([REQUEST_ID]),
    )
}
