//! The OpenAI-compatible HTTP server.
//!
//! A request's way: [`net`] accepts a connection and hands requests to the [`router`]; a route takes in the body within
//! its limits, parses it into typed values ([`request`]), has the prompt tokenized and submitted to the [`Backend`], and
//! tells the events as one JSON document or as a stream. Every refusal is an [`ApiError`] in OpenAI's shape.
//!
//! | route | |
//! |---|---|
//! | `POST /v1/chat/completions` | chat, streamed or whole |
//! | `POST /v1/completions` | text completion, streamed or whole |
//! | `GET /v1/models`, `GET /v1/models/{id}` | what is served |
//! | `/v1/kv/sessions`, `/v1/kv/sessions/{name}` | named sessions: save, list, fork, load, rewind, pin, remove |
//! | `DELETE /v1/kv/tenant` | everything of the API key's holder goes, and the answer proves it |
//! | `GET /health` | 200, or 503 while shutting down; never asks for a key |
//! | `GET /metrics` | Prometheus |

mod answer;
mod auth;
mod backend;
mod body;
mod config;
mod engine_backend;
mod error;
mod generate;
mod ids;
mod metrics;
pub mod net;
mod prompt;
pub mod request;
mod router;
mod routes;
mod session;
mod session_turn;
mod state;

pub use auth::{NamedKey, keys_of_file, tenant_of_key, tenant_of_name};
pub use backend::{Backend, Events, Later, ModelInfo};
pub use config::ServerConfig;
pub use engine_backend::EngineBackend;
pub use error::ApiError;
pub use generate::{refusal, to_engine};
pub use net::{Server, ServerError, serve};
pub use router::router;
pub use session::SessionService;
pub use state::{AppState, Phase};
