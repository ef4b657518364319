//! What of a prompt is there already, and whose it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use axum::body::Body;
use axum::http::Request;
use cachalot_server::ServerConfig;
use serde_json::json;
use support::{Fake, client, with_config};

#[tokio::test]
async fn a_prompt_is_explained_by_query_or_by_the_body_of_its_request() {
    let c = client(Fake::default());
    let by_query = c.get("/v1/kv/explain?prompt=hi%20you").await.json();
    assert_eq!(by_query["object"], "kv.explanation");
    assert_eq!(by_query["prompt_tokens"], 6);
    // The fake says that a prompt differs at its third token.
    assert_eq!(by_query["stop"]["kind"], "differs");
    assert_eq!((&by_query["stop"]["text"], &by_query["stop"]["cached_text"]), (&json!(" "), &json!("X")));
    // As clients do that declare a body with every request.
    let declared = Request::get("/v1/kv/explain?prompt=hi%20you").header("content-type", "application/json");
    assert_eq!(c.send(declared.body(Body::empty()).unwrap()).await.json(), by_query);
    let by_body = c.post("/v1/kv/explain", json!({"prompt": "hi you", "max_tokens": 5})).await.json();
    assert_eq!(by_body, by_query);
    let chat = json!({"messages": [{"role": "user", "content": "hi"}], "kv": "int8"});
    let chat = c.post("/v1/kv/explain", chat).await.json();
    assert_eq!((&chat["recipe"], &chat["prompt_tokens"]), (&json!("int8"), &json!("user:hi\n".len())));
    for (path, param) in [("/v1/kv/explain", "prompt"), ("/v1/kv/explain?prompt=%zz", "prompt")] {
        assert_eq!(c.get(path).await.error(400)["param"], param, "{path}");
    }
    let two = c.post("/v1/kv/explain", json!({"prompt": ["one", "two"]})).await;
    assert_eq!(two.error(400)["param"], "prompt");
    let unknown = c.post("/v1/kv/explain", json!({"prompt": "hi you", "kv": "int9"})).await;
    assert_eq!(unknown.error(400)["param"], "kv");
}

#[tokio::test]
async fn the_tenant_comes_from_the_key_and_never_from_the_body() {
    let api_keys = vec!["sk-one".to_string(), "sk-two".to_string()];
    let c = with_config(Fake::default(), ServerConfig { api_keys, ..ServerConfig::default() });
    let bodies = [
        json!({"prompt": "hi"}),
        json!({"prompt": "hi", "tenant": "sk-two", "user": "sk-two", "kv": {"recipe": "int8", "tenant": "sk-two"}}),
    ];
    for path in ["/v1/completions", "/v1/chat/completions"] {
        for key in ["sk-one", "sk-two"] {
            for body in &bodies {
                let mut body = body.clone();
                body["messages"] = json!([{"role": "user", "content": "hi"}]);
                let request = Request::post(path)
                    .header("content-type", "application/json")
                    .header("authorization", format!("Bearer {key}"));
                let answer = c.send(request.body(Body::from(body.to_string())).unwrap()).await;
                assert_eq!(answer.status, 200);
            }
        }
    }
    let seen: Vec<String> = c.fake.seen.lock().unwrap().iter().map(|request| request.tenant.clone()).collect();
    for four in seen.chunks(4) {
        assert_eq!((&four[0], &four[2]), (&four[1], &four[3]));
        assert_ne!(four[0], four[2]);
        assert!(four.iter().all(|tenant| tenant.len() == 32 && !tenant.contains("sk-")));
    }
    assert_eq!(seen.len(), 8);
}
