//! Metrics, recorded through the `metrics` facade; without a recorder they cost a branch.
//!
//! | name | kind | unit | meaning |
//! |---|---|---|---|
//! | `cachalot_queue_length` | gauge | sequences | waiting: not yet begun, or set aside for want of memory |
//! | `cachalot_batch_size` | histogram | sequences | in a step |
//! | `cachalot_batch_tokens` | histogram | tokens | rows of a step: prompts, decodes and replays together |
//! | `cachalot_ttft_seconds` | histogram | seconds | from submission to the first token of a request |
//! | `cachalot_inter_token_seconds` | histogram | seconds | between two tokens of one choice |
//! | `cachalot_prompt_tokens_total` | counter | tokens | prompt tokens computed, each once however often it was set aside; not those that were there |
//! | `cachalot_generation_tokens_total` | counter | tokens | generated |
//! | `cachalot_kv_bytes{purpose}` | gauge | bytes | of the KV ledger, by purpose |
//! | `cachalot_kv_budget_bytes` | gauge | bytes | the KV budget |
//! | `cachalot_kv_odd_values_total` | counter | values | keys and values that were NaN or infinite when they were encoded |
//! | `cachalot_kv_corrupt_pages_total` | counter | pages | whose checksum was wrong; the sequence failed |
//! | `cachalot_kv_kept_share` | histogram | share | of a context's tokens that stayed when it was reduced, mean over lanes |
//! | `cachalot_kv_reused_tokens_total` | counter | tokens | not computed because their cache was there |
//! | `cachalot_kv_lossy_tokens_total` | counter | tokens | of the reused ones, changed by a lossy codec below the pool |
//! | `cachalot_kv_moved_tokens_total` | counter | tokens | whose cache came from another context |
//! | `cachalot_kv_shared_blocks` | gauge | blocks | of 64 tokens, there for prompts that begin with them |
//! | `cachalot_kv_shared_bytes` | gauge | bytes | of their pages, those that sequences use included |
//! | `cachalot_kv_pins_total{outcome}` | counter | pins | of prompts: `held`, `refused`, `expired`, `yielded` to a request |
//! | `cachalot_kv_pinned_bytes` | gauge | bytes | that pinned prompts hold |
//! | `cachalot_kv_evicted_blocks_total` | counter | blocks | shared, let go for want of memory |
//! | `cachalot_kv_fetched_bytes_total{tier}` | counter | bytes | of blocks that came from a tier below the pool |
//! | `cachalot_kv_fetches_total{outcome}` | counter | fetches | from tiers: read `first` and gone on from, read `beside` computing what is before, `overtaken` by it, or `refused` because computing is faster |
//! | `cachalot_kv_blocks_not_kept_total` | counter | blocks | not handed to the tiers, which could not keep up |
//! | `cachalot_preemptions_total` | counter | sequences | set aside for want of memory |
//! | `cachalot_kv_shadow_kl{recipe}` | histogram | nats | KL(exact ‖ lossy) of a compared step of a shadowed request |
//! | `cachalot_kv_shadow_steps_total{recipe}` | counter | steps | compared |
//! | `cachalot_kv_shadow_agreeing_steps_total{recipe}` | counter | steps | of them, with the same most likely token |
//! | `cachalot_kv_replays_total{for,outcome}` | counter | requests | drawn for a `report` or as a `shadow`: `compared`, or why not (`no_steps`, `memory`, `deadline`, `queue`, `exact`, `cancelled`, `closing`, `failed`) |
//! | `cachalot_kv_replay_rows_total{for}` | counter | tokens | computed again over the exact cache: the cost |
//! | `cachalot_kv_replay_seconds{for}` | histogram | seconds | engine time of a replay: of its steps by its share of their rows, and comparing |
//! | `cachalot_requests_total{outcome}` | counter | requests | `stop`, `length`, `cancelled`, `error`, or `refused` at submission |
//!
//! `recipe` is the engine's own, one of the registry, or `other`: see [`crate::recipes::Recipes::label`].

use std::time::{Duration, Instant};

use cachalot_kv::KvCache;
use metrics::{Unit, counter, gauge, histogram};

use crate::replay::Kind;
use crate::{EngineStats, FinishReason};

