//! The replays there are, and what they may take. No clock and no batches: see [`super::background`] for those.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cachalot_kv::{CachePlan, KvCache, Ledger, SequenceKv};
use cachalot_store::tier::Tenant;

use crate::observe;
use crate::replay::{Draw, Kind, Record, Replay, ReplayConfig, Script, Skipped};

/// How a request is watched while it generates.
pub(super) struct Watch {
    pub kind: Kind,
    pub tenant: Tenant,
    pub label: Arc<str>,
    pub share: f64,
    /// Most rows of a choice.
    most: usize,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// See [`crate::ReportSpec::within`].
    pub deadline: Option<Duration>,
    /// Choices that are complete.
    pub scripts: Vec<Script>,
}

/// All replays, and what they may take.
pub(super) struct Replays {
    pub config: ReplayConfig,
    pub plan: Arc<CachePlan>,
    draw: Draw,
    /// Bytes of kept rows: of reports, and of shadows, which must not take the place of what clients ask for.
    rows: [Ledger; 2],
    pub waiting: VecDeque<Replay>,
    /// Reports first, each kind by age.
    pub active: Vec<Replay>,
    pub closing: bool,
    #[cfg(test)]
    pub ended: Vec<(u64, Kind, crate::replay::KvReport)>,
}

impl Replays {
    pub fn new(config: ReplayConfig, cache: &KvCache) -> Replays {
        let heads = cache.config().layers.iter().map(|layer| layer.kv_heads);
        Replays {
            plan: Arc::new(CachePlan::exact(config.reference, heads)),
            draw: Draw::new(config.shadow, SHADOWS),
            rows: [config.row_bytes - config.row_bytes / 4, config.row_bytes / 4].map(Ledger::new),
            waiting: VecDeque::new(),
            active: Vec::new(),
            closing: false,
            config,
            #[cfg(test)]
            ended: Vec::new(),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }

    pub fn len(&self) -> usize {
        self.waiting.len() + self.active.len()
    }

    /// Bytes of pages that replays hold between steps.
    pub fn held(&self) -> u64 {
        self.active.iter().filter_map(|replay| replay.kv.as_ref()).map(SequenceKv::bytes).sum()
    }

    /// Bytes of rows that are kept, by kind.
    #[cfg(test)]
    pub fn rows(&self) -> [u64; 2] {
        [0, 1].map(|kind| self.rows[kind].used())
    }

    /// Whether and how a request is to be watched. The label is its recipe's, as metrics may name it.
    pub fn watch(&mut self, submission: &super::Submission) -> Option<Watch> {
        let (request, config) = (&submission.request, &self.config);
        let prompt = request.prompt.len();
        let watch = |kind, share, choices: usize, deadline| {
            let (label, most) = (submission.label.clone(), config.rows / choices.max(1));
            let tenant = Tenant::named(&request.tenant);
            Watch { kind, tenant, label, share, most, prompt, deadline, scripts: Vec::new() }
        };
        if let Some(spec) = &request.report {
            let deadline = spec.within.map(|within| submission.submitted.saturating_add(within));
            return Some(watch(Kind::Report, spec.share, request.n, deadline));
        }
        if request.max_tokens == Some(0) || !self.draw.next() {
            return None;
        }
        if is_exact(&submission.plan, &self.plan) {
            observe::replayed(Kind::Shadow, Skipped::Exact.code(), Duration::ZERO);
            return None;
        }
        Some(watch(Kind::Shadow, config.shadow_steps, 1, None))
    }

    /// The rows to be kept of a choice; of a shadow's first only.
    pub fn record(&self, watch: Option<&Watch>, seed: u64, choice: usize) -> Option<Record> {
        let watch = watch.filter(|watch| watch.kind == Kind::Report || choice == 0)?;
        Some(Record::new(watch.share, watch.most, seed, choice, &self.rows[watch.kind as usize]))
    }

    pub fn remove(&mut self, request: u64) -> Option<Replay> {
        if let Some(index) = self.waiting.iter().position(|replay| replay.request == request) {
            return self.waiting.remove(index);
        }
        let index = self.active.iter().position(|replay| replay.request == request)?;
        Some(self.active.remove(index))
    }

    pub fn activate(&mut self, replay: Replay) {
        let rank = |replay: &Replay| (replay.kind, replay.asked, replay.request);
        let place = self.active.partition_point(|other| rank(other) < rank(&replay));
        self.active.insert(place, replay);
    }

    pub fn any(&self, of: impl Fn(&Replay) -> bool) -> Option<u64> {
        self.active.iter().chain(&self.waiting).find(|replay| of(replay)).map(|replay| replay.request)
    }

    pub fn running(&self, kind: Kind) -> usize {
        self.active.iter().filter(|replay| replay.kind == kind).count()
    }

    /// Whether there is a place in the queue, and why not.
    pub fn admits(&self, kind: Kind) -> Result<(), Skipped> {
        let most = match kind {
            Kind::Shadow if self.closing => return Err(Skipped::Closing),
            Kind::Shadow => self.config.waiting_shadows,
            Kind::Report => self.config.waiting_reports,
        };
        let waiting = self.waiting.iter().filter(|other| other.kind == kind).count();
        // One that can begin at once does not wait.
        match waiting < most || self.running(kind) + waiting < self.config.concurrent.max(1) {
            true => Ok(()),
            false => Err(Skipped::Queue { waiting }),
        }
    }
}

/// Seed of the draw of shadows.
const SHADOWS: u64 = 0x5ead;

/// Whether a plan keeps everything in the elements of an exact one.
fn is_exact(plan: &CachePlan, exact: &CachePlan) -> bool {
    let lanes = plan.lanes.iter().flatten().zip(exact.lanes.iter().flatten());
    plan.keep.is_none() && lanes.into_iter().all(|(lane, exact)| lane.body.is_none() && lane.exact == exact.exact)
}
