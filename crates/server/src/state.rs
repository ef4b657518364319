//! What all requests share.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{Semaphore, watch};

use crate::auth::Keys;
use crate::backend::Backend;
use crate::config::ServerConfig;
use crate::request::Limits;

/// Where the server stands between start and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// No new requests; running answers finish.
    Draining,
    /// The grace period is over: running answers end with an error.
    Cancelling,
    /// Connections are dropped.
    Aborting,
}

/// Shared state of the router; cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Inner>);

/// What [`AppState`] points to.
pub struct Inner {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) config: ServerConfig,
    pub(crate) keys: Keys,
    pub(crate) limits: Limits,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Bytes of request bodies that may still be taken in.
    pub(crate) body_budget: Arc<Semaphore>,
    /// Requests that may be parsed and tokenized at one moment; parsed JSON takes many times the room of its text.
    pub(crate) workers: Arc<Semaphore>,
    pub(crate) metrics: Option<PrometheusHandle>,
}

impl std::ops::Deref for AppState {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl AppState {
    /// State for a router that nobody shuts down.
    pub fn new(config: ServerConfig, backend: Arc<dyn Backend>) -> AppState {
        // The receiver keeps answering `Running` after its sender is gone.
        let (_, phase) = watch::channel(Phase::Running);
        Self::with_phase(config, backend, phase)
    }

    /// State for a router whose server announces its phases.
    pub fn with_phase(config: ServerConfig, backend: Arc<dyn Backend>, phase: watch::Receiver<Phase>) -> AppState {
        let info = backend.info();
        let limits = Limits { vocab: info.vocab, kv_recipe: info.kv_recipe.clone() };
        let workers = std::thread::available_parallelism().map_or(2, |n| n.get().max(2));
        AppState(Arc::new(Inner {
            keys: Keys::new(&config.api_keys, &config.named_keys),
            limits,
            phase,
            body_budget: Arc::new(Semaphore::new(config.body_budget.min(Semaphore::MAX_PERMITS))),
            workers: Arc::new(Semaphore::new(workers)),
            metrics: crate::metrics::recorder(),
            backend,
            config,
        }))
    }
}
