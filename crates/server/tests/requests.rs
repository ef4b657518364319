//! Which requests are accepted, what the engine gets of them, and what the refused ones are told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod support;

use cachalot_engine::ConstraintSpec;
use serde_json::{Value, json};
use support::{Client, Fake, client};

/// Sends `more` to both endpoints and expects a 400 that blames `param` with `code`.
async fn both_refuse(c: &Client, more: Value, param: &str, code: &str) {
    for answer in [c.chat(more.clone()).await, c.complete(more.clone()).await] {
        let error = answer.error(400);
        assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{more}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
        let top = param.split(['.', '[']).next().unwrap();
        assert!(error["message"].as_str().unwrap().contains(top), "{error}");
    }
}

#[tokio::test]
async fn wrong_types_name_the_field() {
    let c = client(Fake::default());
    for (field, value) in [
        ("model", json!(3)),
        ("temperature", json!("hot")),
        ("top_p", json!([1])),
        ("top_k", json!(1.5)),
        ("min_p", json!(true)),
        ("presence_penalty", json!("1")),
        ("frequency_penalty", json!({})),
        ("repetition_penalty", json!("x")),
        ("n", json!("2")),
        ("n", json!(1.0)),
        ("max_tokens", json!("many")),
        ("max_tokens", json!(10.5)),
        ("seed", json!("lucky")),
        ("seed", json!(0.5)),
        ("stop", json!(7)),
        ("stream", json!("yes")),
        ("logit_bias", json!([1])),
        ("ignore_eos", json!(1)),
        ("response_format", json!("json")),
    ] {
        both_refuse(&c, json!({field: value}), field, "invalid_type").await;
    }
    both_refuse(&c, json!({"stop": ["a", 1]}), "stop[1]", "invalid_type").await;
    both_refuse(&c, json!({"logit_bias": {"5": "x"}}), "logit_bias.5", "invalid_type").await;
    both_refuse(&c, json!({"stream": true, "stream_options": 1}), "stream_options", "invalid_type").await;
    let nested = json!({"stream": true, "stream_options": {"include_usage": 1}});
    both_refuse(&c, nested, "stream_options.include_usage", "invalid_type").await;
    both_refuse(&c, json!({"response_format": {"type": 1}}), "response_format.type", "invalid_type").await;
    assert!(c.fake.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn numbers_outside_their_range_name_the_field() {
    let c = client(Fake::default());
    for (field, values) in [
        ("temperature", vec![json!(-0.1), json!(2.01), json!(1e300)]),
        ("top_p", vec![json!(-0.1), json!(1.1)]),
        ("top_k", vec![json!(-2), json!(u64::MAX)]),
        ("min_p", vec![json!(-0.1), json!(1.1)]),
        ("presence_penalty", vec![json!(-2.1), json!(2.1)]),
        ("frequency_penalty", vec![json!(-2.1), json!(2.1)]),
        ("repetition_penalty", vec![json!(0), json!(-1), json!(11)]),
        ("n", vec![json!(0), json!(-1), json!(129), json!(i64::MAX)]),
        ("max_tokens", vec![json!(0), json!(-5), json!(1u64 << 40), json!(u64::MAX)]),
        ("seed", vec![json!(u64::MAX)]),
        ("stop", vec![json!(""), json!(["a", ""]), json!(vec!["a"; 17]), json!("x".repeat(1025))]),
        ("logit_bias", vec![json!({"300": 1}), json!({"-1": 1}), json!({"hello": 1}), json!({"99999999999": 1})]),
        ("logit_bias.5", vec![json!({"5": 101}), json!({"5": -100.5})]),
        ("response_format.type", vec![json!({"type": "xml"})]),
    ] {
        for value in values {
            let name = field.split('.').next().unwrap();
            both_refuse(&c, json!({name: value}), field, "invalid_value").await;
        }
    }
    both_refuse(&c, json!({"stream_options": {"include_usage": true}}), "stream_options", "invalid_value").await;
    // A float too large for any type is no JSON number to us.
    let answer = c.post_text("/v1/completions", r#"{"prompt": "x", "temperature": 1e999}"#).await;
    assert_eq!(answer.error(400)["code"], "invalid_json");
    assert!(c.fake.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn invalid_json_is_met_with_its_position() {
    let c = client(Fake::default());
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let error = c.post_text(path, "{\"prompt\":\n  \"a\",,}").await.error(400);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("line 2 column 7"), "{message}");
        assert_eq!(error["code"], "invalid_json");
        for body in ["", "{", "nul", "{\"a\": 1} x", "{\"a\": \"\\ud800\"}", "\u{feff}{}"] {
            assert_eq!(c.post_text(path, body).await.error(400)["code"], "invalid_json", "{body}");
        }
        assert_eq!(c.post_text(path, vec![b'"', 0xff, b'"']).await.error(400)["code"], "invalid_json");
        assert_eq!(c.post_text(path, "[".repeat(100_000)).await.error(400)["code"], "invalid_json");
        for body in ["[]", "3", "\"x\"", "null"] {
            let error = c.post_text(path, body).await.error(400);
            assert!(error["message"].as_str().unwrap().contains("JSON object"), "{error}");
        }
    }
}

#[tokio::test]
async fn unknown_fields_and_nulls_are_ignored() {
    let c = client(Fake::default());
    let more = json!({
        "user": "me", "store": false, "metadata": {"a": 1}, "whatever": [[[]]], "temperature": null, "stop": null,
        "n": null, "logit_bias": null, "response_format": null, "stream_options": null, "max_tokens": null,
        "seed": null, "tools": null, "logprobs": null, "kv": null, "model": null
    });
    assert_eq!(c.chat(more.clone()).await.status, 200);
    assert_eq!(c.complete(more).await.status, 200);
    let seen = c.fake.seen.lock().unwrap();
    assert_eq!((seen[0].max_tokens, seen[1].max_tokens), (None, Some(16)));
    // The model's own default, where the request says nothing.
    assert_eq!(seen[0].sampling.temperature, 0.5);
}

#[tokio::test]
async fn the_engine_gets_what_was_asked() {
    let c = client(Fake::default());
    let more = json!({
        "model": "fake", "temperature": 0, "top_p": 0, "top_k": -1, "min_p": 0.25, "presence_penalty": -2,
        "frequency_penalty": 2, "repetition_penalty": 1.5, "seed": -1, "stop": ["x", "yy"], "n": 2,
        "max_tokens": 7, "logit_bias": {"5": -100, "299": 100}, "ignore_eos": true, "kv": "f16",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": true, "schema": {"type": "object"}}}
    });
    assert_eq!(c.complete(more).await.status, 200);
    let r = c.fake.only();
    assert_eq!(r.prompt, [104, 105]);
    let s = &r.sampling;
    assert_eq!((s.temperature, s.top_k, s.min_p, s.repetition_penalty), (0.0, 0, 0.25, 1.5));
    assert_eq!((s.presence_penalty, s.frequency_penalty, s.seed), (-2.0, 2.0, Some(u64::MAX)));
    assert_eq!(s.logit_bias, [(5, -100.0), (299, 100.0)]);
    assert!(s.top_p > 0.0 && s.top_p < 1e-6);
    assert_eq!((r.max_tokens, r.n, r.ignore_eos, r.logprobs), (Some(7), 2, true, None));
    assert_eq!(r.stop, ["x", "yy"]);
    assert_eq!(r.constraint, Some(ConstraintSpec::JsonSchema(json!({"type": "object"}))));
    // The engine takes everything this parser lets through.
    assert_eq!(r.validate(300), Ok(()));
}

#[tokio::test]
async fn the_edges_of_every_range_are_accepted_by_the_engine_too() {
    let c = client(Fake::default());
    for more in [
        json!({"temperature": 2, "top_p": 1, "min_p": 1, "presence_penalty": 2, "frequency_penalty": -2, "n": 128}),
        json!({"temperature": 0, "top_p": 0, "min_p": 0, "repetition_penalty": 10, "seed": i64::MIN}),
        json!({"seed": i64::MAX, "stop": vec!["x"; 16], "max_tokens": i32::MAX, "top_k": i32::MAX}),
        json!({"stop": "x".repeat(1024), "logit_bias": {"0": 100.0}, "repetition_penalty": 0.01}),
    ] {
        assert_eq!(c.complete(more.clone()).await.status, 200, "{more}");
        assert_eq!(c.chat(more).await.status, 200);
    }
    for request in c.fake.seen.lock().unwrap().iter() {
        assert_eq!(request.validate(300), Ok(()), "{request:?}");
    }
}

#[tokio::test]
async fn response_formats() {
    let c = client(Fake::default());
    let cases = [
        (json!({"type": "text"}), None),
        (json!({"type": "json_object"}), Some(ConstraintSpec::JsonObject)),
        (json!({"type": "json_object", "schema": {"a": 1}}), Some(ConstraintSpec::JsonSchema(json!({"a": 1})))),
        (json!({"type": "regex", "pattern": "a+"}), Some(ConstraintSpec::Regex("a+".into()))),
        (json!({"type": "lark", "grammar": "start: \"a\""}), Some(ConstraintSpec::Lark("start: \"a\"".into()))),
    ];
    for (format, constraint) in cases {
        assert_eq!(c.chat(json!({"response_format": format})).await.status, 200);
        assert_eq!(c.fake.seen.lock().unwrap().pop().unwrap().constraint, constraint);
    }
    for (format, param, code) in [
        (json!({}), "response_format.type", "missing_required_parameter"),
        (json!({"type": "json_schema"}), "response_format.json_schema", "missing_required_parameter"),
        (
            json!({"type": "json_schema", "json_schema": {"name": "a"}}),
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        (
            json!({"type": "json_schema", "json_schema": {"schema": "a"}}),
            "response_format.json_schema.schema",
            "invalid_type",
        ),
        (json!({"type": "regex"}), "response_format.pattern", "missing_required_parameter"),
    ] {
        both_refuse(&c, json!({"response_format": format}), param, code).await;
    }
}

#[tokio::test]
async fn a_request_chooses_how_its_cache_is_kept() {
    for (kv, chosen) in [
        (json!("f16"), None),
        (json!({"recipe": "f16"}), None),
        (json!("bf16"), Some("bf16")),
        (json!({"recipe": "k=f32,v=bf16(window=64)"}), Some("k=f32,v=bf16(window=64)")),
    ] {
        let c = client(Fake::default());
        assert_eq!(c.chat(json!({"kv": kv})).await.status, 200);
        assert_eq!(c.fake.only().kv.as_deref(), chosen);
    }
    let c = client(Fake::default());
    for (kv, param, said) in [
        (json!("bf61"), "kv", "did you mean `bf16`?"),
        (json!({"recipe": "f17"}), "kv.recipe", "did you mean `f16`?"),
        (json!("f16 + bf16"), "kv", "clash"),
        (json!("k=[f16"), "kv", "column 7"),
        (json!("f16(window=1e9)"), "kv", "not a whole number"),
        // The server's files are none of the clients' business.
        (json!("recipes/f16.toml"), "kv", "unknown recipe"),
        (json!("/etc/passwd"), "kv", "unknown recipe"),
    ] {
        both_refuse(&c, json!({"kv": kv}), param, "invalid_value").await;
        let message = c.chat(json!({"kv": kv})).await.error(400)["message"].as_str().unwrap().to_string();
        assert!(message.contains(said), "{message}");
    }
    both_refuse(&c, json!({"kv": 3}), "kv", "invalid_type").await;
    // Stretches of the prompt come with it, with or without a recipe.
    for kv in [json!({"spans": [[0, 2], [3, 5]]}), json!({"recipe": "guikv", "spans": [[0, 2], [3, 5]]})] {
        let c = client(Fake::default());
        assert_eq!(c.chat(json!({"kv": kv})).await.status, 200);
        assert_eq!(c.fake.only().spans, [0..2, 3..5]);
    }
    both_refuse(&c, json!({"kv": {"spans": 3}}), "kv.spans", "invalid_type").await;
    for (pin, seconds) in
        [(json!("10m"), 600), (json!("90s"), 90), (json!("24h"), 86_400), (json!(7), 7), (json!("0s"), 0)]
    {
        let c = client(Fake::default());
        assert_eq!(c.chat(json!({"kv": {"pin": pin}})).await.status, 200);
        assert_eq!(c.fake.only().wish.pin, Some(std::time::Duration::from_secs(seconds)));
    }
    for pin in [
        json!("10"),
        json!("m"),
        json!("+1m"),
        json!("1.5h"),
        json!("25h"),
        json!(-1),
        json!(86_401),
        json!("99999999999999999999h"),
    ] {
        both_refuse(&c, json!({"kv": {"pin": pin}}), "kv.pin", "invalid_value").await;
    }
    both_refuse(&c, json!({"kv": {"pin": true}}), "kv.pin", "invalid_type").await;
    for (lossy, said) in [(json!(true), (Some(true), None)), (json!({"within": 1.5}), (Some(true), Some(1500)))] {
        let c = client(Fake::default());
        assert_eq!(c.chat(json!({"kv": {"lossy": lossy}})).await.status, 200);
        let wish = c.fake.only().wish.clone();
        assert_eq!((wish.lossy, wish.within.map(|within| within.as_millis())), said);
    }
    both_refuse(&c, json!({"kv": {"lossy": {}}}), "kv.lossy.within", "missing_required_parameter").await;
    both_refuse(&c, json!({"kv": {"lossy": {"within": -1}}}), "kv.lossy.within", "invalid_value").await;
    both_refuse(&c, json!({"kv": {"lossy": 1}}), "kv.lossy", "invalid_type").await;
    both_refuse(&c, json!({"kv": {"spans": [[0, 2], [3]]}}), "kv.spans[1]", "invalid_type").await;
    both_refuse(&c, json!({"kv": {"spans": [[-1, 2]]}}), "kv.spans[0]", "invalid_type").await;
    both_refuse(&c, json!({"kv": {}}), "kv.recipe", "missing_required_parameter").await;
}

#[tokio::test]
async fn recipes_are_listed_with_what_they_cost() {
    let list = client(Fake::default()).get("/v1/kv/recipes").await;
    assert_eq!(list.status, 200);
    let list: Value = serde_json::from_str(&list.text).unwrap();
    assert_eq!((&list["object"], &list["default"]), (&json!("list"), &json!("f16")));
    assert_eq!(list["data"][0]["name"], "f16");
    assert_eq!(list["data"][0]["available"], true);
}

#[tokio::test]
async fn messages_are_checked_one_by_one() {
    let c = client(Fake::default());
    let user = json!({"role": "user", "content": "hi"});
    for (messages, param, code) in [
        (json!([]), "messages", "invalid_value"),
        (json!("hi"), "messages", "invalid_type"),
        (json!(["hi"]), "messages[0]", "invalid_type"),
        (json!([{"content": "x"}]), "messages[0].role", "missing_required_parameter"),
        (json!([{"role": "king", "content": "x"}]), "messages[0].role", "invalid_value"),
        (json!([user, {"role": "user"}]), "messages[1].content", "missing_required_parameter"),
        (json!([user, {"role": "user", "content": null}]), "messages[1].content", "missing_required_parameter"),
        (json!([{"role": "user", "content": 5}]), "messages[0].content", "invalid_type"),
        (json!([{"role": "user", "content": ["x"]}]), "messages[0].content[0]", "invalid_type"),
        (json!([{"role": "user", "content": [{}]}]), "messages[0].content[0].type", "missing_required_parameter"),
        (
            json!([{"role": "user", "content": [{"type": "text"}]}]),
            "messages[0].content[0].text",
            "missing_required_parameter",
        ),
        (
            json!([user, {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "image_url"}]}]),
            "messages[1].content[1].type",
            "unsupported_value",
        ),
        (json!([{"role": "user", "content": "refuse me"}]), "messages", "invalid_value"),
    ] {
        let error = c.chat(json!({"messages": messages})).await.error(400);
        assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{messages}: {error}");
    }
    let error = c.post("/v1/chat/completions", json!({})).await.error(400);
    assert_eq!(error["param"], "messages");
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    let error = c.chat(json!({"messages": image})).await.error(400);
    assert!(error["message"].as_str().unwrap().contains("image_url"));
    assert!(c.fake.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn content_parts_and_tool_turns_reach_the_template() {
    let c = client(Fake::default());
    let messages = json!([
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]);
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    assert_eq!(c.chat(json!({"messages": messages, "tools": tools})).await.status, 200);
    let text: Vec<u8> = c.fake.only().prompt.iter().map(|id| *id as u8).collect();
    assert_eq!(String::from_utf8(text).unwrap(), "system:be brief\nuser:ab\nassistant:\ntool:42\n");
    assert_eq!(c.fake.tools.lock().unwrap().take(), Some(tools.clone()));
    assert_eq!(c.chat(json!({"tools": tools, "tool_choice": "none"})).await.status, 200);
    assert_eq!(*c.fake.tools.lock().unwrap(), None);
    assert_eq!(c.chat(json!({"tool_choice": "required"})).await.error(400)["param"], "tool_choice");
    assert_eq!(c.chat(json!({"tool_choice": {"type": "function"}})).await.error(400)["param"], "tool_choice");
    assert_eq!(c.chat(json!({"tools": [{"type": "function"}]})).await.error(400)["param"], "tools[0].function");
    assert_eq!(c.chat(json!({"tools": {}})).await.error(400)["param"], "tools");
    assert_eq!(c.chat(json!({"chat_template_kwargs": 1})).await.error(400)["param"], "chat_template_kwargs");
}

#[tokio::test]
async fn limits_and_logprobs_of_chats() {
    let c = client(Fake::default());
    let cases = [
        (json!({"max_completion_tokens": 3}), Some(3), None),
        (json!({"max_completion_tokens": 3, "max_tokens": 9}), Some(3), None),
        (json!({"max_tokens": 9, "logprobs": true}), Some(9), Some(0)),
        (json!({"logprobs": true, "top_logprobs": 20}), None, Some(20)),
        (json!({"logprobs": false, "top_logprobs": 0}), None, None),
    ];
    for (more, max, logprobs) in cases {
        assert_eq!(c.chat(more.clone()).await.status, 200);
        let seen = c.fake.seen.lock().unwrap().pop().unwrap();
        assert_eq!((seen.max_tokens, seen.logprobs), (max, logprobs), "{more}");
    }
    for (more, param) in [
        (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logprobs": 3}), "logprobs"),
    ] {
        assert_eq!(c.chat(more).await.error(400)["param"], param);
    }
}

#[tokio::test]
async fn prompts_in_all_four_forms() {
    let c = client(Fake::default());
    for (prompt, expected) in [
        (json!("ab"), vec![vec![97, 98]]),
        (json!(["a", "b"]), vec![vec![97], vec![98]]),
        (json!([5, 299]), vec![vec![5, 299]]),
        (json!([[5], [6, 7]]), vec![vec![5], vec![6, 7]]),
    ] {
        assert_eq!(c.complete(json!({"prompt": prompt})).await.status, 200);
        let seen: Vec<_> = c.fake.seen.lock().unwrap().drain(..).map(|r| r.prompt).collect();
        assert_eq!(seen, expected);
    }
    for (prompt, param) in [
        (json!(""), "prompt"),
        (json!([]), "prompt"),
        (json!([[]]), "prompt[0]"),
        (json!(["a", ""]), "prompt[1]"),
        (json!([1, "a"]), "prompt[1]"),
        (json!([[1], 2]), "prompt[1]"),
        (json!([300]), "prompt[0]"),
        (json!([-1]), "prompt[0]"),
        (json!([1.5]), "prompt[0]"),
        (json!([[1, 2, 4294967296u64]]), "prompt[0][2]"),
        (json!({"a": 1}), "prompt"),
        (json!(7), "prompt"),
    ] {
        assert_eq!(c.complete(json!({"prompt": prompt})).await.error(400)["param"], param, "{prompt}");
    }
    assert_eq!(c.post("/v1/completions", json!({})).await.error(400)["code"], "missing_required_parameter");
    assert_eq!(c.complete(json!({"prompt": vec!["a"; 65], "n": 2})).await.error(400)["param"], "n");
    assert_eq!(c.complete(json!({"prompt": vec!["a"; 129]})).await.error(400)["param"], "n");
    assert_eq!(c.complete(json!({"logprobs": 21})).await.error(400)["param"], "logprobs");
    assert_eq!(c.complete(json!({"best_of": 3})).await.error(400)["param"], "best_of");
    assert_eq!(c.complete(json!({"suffix": "x"})).await.error(400)["param"], "suffix");
    assert_eq!(c.complete(json!({"echo": true, "logprobs": 1})).await.error(400)["param"], "echo");
    assert!(c.fake.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_prompt_must_leave_room_in_the_context() {
    let c = client(Fake::default());
    assert_eq!(c.complete(json!({"prompt": "x".repeat(199)})).await.status, 200);
    for tokens in [200, 5000] {
        let error = c.complete(json!({"prompt": "x".repeat(tokens)})).await.error(413);
        assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("prompt")));
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&format!("{tokens} tokens")) && message.contains("200 tokens"), "{message}");
    }
    let long = json!([{"role": "user", "content": "x".repeat(300)}]);
    let error = c.chat(json!({"messages": long})).await.error(413);
    assert_eq!(error["param"], "messages");
    assert!(error["message"].as_str().unwrap().contains("306 tokens"));
}

#[tokio::test]
async fn beam_search_is_asked_for_as_in_vllm() {
    let c = client(Fake::default());
    let asked =
        json!({"use_beam_search": true, "n": 2, "best_of": 4, "length_penalty": 0.5, "early_stopping": "never"});
    assert_eq!(c.complete(asked).await.status, 200);
    let beam = c.fake.only().beam.unwrap();
    assert_eq!((beam.width, beam.length_penalty, beam.stopping), (4, 0.5, cachalot_engine::Stopping::Never));
    let c = client(Fake::default());
    assert_eq!(c.chat(json!({"use_beam_search": true, "n": 3})).await.status, 200);
    assert_eq!(c.fake.only().beam.map(|beam| (beam.width, beam.stopping)), Some((3, Default::default())));
    let c = client(Fake::default());
    assert_eq!(c.chat(json!({"use_beam_search": false, "best_of": 1})).await.status, 200);
    assert_eq!(c.fake.only().beam, None);
    let c = client(Fake::default());
    both_refuse(&c, json!({"best_of": 3}), "best_of", "unsupported_value").await;
    both_refuse(&c, json!({"use_beam_search": true, "n": 3, "best_of": 2}), "best_of", "invalid_value").await;
    both_refuse(&c, json!({"use_beam_search": 1}), "use_beam_search", "invalid_type").await;
    both_refuse(&c, json!({"use_beam_search": true, "early_stopping": 2}), "early_stopping", "invalid_type").await;
    both_refuse(&c, json!({"use_beam_search": true, "length_penalty": 1000}), "length_penalty", "invalid_value").await;
}

#[tokio::test]
async fn chunks_and_how_they_are_used_are_read_or_refused() {
    let marked = json!([{"role": "user", "content": [
        {"type": "text", "text": "one", "cache": "chunk"},
        {"type": "text", "text": "two"},
    ]}]);
    for (reuse, method) in [
        (json!("cacheblend(share=0.3)"), "cacheblend(share=0.3)"),
        (json!({"method": "pie"}), "pie"),
        (json!({"method": "cache-craft", "alpha": 0.7}), "cache-craft(alpha=0.7)"),
        (json!({"method": "kvshare", "share": 0.2, "every": 16, "rows": 4}), "kvshare(share=0.2, every=16, rows=4)"),
        (json!({"method": "ape", "temperature": 0.8, "scale": 1}), "ape(temperature=0.8, scale=1)"),
        (json!({"method": "kvcomm", "anchors": 7}), "kvcomm(gamma=0.3, anchors=7)"),
    ] {
        let c = client(Fake::default());
        let kv = json!({"reuse": reuse, "chunks": [[0, 4], [5, 7]]});
        assert_eq!(c.chat(json!({"messages": marked, "kv": kv})).await.status, 200);
        let wish = c.fake.only().wish.clone();
        assert_eq!(wish.blend.unwrap().to_string(), method);
        assert_eq!(wish.chunks, [0..4, 5..7]);
    }
    let c = client(Fake::default());
    both_refuse(&c, json!({"kv": {"reuse": "cachebland"}}), "kv.reuse", "invalid_value").await;
    both_refuse(&c, json!({"kv": {"reuse": {"share": 0.2}}}), "kv.reuse.method", "missing_required_parameter").await;
    both_refuse(&c, json!({"kv": {"reuse": {"method": "pie", "share": 2}}}), "kv.reuse.share", "invalid_value").await;
    both_refuse(&c, json!({"kv": {"reuse": {"method": "pie", "alpha": 1}}}), "kv.reuse.alpha", "invalid_value").await;
    both_refuse(&c, json!({"kv": {"reuse": {"method": "kvshare", "rows": 1.5}}}), "kv.reuse.rows", "invalid_value")
        .await;
    both_refuse(&c, json!({"kv": {"reuse": {"method": "kvshare", "rows": "8"}}}), "kv.reuse.rows", "invalid_type")
        .await;
    both_refuse(&c, json!({"kv": {"reuse": 3}}), "kv.reuse", "invalid_type").await;
    let wrong = |name: &str, value: Value| json!({"kv": {"reuse": {"method": "ape", name: value}}});
    both_refuse(&c, wrong("temperature", json!(0)), "kv.reuse.temperature", "invalid_value").await;
    both_refuse(&c, wrong("scale", json!("1")), "kv.reuse.scale", "invalid_type").await;
    both_refuse(&c, wrong("share", json!(0.1)), "kv.reuse.share", "invalid_value").await;
    both_refuse(&c, json!({"kv": {"chunks": [[3]]}}), "kv.chunks[0]", "invalid_type").await;
    let unknown = json!([{"role": "user", "content": [{"type": "text", "text": "one", "cache": "forever"}]}]);
    let error = c.chat(json!({"messages": unknown})).await.error(400);
    assert_eq!(error["param"], "messages[0].content[0].cache");
}
