//! What answers look like, whole and streamed, and that both say the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod support;

use cachalot_engine::EngineError;
use serde_json::{Value, json};
use support::{Fake, check_error, client};

#[tokio::test]
async fn a_whole_chat_answer() {
    let c = client(Fake::default());
    let answer = c.chat(json!({"n": 2, "logprobs": true, "top_logprobs": 2})).await;
    let d = answer.json();
    assert!(d["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!((&d["object"], &d["model"]), (&json!("chat.completion"), &json!("org/fake")));
    assert_eq!(d["system_fingerprint"], "fp_fake");
    assert!(d["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(d["choices"].as_array().unwrap().len(), 2);
    for (i, choice) in d["choices"].as_array().unwrap().iter().enumerate() {
        assert_eq!(choice["index"], i);
        assert_eq!(choice["message"], json!({"role": "assistant", "content": "Hello wörld!", "refusal": null}));
        assert_eq!(choice["finish_reason"], "stop");
        let list = choice["logprobs"]["content"].as_array().unwrap();
        // The end token has no text and is not listed.
        assert_eq!(list.len(), 4);
        let joined: String = list.iter().map(|t| t["token"].as_str().unwrap()).collect();
        assert_eq!(joined, "Hello wörld!");
        assert_eq!(list[2]["bytes"], json!(" wörld".as_bytes()));
        assert_eq!(list[2]["logprob"], -0.5);
        assert_eq!(
            list[2]["top_logprobs"],
            json!([{"token": "A", "logprob": -1.0, "bytes": [65]}, {"token": "B", "logprob": -2.0, "bytes": [66]}])
        );
    }
    let usage = json!({
        "prompt_tokens": 8, "completion_tokens": 10, "total_tokens": 18, "prompt_tokens_details": {"cached_tokens": 4}
    });
    assert_eq!(d["usage"], usage);
    assert_eq!((&d["timings"]["prompt_n"], &d["timings"]["cache_n"]), (&json!(4), &json!(4)));
    let plain = c.chat(json!({"max_tokens": 2})).await.json();
    assert_eq!(plain["choices"][0]["logprobs"], Value::Null);
    assert_eq!(plain["choices"][0]["message"]["content"], "Hello");
    assert_eq!(plain["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_streamed_chat_answer() {
    let c = client(Fake::default());
    let answer = c.chat(json!({"stream": true, "n": 2, "stream_options": {"include_usage": true}})).await;
    assert_eq!(answer.headers["x-accel-buffering"], "no");
    assert!(answer.text.contains(": prefill 8/8\n"), "progress is told in a comment");
    let (events, done) = answer.events();
    assert!(done);
    let last = events.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 10);
    assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], 4);
    let chunks = &events[..events.len() - 1];
    for chunk in chunks {
        assert_eq!((&chunk["id"], &chunk["object"]), (&last["id"], &json!("chat.completion.chunk")));
        assert_eq!(chunk.as_object().unwrap().get("usage"), Some(&Value::Null));
    }
    for index in 0..2 {
        let own: Vec<&Value> = chunks.iter().map(|c| &c["choices"][0]).filter(|c| c["index"] == index).collect();
        assert_eq!(own[0]["delta"], json!({"role": "assistant", "content": ""}));
        let text: String = own.iter().filter_map(|c| c["delta"]["content"].as_str()).collect();
        assert_eq!(text, "Hello wörld!");
        let reasons: Vec<&Value> = own.iter().map(|c| &c["finish_reason"]).filter(|r| !r.is_null()).collect();
        assert_eq!(reasons, ["stop"]);
        assert_eq!(own.last().unwrap()["finish_reason"], "stop");
        assert!(own[1..].iter().all(|c| c["delta"].get("role").is_none()));
    }
    let (events, done) = c.chat(json!({"stream": true})).await.events();
    assert!(done && events.iter().all(|e| e.get("usage").is_none() && e["choices"] != json!([])));
}

#[tokio::test]
async fn streamed_logprobs_are_those_of_the_whole_answer() {
    let c = client(Fake::default());
    let whole = c.chat(json!({"logprobs": true, "top_logprobs": 1})).await.json();
    let (events, _) = c.chat(json!({"logprobs": true, "top_logprobs": 1, "stream": true})).await.events();
    let pieces: Vec<Value> =
        events.iter().filter_map(|e| e["choices"][0]["logprobs"]["content"].as_array()).flatten().cloned().collect();
    assert_eq!(json!(pieces), whole["choices"][0]["logprobs"]["content"]);

    let whole = c.complete(json!({"logprobs": 3})).await.json();
    let whole = &whole["choices"][0]["logprobs"];
    assert_eq!(whole["tokens"], json!(["Hel", "lo", " wörld", "!"]));
    assert_eq!(whole["text_offset"], json!([0, 3, 5, 11]), "in characters");
    assert_eq!(whole["token_logprobs"], json!([-0.5, -0.5, -0.5, -0.5]));
    assert_eq!(whole["top_logprobs"][0], json!({"A": -1.0, "B": -2.0, "C": -3.0}));
    let (events, _) = c.complete(json!({"logprobs": 3, "stream": true})).await.events();
    for list in ["tokens", "text_offset", "token_logprobs", "top_logprobs"] {
        let joined: Vec<Value> =
            events.iter().filter_map(|e| e["choices"][0]["logprobs"][list].as_array()).flatten().cloned().collect();
        assert_eq!(json!(joined), whole[list]);
    }
}

#[tokio::test]
async fn completions_of_several_prompts() {
    let c = client(Fake::default());
    let more = json!({"prompt": ["ab", "c"], "n": 2, "echo": true});
    let d = c.complete(more.clone()).await.json();
    assert!(d["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(d["object"], "text_completion");
    let texts: Vec<&str> = d["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["abHello wörld!", "abHello wörld!", "cHello wörld!", "cHello wörld!"]);
    let indices: Vec<&Value> = d["choices"].as_array().unwrap().iter().map(|c| &c["index"]).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert_eq!(d["usage"]["prompt_tokens"], 3);
    assert_eq!(d["usage"]["completion_tokens"], 20);
    assert!(d.get("timings").is_none(), "several prompts have no common timings");
    let mut more = more;
    more["stream"] = json!(true);
    let (events, done) = c.complete(more).await.events();
    assert!(done);
    let mut streamed = vec![String::new(); 4];
    for choice in events.iter().map(|e| &e["choices"][0]) {
        streamed[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
    }
    assert_eq!(streamed, texts);
    // Echo of ids is their text; bytes that are none become replacement characters.
    let d = c.complete(json!({"prompt": [72, 105, 256, 255], "echo": true, "max_tokens": 1})).await.json();
    assert_eq!(d["choices"][0]["text"], "Hi\u{fffd}Hel");
}

#[tokio::test]
async fn refusals_of_the_engine_have_their_status() {
    use EngineError as E;
    let too_long = E::PromptTooLong { prompt: 77, context: 50 };
    let too_small = E::KvTooSmall { prompt: 3, needed: 10, budget: 5 };
    let schema = E::InvalidConstraint { kind: "JSON schema", reason: "no".into() };
    for (error, status, code, param) in [
        (E::QueueFull { queued: 3, limit: 3 }, 429, "rate_limit_exceeded", Value::Null),
        (E::ShuttingDown, 503, "shutting_down", Value::Null),
        (too_long, 413, "context_length_exceeded", json!("messages")),
        (too_small, 413, "context_length_exceeded", json!("messages")),
        (schema, 400, "invalid_value", json!("response_format")),
        (E::invalid("top_k", 1, "x"), 400, "invalid_value", json!("top_k")),
        (E::EmptyPrompt, 400, "invalid_value", json!("messages")),
        (E::Model("broken".into()), 500, "internal_error", Value::Null),
    ] {
        let words = error.to_string();
        let c = client(Fake { refuse: Some((0, error)), ..Fake::default() });
        for stream in [false, true] {
            let answer = c.chat(json!({"stream": stream})).await;
            let e = answer.error(status);
            assert_eq!((&e["code"], &e["param"]), (&json!(code), &param), "{words}");
            let retry = answer.headers.get("retry-after").is_some();
            assert_eq!(retry, [429, 503].contains(&status));
        }
    }
    // The second of three prompts is refused: the first is cancelled.
    let c = client(Fake { refuse: Some((1, E::QueueFull { queued: 1, limit: 1 })), endless: true, ..Fake::default() });
    c.complete(json!({"prompt": ["a", "b", "c"]})).await.error(429);
    assert_eq!(c.fake.live.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn failures_during_an_answer() {
    for (fake, word) in [
        (Fake { fail: Some(EngineError::Model("broken".into())), ..Fake::default() }, "broken"),
        (Fake { vanish: true, ..Fake::default() }, "engine stopped"),
    ] {
        let c = client(fake);
        let error = c.chat(json!({})).await.error(500);
        assert!(error["message"].as_str().unwrap().contains(word), "{error}");
        let (events, done) = c.chat(json!({"stream": true})).await.events();
        assert!(!done, "an answer that broke off must not look finished");
        assert_eq!(events[1]["choices"][0]["delta"]["content"], "Hel");
        assert!(check_error(events.last().unwrap())["message"].as_str().unwrap().contains(word));
    }
}
