//! The cache as the engine and the model see it.

use crate::allot::Budget;
use crate::attend::{Attention, Scratch};
use crate::lane::Lane;
use crate::observe::Observed;
use crate::plan::CachePlan;
use crate::pool::{Pool, ledger::Ledger};
use crate::record::Recorder;
use crate::reduce::{Keep, Words};
use crate::score::Place;
use crate::{CacheConfig, KvError, LayerGeometry, SequenceKv};
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::{Isa, Team};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// A pool of pages, the geometry of a model, and the threads that attend. Shared by all sequences.
pub struct KvCache {
    config: CacheConfig,
    pool: Pool,
    team: Arc<Team>,
    isa: Isa,
    layer_start: Arc<[usize]>,
    scratch: Mutex<Scratch>,
    odd: AtomicU64,
    local_peak: AtomicU64,
    recorder: Option<Arc<dyn Recorder>>,
    sharing: bool,
    spared: AtomicU64,
    words: Arc<Words>,
}

/// Consecutive rows of a step that belong to one sequence. Their positions follow on its length.
pub struct Segment<'a> {
    /// The sequence.
    pub seq: &'a mut SequenceKv,
    /// Rows (tokens) of the step.
    pub rows: usize,
}

impl KvCache {
    /// A cache without sequences.
    ///
    /// # Errors
    /// [`KvError::Config`] where the geometry is impossible.
    pub fn new(config: CacheConfig, team: Arc<Team>, isa: Isa) -> Result<KvCache, KvError> {
        config.check()?;
        let mut start = 0;
        let layer_start = config.layers.iter().map(|layer| {
            start += layer.kv_heads;
            start - layer.kv_heads
        });
        let layer_start = layer_start.collect();
        let pool = Pool::new(config.budget_bytes);
        let scratch = Mutex::new(Scratch::new(pool.ledger()));
        Ok(KvCache {
            config,
            pool,
            team,
            isa,
            layer_start,
            scratch,
            odd: AtomicU64::new(0),
            local_peak: AtomicU64::new(0),
            recorder: None,
            sharing: true,
            spared: AtomicU64::new(0),
            words: Arc::default(),
        })
    }

    /// Shows every step's queries, keys and values to `recorder`, as calibration wants them.
    pub fn with_recorder(self, recorder: Arc<dyn Recorder>) -> KvCache {
        KvCache { recorder: Some(recorder), ..self }
    }

    /// Whether sequences that hold the same pages read them together, which is the default. It changes no bit; it is there to
    /// measure what it gives.
    pub fn with_sharing(self, sharing: bool) -> KvCache {
        KvCache { sharing, ..self }
    }

    /// Pages of lanes that were not read because another sequence of the step read them too, since the cache was made.
    pub fn pages_spared(&self) -> u64 {
        self.spared.load(Relaxed)
    }

    /// How the model is asked to repeat what it has read, for recipes whose method does that. Without any the context alone is
    /// read again.
    pub fn with_words(self, words: Words) -> KvCache {
        KvCache { words: Arc::new(words), ..self }
    }

    /// An empty sequence with the cache's own plan; it holds nothing yet.
    pub fn create(&self) -> SequenceKv {
        self.build(&self.config.plan)
    }

    /// An empty sequence with a plan of its own.
    ///
    /// # Errors
    /// [`KvError::Config`] where the plan was made for another model.
    pub fn create_with(&self, plan: &Arc<CachePlan>) -> Result<SequenceKv, KvError> {
        plan.check(&self.config.layers)?;
        Ok(self.build(plan))
    }

    fn build(&self, plan: &Arc<CachePlan>) -> SequenceKv {
        SequenceKv {
            lanes: self.lanes(plan).collect(),
            plan: plan.clone(),
            layer_start: self.layer_start.clone(),
            len: 0,
            spare: BTreeMap::new(),
            scrubbed: 0,
            context: 0,
            moved: 0,
            mend: None,
            recomputed: 0,
            stale: None,
            chunks: None,
            pending: None,
            spans: Vec::new(),
            words: self.words.clone(),
        }
    }

    pub(crate) fn lanes<'a>(&'a self, plan: &'a CachePlan) -> impl Iterator<Item = Lane> + 'a {
        self.lanes_by_layer(plan).flat_map(|(_, lanes)| lanes)
    }

    /// The account of the pool.
    pub fn ledger(&self) -> &Ledger {
        self.pool.ledger()
    }

