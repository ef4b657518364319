//! One run of one case.

use super::crowd::{self, Share};
use super::{BenchArgs, machine, median};
use crate::{Failure, load};
use cachalot_kv::{KvCache, Purpose, Segment, SequenceKv};
use cachalot_lab::{Candidate, Subject};
use cachalot_model::passes;
use std::time::Instant;

/// What is measured, again and again.
pub struct Case<'a> {
    pub candidate: &'a dyn Candidate,
    pub depth: usize,
    pub share: Share,
}

/// One run of it.
pub struct Run {
    pub prefill_tokens_per_second: f64,
    pub decode_tokens_per_second: f64,
    pub decode_processor_seconds: Option<f64>,
    pub kv_bytes: u64,
    pub kv_read_bytes: u64,
    pub kv_predicted_bytes: u64,
    pub kv_peak_bytes: u64,
    pub scratch_bytes: u64,
    pub resident_growth_bytes: Option<u64>,
    pub resident_after_bytes: Option<u64>,
    pub pool_bytes: u64,
    pub reduction_share: f64,
    /// Of resident memory, since the last run.
    pub peak_bytes: u64,
}

/// A case whose prompt is read: what it takes to decode, and what was measured so far.
pub struct Begun {
    cache: KvCache,
    seqs: Vec<SequenceKv>,
    depth: usize,
    share: Share,
    prefill: f64,
    reduction: f64,
    /// Seconds of each decoded token of all sequences.
    times: Vec<f64>,
    /// What all processors together worked on these.
    worked: Option<f64>,
    resident_before: Option<u64>,
    /// Peak of resident memory since the case began, and what was resident last.
    resident: Option<(u64, u64)>,
}

/// Reads the prompt.
pub fn begin(subject: &Subject<'_>, case: &Case<'_>, args: &BenchArgs) -> Result<Begun, Failure> {
    let &Case { candidate, depth, share } = case;
    let budget = load::budget_or_half(args.kv_budget);
    let vocab = subject.decoder.spec().vocab;
    let tokens: Vec<u32> = (0..depth).map(|i| ((i * 7919 % 40000 + 100) % vocab) as u32).collect();
    // What earlier runs have left must not be there to be used. The model's own buffers grow with the first step, and are not
    // the cache's.
    cachalot_kernels::heap::trim();
    let chunk = &tokens[..args.chunk.min(depth)];
    let warm = candidate.cache(subject, budget)?;
    step(subject, &warm, &mut [warm.create()], chunk, true)?;
    // Nor are its angles, which all sequences share.
    for rope in warm.config().layers.iter().filter_map(|layer| layer.rope.as_ref()) {
        rope.turn(depth + args.decode, &mut vec![0.0; rope.rotated()]);
    }
    drop(warm);
    let before = machine::restart_peak();
    let cache = candidate.cache(subject, budget)?.with_sharing(share.joins());
    let mut seq = cache.create();
    cache.expect(&mut seq, depth)?;
    let mut prefill = 0.0;
    let chunks = tokens.chunks(args.chunk);
    let count = chunks.len();
    for (i, chunk) in chunks.enumerate() {
        let last = i + 1 == count && seq.answers(chunk.len());
        prefill += step(subject, &cache, std::slice::from_mut(&mut seq), chunk, last)?;
    }
    let reduction = Instant::now();
    cache.reduce(&mut seq)?;
    passes::finish_context(subject.decoder, &cache, &mut seq, &tokens, args.chunk)?;
    let reduction = reduction.elapsed().as_secs_f64();
    prefill += reduction;
    let seqs = crowd::gather(&cache, seq, args.requests, share)?;
    let (times, worked) = (Vec::new(), Some(0.0));
    let resident = machine::resident();
    Ok(Begun { cache, seqs, depth, share, prefill, reduction, times, worked, resident_before: before, resident })
}

impl Begun {
    /// Decodes so many tokens of all sequences.
    pub fn decode(&mut self, subject: &Subject<'_>, tokens: usize) -> Result<(), Failure> {
        let (vocab, done) = (subject.decoder.spec().vocab, self.times.len());
        let before = machine::processor_seconds();
        for i in done..done + tokens {
            let next: Vec<u32> = (0..self.seqs.len()).map(|n| ((500 + i + 97 * n) % vocab) as u32).collect();
            let next = step(subject, &self.cache, &mut self.seqs, &next, true)?;
            let start = Instant::now();
            self.seqs.iter_mut().try_for_each(|seq| self.cache.reduce(seq).map(drop))?;
            self.times.push(next + start.elapsed().as_secs_f64());
        }
        let worked = before.zip(machine::processor_seconds()).map(|(before, after)| after - before);
        self.worked = self.worked.zip(worked).map(|(sum, next)| sum + next);
        Ok(())
    }

    /// Looks at resident memory; only where no other case has begun since this one, or it would see that one's, too.
    pub fn look(&mut self) {
        self.resident = machine::resident();
    }

    /// What came of it.
    pub fn end(self, args: &BenchArgs) -> Run {
        let Begun { cache, seqs, depth, share, prefill, reduction, times, .. } = self;
        let tokens = (times.len() * args.requests) as f64;
        let referred = seqs.iter().map(SequenceKv::bytes).sum();
        let held = if seqs.len() == 1 { referred } else { cache.ledger().used() };
        let seq = &seqs[0];
        let (peak, now) = self.resident.unzip();
        let over = |now: Option<u64>| self.resident_before.zip(now).map(|(before, now)| now.saturating_sub(before));
        let scratch = cache.ledger().by_purpose().into_iter().filter(|(purpose, _)| *purpose == Purpose::Scratch);
        Run {
            prefill_tokens_per_second: depth as f64 / prefill,
            decode_tokens_per_second: args.requests as f64 / median(times),
            decode_processor_seconds: self.worked.map(|worked| worked / tokens),
            kv_bytes: held,
            kv_read_bytes: if share == Share::Alone { referred } else { held },
            kv_predicted_bytes: cache.bytes_of(seq),
            kv_peak_bytes: cache.peak_bytes(&cache.config().plan, seq.len(), args.chunk),
            scratch_bytes: scratch.map(|(_, bytes)| bytes).sum(),
            peak_bytes: peak.unwrap_or_default(),
            resident_growth_bytes: over(peak),
            pool_bytes: cache.pool().resident(),
            resident_after_bytes: over(now),
            reduction_share: reduction / prefill,
        }
    }
}

/// Seconds of a step, whose tokens are those of all sequences in order, equally many each; `last`: with logits of the last of
/// each.
fn step(
    subject: &Subject<'_>,
    cache: &KvCache,
    seqs: &mut [SequenceKv],
    tokens: &[u32],
    last: bool,
) -> Result<f64, Failure> {
    let start = Instant::now();
    let rows = tokens.len() / seqs.len();
    seqs.iter_mut().try_for_each(|seq| cache.reserve(seq, rows))?;
    let logits: Vec<usize> = if last { (1..=seqs.len()).map(|n| n * rows - 1).collect() } else { Vec::new() };
    let mut segments: Vec<Segment<'_>> = seqs.iter_mut().map(|seq| Segment { seq, rows }).collect();
    subject.decoder.forward(cache, &mut segments, tokens, &logits)?;
    seqs.iter_mut().for_each(|seq| cache.settle(seq));
    Ok(start.elapsed().as_secs_f64())
}
