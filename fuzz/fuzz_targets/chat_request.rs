//! Both request parsers on arbitrary bodies: no panic, and nothing outside its range gets through.
#![no_main]

use cachalot_server::request::{ChatRequest, Common, CompletionRequest, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let limits = Limits { vocab: 1000, kv_recipe: "f16".into() };
    if let Ok(request) = ChatRequest::parse(body, &limits) {
        assert!(!request.chat.messages.is_empty());
        check(&request.common);
    }
    if let Ok(request) = CompletionRequest::parse(body, &limits) {
        assert!((1..=128).contains(&(request.prompts.len() * request.common.n)));
        check(&request.common);
    }
});

fn check(common: &Common) {
    let s = &common.sampling;
    assert!((1..=128).contains(&common.n) && common.max_tokens != Some(0));
    assert!(common.stop.len() <= 16 && common.stop.iter().all(|s| !s.is_empty()));
    assert!(s.temperature.is_none_or(|t| (0.0..=2.0).contains(&t)));
    assert!(s.top_p.is_none_or(|p| (0.0..=1.0).contains(&p)));
    assert!(s.logit_bias.iter().all(|(id, bias)| *id < 1000 && bias.is_finite()));
}