    /// The pool, for what it maps from the operating system.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn team(&self) -> &Team {
        &self.team
    }

    /// Where each layer's lanes start.
    pub(crate) fn layer_start(&self) -> &[usize] {
        &self.layer_start
    }

    pub(crate) fn count_odd(&self, odd: usize) {
        self.odd.fetch_add(odd as u64, Relaxed);
    }

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// What the cache was built from.
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// Numbers that were not finite when their page was encoded: NaN is stored as zero, infinity as the largest half float.
    pub fn odd_values(&self) -> u64 {
        self.odd.load(Relaxed)
    }

    /// The most bytes that one thread has held to read pages: a few pages and one block of queries, however long the context.
    pub fn thread_scratch(&self) -> u64 {
        self.local_peak.load(Relaxed)
    }

    /// Bytes that [`KvCache::reserve`] would take for `tokens` more.
    pub fn bytes_to_extend(&self, seq: &SequenceKv, tokens: usize) -> u64 {
        self.demand(seq, tokens).into_iter().map(|(bytes, pages)| (bytes * pages) as u64).sum()
    }

    /// Bytes that `tokens` more will take at most, with what is computed over its context on the way.
    pub fn bytes_to_finish(&self, seq: &SequenceKv, tokens: usize) -> u64 {
        let demand = self.demand_of(seq, tokens + seq.rows_again(), &(0..self.config.layers.len()));
        demand.into_iter().map(|(bytes, pages)| (bytes * pages) as u64).sum()
    }

    /// Bytes of `tokens` in plain elements, as they are before a recipe encodes anything. (Windows let go of some.)
    pub fn plain_bytes(&self, plan: &CachePlan, tokens: usize) -> u64 {
        let pages = tokens.div_ceil(PAGE_TOKENS);
        self.lanes(plan).map(|lane| (pages * lane.exact_bytes()) as u64).sum()
    }

    /// Bytes that a sequence of `tokens` with the cache's own plan holds between steps. (Windows let go of some.)
    pub fn bytes_for_tokens(&self, tokens: usize) -> u64 {
        self.bytes_with(&self.config.plan, tokens)
    }

    /// Bytes that a sequence with this plan holds between steps, whose `tokens` are all its context: after the reduction where
    /// there is one. (Windows let go of some.)
    pub fn bytes_with(&self, plan: &CachePlan, tokens: usize) -> u64 {
        self.bytes_after(plan, tokens, tokens)
    }

    /// What [`KvCache::bytes_with`] would say of this sequence as it is.
    pub fn bytes_of(&self, seq: &SequenceKv) -> u64 {
        self.bytes_after(&seq.plan, seq.context, seq.len)
    }

    /// Bytes of `tokens` of which the first `context` have been reduced.
    fn bytes_after(&self, plan: &CachePlan, context: usize, tokens: usize) -> u64 {
        let layers = plan.lanes.len();
        let mut sum = 0;
        for (layer, (g, lanes)) in self.lanes_by_layer(plan).enumerate() {
            for (head, lane) in lanes.enumerate() {
                let place = Place { layer, layers, head };
                let keep = plan.keep.as_ref().filter(|_| g.window.is_none());
                let slots = keep.map_or(tokens, |keep| keep.held(context, tokens, place));
                sum += lane.bytes_of(slots) + if slots < tokens { 4 * slots } else { 0 };
            }
        }
        sum as u64
    }

    /// The most bytes a sequence with this plan holds on its way to `tokens`, computed in steps of at most `step`: layers with
    /// a sliding window let go of pages between steps, those with a body of plain pages within one.
    pub fn peak_bytes(&self, plan: &CachePlan, tokens: usize, step: usize) -> u64 {
        // What is read again lies behind the rest for a while.
        let longest = self.words.longest();
        let again = plan.keep.as_ref().map_or(0, |keep| keep.method.passes().rows_again(tokens, longest));
        let observed = plan.keep.as_ref().map_or(0, |keep| {
            // The score of a token is held while its head waits to be reduced.
            let scores = 4 * tokens * plan.lanes.iter().map(Vec::len).sum::<usize>();
            let more = keep.more(tokens, longest);
            Observed::bytes(keep.wish(), tokens, more, &self.config.layers) + scores
        });
        let tokens = tokens + again;
        let all = tokens.div_ceil(PAGE_TOKENS);
        // Windows and steps begin and end anywhere in a page.
        let around = |tokens: usize| all.min((tokens + step).div_ceil(PAGE_TOKENS) + 1);
        let (mut held, mut passing) = (0, 0);
        for (g, lanes) in self.lanes_by_layer(plan) {
            let pages = g.window.map_or(all, around);
            let mut layer = 0;
            for lane in lanes {
                // What is to be reduced stays exact until then.
                if lane.body_kind().is_none() || plan.keep.is_some() {
                    held += pages * lane.exact_bytes();
                    // Each thread has a layer in both forms until the slabs that it came from are empty.
                    layer += self.team.threads() * all * lane.body_bytes();
                    continue;
                }
                let plain = pages.min(lane.plan.sink_pages() + lane.plan.window.div_ceil(PAGE_TOKENS) + 2);
                let body = lane.plan.body_end(tokens.saturating_sub(1)).saturating_sub(lane.plan.sink_pages());
                held += plain * lane.exact_bytes() + body.min(pages) * lane.body_bytes();
                layer += around(0) * lane.exact_bytes();
            }
            passing = passing.max(layer);
        }
        (held + passing + observed) as u64
    }

    fn lanes_by_layer<'a>(
        &'a self,
        plan: &'a CachePlan,
    ) -> impl Iterator<Item = (&'a LayerGeometry, impl Iterator<Item = Lane> + 'a)> + 'a {
        self.config.layers.iter().zip(&plan.lanes).enumerate().map(|(layer, (g, lanes))| {
            let lane = move |(head, lane)| Lane::new(layer, head, g.head_dim, lane);
            (g, lanes.iter().enumerate().map(lane))
        })
    }

    /// Bytes that one more token of a long sequence takes, without the rounding to pages.
    pub fn bytes_per_token(&self) -> f64 {
        if let Some(Keep { budget: Budget::Share(_), .. }) = self.config.plan.keep {
            const LONG: usize = 1 << 16;
            let bytes = |tokens| self.bytes_for_tokens(tokens) as f64;
            return (bytes(2 * LONG) - bytes(LONG)) / LONG as f64;
        }
        let bytes = |lane: Lane| if lane.body_kind().is_some() { lane.body_bytes() } else { lane.exact_bytes() };
        self.lanes(&self.config.plan).map(|lane| bytes(lane) as f64 / PAGE_TOKENS as f64).sum()
    }

    /// Pages, by size, that the next step needs beyond what the sequence has set aside: layers take their plain pages in
    /// turn, and those that a layer has encoded serve the next.
    fn demand(&self, seq: &SequenceKv, tokens: usize) -> BTreeMap<usize, usize> {
        self.demand_of(seq, tokens, &seq.layers())
    }

    /// See [`KvCache::demand`]; of some layers only.
    fn demand_of(&self, seq: &SequenceKv, tokens: usize, reading: &Range<usize>) -> BTreeMap<usize, usize> {
        let mut now: BTreeMap<usize, (isize, isize)> = BTreeMap::new();
        if seq.mend.is_some() {
            // Its rows are written over what is there.
            return BTreeMap::new();
        }
        let all = seq.len + tokens;
        let end = |lane: &Lane| lane.slots(all).div_ceil(PAGE_TOKENS);
        let due = |lane: &Lane| lane.due_after(lane.slots(all).saturating_sub(1), end(lane));
        for (_, layer) in self.lane_ranges().enumerate().filter(|(layer, _)| reading.contains(layer)) {
            let lanes = &seq.lanes[layer];
            let mut take = |bytes: usize, pages: usize| {
                let (held, most) = now.entry(bytes).or_default();
                *held += pages as isize;
                *most = (*most).max(*held);
            };
            lanes.iter().for_each(|lane| take(lane.exact_bytes(), end(lane).saturating_sub(lane.end())));
            lanes.iter().for_each(|lane| take(lane.body_bytes(), due(lane)));
            for lane in lanes {
                let slots = lane.slots(all).saturating_sub(1);
                let freed = due(lane) - lane.due_shared(slots, end(lane));
                now.entry(lane.exact_bytes()).or_default().0 -= freed as isize;
            }
        }
        let spare = |bytes: &usize| seq.spare.get(bytes).map_or(0, Vec::len);
        let needed =
            |(bytes, (_, most)): (usize, (isize, isize))| (bytes, (most.max(0) as usize).saturating_sub(spare(&bytes)));
        now.into_iter().map(needed).filter(|&(_, pages)| pages > 0).collect()
    }

    fn lane_ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.config.layers.iter().zip(self.layer_start.iter()).map(|(g, &start)| start..start + g.kv_heads)
    }

    /// Makes room for the next `tokens` of a sequence, so that the step that brings them cannot run out.
    ///
    /// # Errors
    /// [`KvError::OutOfBudget`] or [`KvError::OutOfMemory`]; the sequence is as it was.
    pub fn reserve(&self, seq: &mut SequenceKv, tokens: usize) -> Result<(), KvError> {
        let demand = self.demand(seq, tokens);
        let total = demand.iter().map(|(bytes, pages)| (bytes * pages) as u64).sum();
        if total > self.ledger().free() {
            let (free, budget) = (self.ledger().free(), self.ledger().budget());
            return Err(KvError::OutOfBudget { needed: total, free, budget });
        }
        let mut taken = Vec::with_capacity(demand.len());
        for (bytes, pages) in demand {
            taken.push((bytes, self.pool.take(bytes, pages)?));
        }
        for (bytes, pages) in taken {
            seq.spare.entry(bytes).or_default().extend(pages);
        }
        Ok(())
    }

    /// A second sequence with the same tokens: sealed pages are shared, those still written copied.
    ///
    /// # Errors
    /// [`KvError::OutOfBudget`] or [`KvError::OutOfMemory`].
    pub fn fork(&self, seq: &SequenceKv) -> Result<SequenceKv, KvError> {
        if seq.mend.is_some() {
            return Err(KvError::Misuse("a branch of a context that is still being mended".into()));
        }
        let mut lanes = Vec::with_capacity(seq.lanes.len());
        for lane in &seq.lanes {
            let slots = lane.slots(seq.len);
            let mut spare = self.pool.take(lane.exact_bytes(), lane.fork_copies(slots))?;
            lanes.push(lane.fork(slots, &mut spare));
        }
        Ok(SequenceKv {
            lanes,
            plan: seq.plan.clone(),
            layer_start: seq.layer_start.clone(),
            len: seq.len,
            spare: BTreeMap::new(),
            scrubbed: 0,
            context: seq.context,
            moved: seq.moved,
            mend: None,
            recomputed: seq.recomputed,
            stale: None,
            chunks: None,
            spans: seq.spans.clone(),
            words: seq.words.clone(),
            pending: seq.pending.as_ref().map(|pending| pending.copy(self.ledger())).transpose()?,
        })
    }

    /// Goes back to the first `tokens`.
    ///
    /// # Errors
    /// [`KvError::Misuse`] where there are fewer, [`KvError::Forgotten`] where a window let go of what the next token
    /// would see, or where it would see exactly what is encoded by now; [`KvError::OutOfBudget`] where a shared page must
    /// be copied. The sequence is as it was.
    pub fn truncate(&self, seq: &mut SequenceKv, tokens: usize) -> Result<(), KvError> {
        if tokens > seq.len {
            return Err(KvError::Misuse(format!("truncating {} tokens to {tokens}", seq.len)));
        }
        if seq.pass_rows() > 0 || seq.staged().is_some() {
            return Err(KvError::Misuse("going back in a context that is still being read".into()));
        }
        if tokens < seq.len && seq.gathers().is_some() {
            // What the tokens beyond gave to others cannot be taken back.
            return Err(KvError::Forgotten { tokens, first: seq.len });
        }
        self.go_back(seq, tokens)
    }

    /// As [`KvCache::truncate`], whatever was gathered.
    pub(crate) fn go_back(&self, seq: &mut SequenceKv, tokens: usize) -> Result<(), KvError> {
        if let Some(first) =
            seq.lanes.first().and_then(Lane::parallel).map(|parallel| parallel.own()).filter(|own| tokens < *own)
        {
            // Contexts that share their positions have no order to go back in.
            return Err(KvError::Forgotten { tokens, first });
        }
        for (layer, geometry) in self.config.layers.iter().enumerate() {
            let first = seq.lane(layer, 0).first() * PAGE_TOKENS;
            if first > geometry.window.map_or(0, |window| (tokens + 1).saturating_sub(window)) {
                return Err(KvError::Forgotten { tokens, first });
            }
        }
        let held = |lane: &Lane| lane.slots(seq.len).checked_sub(seq.len - tokens);
        if seq.lanes.iter().any(|lane| lane.dropped() > 0 && held(lane).is_none_or(|held| held < lane.kept())) {
            let first = seq.len - seq.lanes.iter().map(|lane| lane.slots(seq.len) - lane.kept()).min().unwrap_or(0);
            return Err(KvError::Forgotten { tokens, first });
        }
        if let Some(lane) = seq.lanes.iter().find(|lane| lane.encoded_beyond(lane.slots(tokens))) {
            return Err(KvError::Forgotten { tokens, first: lane.encoded_tokens() });
        }
        let mut spares = Vec::with_capacity(seq.lanes.len());
        for lane in &seq.lanes {
            spares.push(self.pool.take(lane.exact_bytes(), usize::from(lane.truncation_copies(lane.slots(tokens))))?);
        }
        for (lane, mut spare) in seq.lanes.iter_mut().zip(spares) {
            lane.truncate(lane.slots(tokens), &mut spare);
        }
        seq.len = tokens;
        Ok(())
    }

    /// Between steps: goes on to the next rows that are mended; where there are none, seals the pages that are full, lets go of
    /// those that fell out of a window and of what was reserved but not used.
    pub fn settle(&self, seq: &mut SequenceKv) {
        seq.spare.clear();
        self.go_on_mending(seq);
        if seq.mend.is_some() {
            return;
        }
        let (len, again) = (seq.len, seq.repeats().is_some());
        let lanes = seq.lanes.iter_mut();
        let windows = self.config.layers.iter().flat_map(|l| std::iter::repeat_n(l.window, l.kv_heads));
        let mut ready: Vec<Mutex<&mut Lane>> = Vec::new();
        for (lane, window) in lanes.zip(windows) {
            // Rows of a pass will be gone, and those before them are looked at once more.
            if let (Some(window), false) = (window, again) {
                lane.forget_before((len + 1).saturating_sub(window));
            }
            if lane.needs_seal(lane.slots(len)) {
                ready.push(Mutex::new(lane));
            }
        }
        // Checksums of a long prompt are worth all threads.
        self.team.for_each(ready.len(), |i| {
            let mut lane = ready[i].lock().unwrap_or_else(PoisonError::into_inner);
            let slots = lane.slots(len);
            lane.seal(slots);
        });
    }

    /// One layer of one step: stores `k` and `v`, rotates, encodes the pages that are due, attends.
    ///
    /// `q` is `[rows][heads * head_dim]`, `k` and `v` are `[rows][kv_heads * head_dim]`, all before rotary position;
    /// the result is shaped like `q`. Rows are those of the segments in order. Lengths of sequences do not change
    /// until [`KvCache::advance`], so that every layer writes to the same positions.
    ///
    /// # Errors
    /// [`KvError::Misuse`] where lengths disagree or no room was reserved.
    pub fn attend(
        &self,
        layer: usize,
        segments: &mut [Segment<'_>],
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &mut [f32],
    ) -> Result<(), KvError> {
        let geometry = self.geometry(layer)?;
        if let Some(recorder) = &self.recorder {
            recorder.record(layer, geometry, segments, q, k, v);
        }
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let (team, local_peak) = (&*self.team, &self.local_peak);
        let (sharing, spared) = (self.sharing, &self.spared);
        let attention = Attention { team, isa: self.isa, layer, geometry, segments, local_peak, sharing, spared };
        let odd = attention.run(&mut scratch, q, k, v, out)?;
        self.count_odd(odd);
        Ok(())
    }

    fn geometry(&self, layer: usize) -> Result<&LayerGeometry, KvError> {
        let geometry = self.config.layers.get(layer);
        geometry.ok_or_else(|| KvError::Misuse(format!("there is no layer {layer}")))
    }

    /// After the last layer of a step: the rows of each segment are now part of its sequence.
    pub fn advance(&self, segments: &mut [Segment<'_>]) {
        for segment in segments {
            segment.seq.advance(segment.rows);
        }
    }

    /// Checks every sealed page of a sequence against its checksum.
    ///
    /// # Errors
    /// [`KvError::Corrupt`] names the first page that changed.
    pub fn verify(&self, seq: &SequenceKv) -> Result<(), KvError> {
        seq.lanes.iter().try_for_each(Lane::verify)
    }

    /// Checks the next few sealed pages of a sequence, going round: what a server does with the time between steps.
    ///
    /// # Errors
    /// [`KvError::Corrupt`] names the page that changed; only this sequence and those that share the page are concerned.
    pub fn scrub(&self, seq: &mut SequenceKv, pages: usize) -> Result<(), KvError> {
        let mut checked = 0;
        for page in seq.lanes.iter().flat_map(Lane::sealed).skip(seq.scrubbed).take(pages) {
            page.verify()?;
            checked += 1;
        }
        seq.scrubbed = if checked < pages { 0 } else { seq.scrubbed + checked };
        Ok(())
    }
}