/// Tells the recorder units and descriptions. Call once, after it is installed.
pub fn describe() {
    use metrics::{describe_counter as c, describe_gauge as g, describe_histogram as h};
    g!("cachalot_queue_length", Unit::Count, "Sequences waiting: not yet begun, or set aside for want of memory");
    h!("cachalot_batch_size", Unit::Count, "Sequences in a step");
    h!("cachalot_batch_tokens", Unit::Count, "Rows of a step, prompts and decodes together");
    h!("cachalot_ttft_seconds", Unit::Seconds, "Time from submission to the first token of a request");
    h!("cachalot_inter_token_seconds", Unit::Seconds, "Time between two tokens of one choice");
    c!("cachalot_prompt_tokens_total", Unit::Count, "Prompt tokens computed");
    c!("cachalot_generation_tokens_total", Unit::Count, "Tokens generated");
    g!("cachalot_kv_bytes", Unit::Bytes, "Bytes of the key-value cache, by purpose");
    g!("cachalot_kv_budget_bytes", Unit::Bytes, "Byte budget of the key-value cache");
    c!("cachalot_kv_odd_values_total", Unit::Count, "Keys and values that were NaN or infinite when they were encoded");
    c!("cachalot_kv_corrupt_pages_total", Unit::Count, "Pages whose checksum was wrong");
    h!("cachalot_kv_kept_share", Unit::Count, "Share of a context's tokens that stayed when it was reduced");
    c!("cachalot_kv_reused_tokens_total", Unit::Count, "Tokens not computed because their cache was there");
    c!("cachalot_kv_lossy_tokens_total", Unit::Count, "Reused tokens that a lossy codec below the pool has changed");
    c!("cachalot_kv_moved_tokens_total", Unit::Count, "Tokens whose cache came from another context");
    g!("cachalot_kv_shared_blocks", Unit::Count, "Blocks of 64 tokens that prompts may begin with");
    g!("cachalot_kv_shared_bytes", Unit::Bytes, "Bytes of the pages of shared blocks");
    c!("cachalot_kv_pins_total", Unit::Count, "Pins of prompts, by what became of them");
    g!("cachalot_kv_pinned_bytes", Unit::Bytes, "Bytes of blocks that pinned prompts hold");
    c!("cachalot_kv_evicted_blocks_total", Unit::Count, "Shared blocks let go for want of memory");
    c!("cachalot_kv_fetched_bytes_total", Unit::Bytes, "Bytes of blocks that came from a tier below the pool");
    c!("cachalot_kv_fetches_total", Unit::Count, "Fetches from tiers below the pool, by what became of them");
    c!("cachalot_kv_blocks_not_kept_total", Unit::Count, "Blocks not handed to tiers that could not keep up");
    c!("cachalot_preemptions_total", Unit::Count, "Sequences set aside for want of memory");
    h!("cachalot_kv_shadow_kl", Unit::Count, "KL(exact || lossy) of compared steps of shadowed requests, in nats");
    c!("cachalot_kv_shadow_steps_total", Unit::Count, "Compared steps of shadowed requests");
    c!("cachalot_kv_shadow_agreeing_steps_total", Unit::Count, "Compared steps with the same most likely token");
    c!("cachalot_kv_replays_total", Unit::Count, "Answers to be compared with the exact cache, by outcome");
    c!("cachalot_kv_replay_rows_total", Unit::Count, "Tokens computed again over the exact cache");
    h!("cachalot_kv_replay_seconds", Unit::Seconds, "Engine time that comparing one answer took");
    c!("cachalot_requests_total", Unit::Count, "Requests, by outcome");
}

pub(crate) fn first_token(after: Duration) {
    histogram!("cachalot_ttft_seconds").record(after.as_secs_f64());
}

pub(crate) fn inter_token(after: Duration) {
    histogram!("cachalot_inter_token_seconds").record(after.as_secs_f64());
}

pub(crate) fn prompt_done(tokens: usize) {
    counter!("cachalot_prompt_tokens_total").increment(tokens as u64);
}

/// A sequence began with so many tokens of others.
pub(crate) fn moved(tokens: usize) {
    counter!("cachalot_kv_moved_tokens_total").increment(tokens as u64);
}

/// Of the tokens it began with, so many were changed by a lossy codec.
pub(crate) fn lossy(tokens: usize) {
    if tokens > 0 {
        counter!("cachalot_kv_lossy_tokens_total").increment(tokens as u64);
    }
}

