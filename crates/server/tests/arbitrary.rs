//! Arbitrary bodies: every one is answered, refusals have OpenAI's shape, and whatever is accepted the engine accepts too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod support;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use support::{Fake, check_error, client};

const FIELDS: [&str; 35] = [
    "model",
    "messages",
    "prompt",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "logit_bias",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "stop",
    "stream",
    "stream_options",
    "ignore_eos",
    "response_format",
    "tools",
    "tool_choice",
    "logprobs",
    "top_logprobs",
    "echo",
    "best_of",
    "suffix",
    "kv",
    "recipe",
    "report",
    "share",
    "chat_template_kwargs",
    "role",
    "content",
    "type",
];

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..130).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-3.0..3.0f64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
        prop_oneof!["user", "system", "text", "json_object", "json_schema", "f16", "fake", "auto"]
            .prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let key = prop_oneof![proptest::sample::select(&FIELDS[..]).prop_map(str::to_string), "[0-9]{1,3}"];
    scalar().prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..4)
                .prop_map(|pairs| Value::from(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn body() -> impl Strategy<Value = Value> {
    let field = proptest::sample::select(&FIELDS[..]).prop_map(str::to_string);
    prop::collection::vec((field, value()), 0..4).prop_map(|pairs| {
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}], "prompt": "hi"});
        body.as_object_mut().unwrap().extend(pairs);
        body
    })
}

fn ask(body: Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let c = client(Fake::default());
        for path in ["/v1/chat/completions", "/v1/completions"] {
            let answer = c.post_text(path, body.clone()).await;
            if answer.status.as_u16() != 200 {
                assert!(answer.status.is_client_error(), "{}", answer.text);
                check_error(&answer.json());
            }
        }
        for request in c.fake.seen.lock().unwrap().iter() {
            assert_eq!(request.validate(c.fake.info.vocab), Ok(()), "{request:?}");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        ask(bytes);
    }

    #[test]
    fn any_json_in_any_field(body in body()) {
        ask(body.to_string().into_bytes());
    }

    #[test]
    fn valid_json_with_damage(body in body(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = body.to_string().into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        ask(bytes);
    }
}
