//! The cache as the engine and the model see it.

use crate::attend::{Attention, Scratch};
use crate::lane::Lane;
use crate::page::PageKind;
use crate::pool::{Pool, ledger::Ledger};
use crate::{CacheConfig, KvError, SequenceKv};
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::{Isa, Team};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A pool of pages, the geometry of a model, and the threads that attend. Shared by all sequences.
pub struct KvCache {
    config: CacheConfig,
    pool: Pool,
    team: Arc<Team>,
    isa: Isa,
    layer_start: Arc<[usize]>,
    scratch: Mutex<Scratch>,
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
        Ok(KvCache { config, pool, team, isa, layer_start, scratch })
    }

    /// An empty sequence; it holds nothing yet.
    pub fn create(&self) -> SequenceKv {
        SequenceKv { lanes: self.kinds().map(Lane::new).collect(), layer_start: self.layer_start.clone(), len: 0 }
    }

    /// The account of the pool.
    pub fn ledger(&self) -> &Ledger {
        self.pool.ledger()
    }

    /// The pool, for what it maps from the operating system.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What the cache was built from.
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// Bytes that [`KvCache::reserve`] would take for `tokens` more.
    pub fn bytes_to_extend(&self, seq: &SequenceKv, tokens: usize) -> u64 {
        let end = (seq.len + tokens).div_ceil(PAGE_TOKENS);
        seq.lanes.iter().map(|lane| (end.saturating_sub(lane.end()) * lane.kind.bytes()) as u64).sum()
    }

    /// Bytes of a new sequence while `tokens` are taken in at once. (Windows let go of some between steps.)
    pub fn bytes_for_tokens(&self, tokens: usize) -> u64 {
        let pages = tokens.div_ceil(PAGE_TOKENS);
        self.kinds().map(|kind| (pages * kind.bytes()) as u64).sum()
    }

    /// Bytes that one more token takes, without the rounding to pages.
    pub fn bytes_per_token(&self) -> f64 {
        self.kinds().map(|kind| kind.bytes() as f64 / PAGE_TOKENS as f64).sum()
    }

    /// Makes room for the next `tokens` of a sequence, so that the step that brings them cannot run out.
    ///
    /// # Errors
    /// [`KvError::OutOfBudget`] or [`KvError::OutOfMemory`]; the sequence is as it was.
    pub fn reserve(&self, seq: &mut SequenceKv, tokens: usize) -> Result<(), KvError> {
        let end = (seq.len + tokens).div_ceil(PAGE_TOKENS);
        let mut needed: BTreeMap<usize, usize> = BTreeMap::new();
        for lane in &seq.lanes {
            *needed.entry(lane.kind.bytes()).or_default() += end.saturating_sub(lane.end());
        }
        let total = self.bytes_to_extend(seq, tokens);
        if total > self.ledger().free() {
            let (free, budget) = (self.ledger().free(), self.ledger().budget());
            return Err(KvError::OutOfBudget { needed: total, free, budget });
        }
        let mut spare = BTreeMap::new();
        for (bytes, pages) in needed.into_iter().filter(|&(_, pages)| pages > 0) {
            let mut pages = self.pool.take(bytes, pages)?;
            pages.reverse();
            spare.insert(bytes, pages);
        }
        for lane in &mut seq.lanes {
            while lane.end() < end {
                let Some(bytes) = spare.get_mut(&lane.kind.bytes()).and_then(Vec::pop) else { break };
                lane.push(bytes);
            }
        }
        Ok(())
    }

    /// A second sequence with the same tokens: sealed pages are shared, those still written copied.
    ///
    /// # Errors
    /// [`KvError::OutOfBudget`] or [`KvError::OutOfMemory`].
    pub fn fork(&self, seq: &SequenceKv) -> Result<SequenceKv, KvError> {
        let mut lanes = Vec::with_capacity(seq.lanes.len());
        for lane in &seq.lanes {
            let mut spare = self.pool.take(lane.kind.bytes(), lane.fork_copies(seq.len))?;
            lanes.push(lane.fork(seq.len, &mut spare));
        }
        Ok(SequenceKv { lanes, layer_start: seq.layer_start.clone(), len: seq.len })
    }

    /// Goes back to the first `tokens`.
    ///
    /// # Errors
    /// [`KvError::Misuse`] where there are fewer, [`KvError::Forgotten`] where a window let go of what the next token
    /// would see, [`KvError::OutOfBudget`] where a shared page must be copied; the sequence is as it was.
    pub fn truncate(&self, seq: &mut SequenceKv, tokens: usize) -> Result<(), KvError> {
        if tokens > seq.len {
            return Err(KvError::Misuse(format!("truncating {} tokens to {tokens}", seq.len)));
        }
        for (layer, geometry) in self.config.layers.iter().enumerate() {
            let first = seq.lane(layer, 0).first() * PAGE_TOKENS;
            if first > geometry.window.map_or(0, |window| (tokens + 1).saturating_sub(window)) {
                return Err(KvError::Forgotten { tokens, first });
            }
        }
        let mut spares = Vec::with_capacity(seq.lanes.len());
        for lane in &seq.lanes {
            spares.push(self.pool.take(lane.kind.bytes(), usize::from(lane.truncation_copies(tokens)))?);
        }
        for (lane, mut spare) in seq.lanes.iter_mut().zip(spares) {
            lane.truncate(tokens, &mut spare);
        }
        seq.len = tokens;
        Ok(())
    }

    /// Between steps: seals the pages that are full and lets go of those that fell out of a window.
    pub fn settle(&self, seq: &mut SequenceKv) {
        let len = seq.len;
        let lanes = seq.lanes.iter_mut();
        let windows = self.config.layers.iter().flat_map(|l| std::iter::repeat_n(l.window, l.kv_heads));
        let mut ready: Vec<Mutex<&mut Lane>> = Vec::new();
        for (lane, window) in lanes.zip(windows) {
            if let Some(window) = window {
                lane.forget_before((len + 1).saturating_sub(window));
            }
            if lane.fork_copies(len - len % PAGE_TOKENS) > 0 {
                ready.push(Mutex::new(lane));
            }
        }
        // Checksums of a long prompt are worth all threads.
        self.team.for_each(ready.len(), |i| ready[i].lock().unwrap_or_else(PoisonError::into_inner).seal(len));
    }

    /// One layer of one step: stores `k` and `v`, rotates, attends.
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
        let geometry = self.config.layers.get(layer);
        let geometry = geometry.ok_or_else(|| KvError::Misuse(format!("there is no layer {layer}")))?;
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        Attention { team: &self.team, isa: self.isa, layer, geometry, segments }.run(&mut scratch, q, k, v, out)
    }

    /// After the last layer of a step: the rows of each segment are now part of its sequence.
    pub fn advance(&self, segments: &mut [Segment<'_>]) {
        for segment in segments {
            segment.seq.len += segment.rows;
        }
    }

    /// Checks every sealed page of a sequence against its checksum.
    ///
    /// # Errors
    /// [`KvError::Corrupt`] names the first page that changed.
    pub fn verify(&self, seq: &SequenceKv) -> Result<(), KvError> {
        seq.lanes.iter().try_for_each(Lane::verify)
    }

    fn kinds(&self) -> impl Iterator<Item = PageKind> + '_ {
        let format = self.config.format;
        self.config.layers.iter().enumerate().flat_map(move |(layer, g)| {
            (0..g.kv_heads).map(move |head| PageKind {
                layer: layer as u16,
                head: head as u16,
                width: g.width(),
                format,
            })
        })
    }
}