/// So many pins of prompts began, were refused, or ended.
pub(crate) fn pins(outcome: &'static str, pins: usize) {
    if pins > 0 {
        counter!("cachalot_kv_pins_total", "outcome" => outcome).increment(pins as u64);
    }
}

pub(crate) fn reused(tokens: usize) {
    counter!("cachalot_kv_reused_tokens_total").increment(tokens as u64);
}

/// An object came from a tier below the pool.
pub(crate) fn fetched(level: &'static str, bytes: u64) {
    counter!("cachalot_kv_fetched_bytes_total", "tier" => level).increment(bytes);
}

/// What became of a fetch.
pub(crate) fn fetch(outcome: &'static str) {
    counter!("cachalot_kv_fetches_total", "outcome" => outcome).increment(1);
}

/// Blocks were not handed to the tiers, which could not keep up.
pub(crate) fn not_kept(blocks: usize) {
    counter!("cachalot_kv_blocks_not_kept_total").increment(blocks as u64);
}

pub(crate) fn preempted() {
    counter!("cachalot_preemptions_total").increment(1);
}

/// A page of a sequence was not what it had been.
pub(crate) fn corrupt() {
    counter!("cachalot_kv_corrupt_pages_total").increment(1);
}

/// A context was reduced to this share of its tokens.
pub(crate) fn reduced(share: f64) {
    histogram!("cachalot_kv_kept_share").record(share);
}

pub(crate) fn finished(reason: FinishReason) {
    let outcome = match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
        FinishReason::Error => "error",
    };
    counter!("cachalot_requests_total", "outcome" => outcome).increment(1);
}

/// A step of a shadowed request was compared.
pub(crate) fn compared(recipe: &str, kl: f64, agrees: bool) {
    histogram!("cachalot_kv_shadow_kl", "recipe" => recipe.to_owned()).record(kl);
    counter!("cachalot_kv_shadow_steps_total", "recipe" => recipe.to_owned()).increment(1);
    counter!("cachalot_kv_shadow_agreeing_steps_total", "recipe" => recipe.to_owned()).increment(u64::from(agrees));
}

/// A step has so many rows of a replay.
pub(crate) fn replay_rows(kind: Kind, rows: usize) {
    counter!("cachalot_kv_replay_rows_total", "for" => kind.name()).increment(rows as u64);
}

/// A replay ended, or did not begin.
pub(crate) fn replayed(kind: Kind, outcome: &'static str, spent: Duration) {
    counter!("cachalot_kv_replays_total", "for" => kind.name(), "outcome" => outcome).increment(1);
    if !spent.is_zero() {
        histogram!("cachalot_kv_replay_seconds", "for" => kind.name()).record(spent.as_secs_f64());
    }
}

/// How long something takes; for metrics alone, nothing may depend on it.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = work();
    (result, begun.elapsed())
}

pub(crate) fn refused() {
    counter!("cachalot_requests_total", "outcome" => "refused").increment(1);
}

/// A step of `sequences` sequences and `rows` rows is about to run.
pub(crate) fn step(sequences: usize, rows: usize) {
    histogram!("cachalot_batch_size").record(sequences as f64);
    histogram!("cachalot_batch_tokens").record(rows as f64);
}

/// After a step: what is where. `generated` counts since the last call.
pub(crate) fn state(stats: &EngineStats, generated: u64, cache: &KvCache) {
    counter!("cachalot_kv_odd_values_total").absolute(cache.odd_values());
    counter!("cachalot_generation_tokens_total").increment(generated);
    counter!("cachalot_kv_evicted_blocks_total").absolute(stats.evicted_blocks);
    gauge!("cachalot_kv_shared_blocks").set(stats.shared_blocks as f64);
    gauge!("cachalot_kv_pinned_bytes").set(stats.pinned_bytes as f64);
    gauge!("cachalot_kv_shared_bytes").set(stats.shared_bytes as f64);
    gauge!("cachalot_queue_length").set(stats.queued as f64);
    gauge!("cachalot_kv_budget_bytes").set(stats.kv_budget_bytes as f64);
    for (purpose, bytes) in cache.ledger().by_purpose() {
        gauge!("cachalot_kv_bytes", "purpose" => purpose.name()).set(bytes as f64);
    }
}
