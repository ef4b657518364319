//! What replays may take.

use std::time::Duration;

use cachalot_kv::KvFormat;

/// How answers are compared with the exact cache, and what that may take. The defaults compare only what clients ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayConfig {
    /// The exact cache: plain elements, everything kept.
    pub reference: KvFormat,
    /// Share of all requests that are compared though nobody asked, 0 to 1. It feeds the metrics alone.
    pub shadow: f64,
    /// Share of an answer's steps that a shadow compares.
    pub shadow_steps: f64,
    /// Most rows of logits that are kept of one request; two of each choice at least.
    pub rows: usize,
    /// Most bytes of rows that are kept of all requests together; a quarter is for shadows, the others for reports.
    pub row_bytes: u64,
    /// Most rows of replays in a step that requests have rows in, too. A step with none is the replays' alone.
    pub beside: usize,
    /// Replays of a kind that are computed at one time, reports and shadows apart.
    pub concurrent: usize,
    /// Reports that may wait for their replay.
    pub waiting_reports: usize,
    /// Shadows that may wait for theirs.
    pub waiting_shadows: usize,
    /// A replay that is not through so long after its answer is given up.
    pub patience: Duration,
}

impl Default for ReplayConfig {
    fn default() -> ReplayConfig {
        ReplayConfig {
            reference: KvFormat::default(),
            shadow: 0.0,
            shadow_steps: ReplayConfig::STEPS,
            rows: 64,
            row_bytes: 256 << 20,
            beside: 16,
            concurrent: 1,
            waiting_reports: 64,
            waiting_shadows: 4,
            patience: Duration::from_secs(60),
        }
    }
}

impl ReplayConfig {
    /// Share of an answer's steps that are compared, where nobody says otherwise.
    pub const STEPS: f64 = 0.125;
}
