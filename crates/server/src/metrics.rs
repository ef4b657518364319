//! Prometheus metrics: one recorder per process, installed when the first router is built.
//!
//! The engine records its own (`cachalot_engine::observe` has their table); these are added here:
//!
//! | name | kind | unit | meaning |
//! |---|---|---|---|
//! | `cachalot_http_requests_total{route,status}` | counter | requests | answered, by route and status |
//! | `cachalot_http_generations` | gauge | requests | whose answer is being generated |
//! | `cachalot_http_answer_seconds` | histogram | seconds | from the arrival of a request to the end of its answer |
//! | `cachalot_kv_session_saves_total{outcome}` | counter | sessions | answers `saved` into their sessions, or `failed` to be |
//! | `cachalot_http_connections` | gauge | connections | open |

use std::sync::OnceLock;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

const ANSWER: &str = "cachalot_http_answer_seconds";

/// Histograms that are not listed would come out as summaries, which cannot be added up over servers.
const BUCKETS: [(&str, &[f64]); 7] = [
    ("cachalot_ttft_seconds", &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0]),
    ("cachalot_inter_token_seconds", &[0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0]),
    ("cachalot_batch_size", &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]),
    ("cachalot_batch_tokens", &[1.0, 4.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0]),
    ("cachalot_kv_shadow_kl", &[1e-6, 1e-5, 1e-4, 3e-4, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]),
    ("cachalot_kv_replay_seconds", &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0]),
    (ANSWER, &[0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0]),
];

/// The process's recorder. `None` if another one was installed by the program around us.
pub(crate) fn recorder() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE.get_or_init(install).clone()
}

fn install() -> Option<PrometheusHandle> {
    let recorder = match with_buckets() {
        Ok(builder) => builder.build_recorder(),
        Err(error) => {
            tracing::warn!(%error, "metrics are off");
            return None;
        }
    };
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("metrics are off: another recorder is installed in this process");
        return None;
    }
    cachalot_engine::describe_metrics();
    describe_counter!("cachalot_http_requests_total", "Answered requests, by route and status");
    describe_gauge!("cachalot_http_generations", "Requests whose answer is being generated");
    describe_histogram!(ANSWER, "Time from the arrival of a request to the end of its answer");
    describe_counter!("cachalot_kv_session_saves_total", "Answers saved into their sessions, or not");
    describe_gauge!("cachalot_http_connections", "Open connections");
    Some(handle)
}

fn with_buckets() -> Result<PrometheusBuilder, BuildError> {
    BUCKETS.iter().try_fold(PrometheusBuilder::new(), |builder, (name, buckets)| {
        builder.set_buckets_for_metric(Matcher::Full((*name).to_string()), buckets)
    })
}

/// The text of `/metrics`.
pub(crate) fn render(handle: &PrometheusHandle) -> String {
    // Histograms gather samples until somebody moves them into their buckets.
    handle.run_upkeep();
    handle.render()
}

/// One answered request.
pub(crate) fn answered(route: &str, status: u16) {
    counter!("cachalot_http_requests_total", "route" => route.to_string(), "status" => status.to_string()).increment(1);
}

/// A generation ended well, so many seconds after its request arrived.
pub(crate) fn finished(seconds: f64) {
    histogram!(ANSWER).record(seconds);
}

/// An answer was saved into its session, or could not be.
pub(crate) fn session_saved(saved: bool) {
    let outcome = if saved { "saved" } else { "failed" };
    counter!("cachalot_kv_session_saves_total", "outcome" => outcome).increment(1);
}

/// Counts a request as being generated until dropped.
pub(crate) struct InFlight;

impl InFlight {
    pub fn begin() -> InFlight {
        gauge!("cachalot_http_generations").increment(1.0);
        InFlight
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!("cachalot_http_generations").decrement(1.0);
    }
}
