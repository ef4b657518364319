//! `usage` as OpenAI writes it, and `timings` as llama.cpp's server does.

use serde_json::{Value, json};

use crate::generate::Totals;

/// `usage` of an answer.
pub(crate) fn usage(totals: &Totals) -> Value {
    let u = &totals.usage;
    let mut details = json!({"cached_tokens": u.cached_tokens});
    if let (Value::Object(details), true) = (&mut details, u.moved_tokens > 0) {
        details.insert("kv_moved_tokens".into(), json!(u.moved_tokens));
        details.insert("kv_recomputed_tokens".into(), json!(u.recomputed_tokens));
    }
    if let (Value::Object(details), true) = (&mut details, u.lossy_tokens > 0) {
        details.insert("kv_lossy_tokens".into(), json!(u.lossy_tokens));
    }
    if let (Value::Object(details), Some(pinned)) = (&mut details, u.pinned) {
        details.insert("kv_pin".into(), json!(pinned));
    }
    if let (Value::Object(details), Some(share)) = (&mut details, u.kept_share) {
        details.insert("kv_kept_share".into(), json!(share));
    }
    json!({
        "prompt_tokens": u.prompt_tokens,
        "completion_tokens": u.completion_tokens,
        "total_tokens": u.prompt_tokens + u.completion_tokens,
        "prompt_tokens_details": details,
    })
}

/// Adds `usage` and, for a single prompt, `timings`.
pub(crate) fn add(document: &mut Value, totals: &Totals) {
    let Value::Object(map) = document else { return };
    map.insert("usage".into(), usage(totals));
    if totals.prompts == 1 {
        map.insert("timings".into(), timings(totals));
    }
}

fn timings(totals: &Totals) -> Value {
    let (u, t) = (&totals.usage, &totals.usage.timings);
    let computed = u.prompt_tokens.saturating_sub(u.cached_tokens + u.moved_tokens);
    let rate = |tokens: usize, ms: Option<f64>| ms.filter(|ms| *ms > 0.0).map(|ms| tokens as f64 / (ms / 1e3));
    let each = |tokens: usize, ms: Option<f64>| ms.filter(|_| tokens > 0).map(|ms| ms / tokens as f64);
    json!({
        "cache_n": u.cached_tokens,
        "prompt_n": computed,
        "prompt_ms": t.prompt_ms,
        "prompt_per_token_ms": each(computed, t.prompt_ms),
        "prompt_per_second": rate(computed, t.prompt_ms),
        "predicted_n": u.completion_tokens,
        "predicted_ms": t.decode_ms,
        "predicted_per_token_ms": t.decode_tokens_per_second.filter(|r| *r > 0.0).map(|r| 1e3 / r),
        "predicted_per_second": t.decode_tokens_per_second,
        "queue_ms": t.queue_ms,
        "time_to_first_token_ms": t.ttft_ms,
        "total_ms": t.total_ms,
    })
}
