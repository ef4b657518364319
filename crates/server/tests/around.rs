//! What happens around every request: keys, limits, ids, timeouts, unknown routes, shutting down, metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use cachalot_server::{AppState, Phase, ServerConfig, router};
use serde_json::{Value, json};
use support::{Client, Fake, check_error, client, with_config};

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let builder = headers.iter().fold(Request::builder().method(method).uri(path), |b, (k, v)| b.header(*k, *v));
    builder.body(Body::from(r#"{"prompt": "hi", "messages": [{"role": "user", "content": "hi"}]}"#)).unwrap()
}

#[tokio::test]
async fn models() {
    let c = client(Fake::default());
    let list = c.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let model = &list["data"][0];
    assert_eq!(
        (&model["id"], &model["object"], &model["created"]),
        (&json!("org/fake"), &json!("model"), &json!(1_700_000_000))
    );
    for path in ["/v1/models/org/fake", "/v1/models/org%2Ffake", "/v1/models/fake"] {
        assert_eq!(&c.get(path).await.json(), model, "{path}");
    }
    let error = c.get("/v1/models/gpt-4").await.error(404);
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
    for name in ["org/fake", "fake"] {
        assert_eq!(c.chat(json!({"model": name})).await.status, 200);
    }
    let error = c.chat(json!({"model": "gpt-4"})).await.error(404);
    assert!(error["message"].as_str().unwrap().contains("'gpt-4'"));
    assert!(error["message"].as_str().unwrap().contains("'org/fake'"));
    c.complete(json!({"model": "x".repeat(100_000)})).await.error(404);
}

#[tokio::test]
async fn unknown_routes_and_methods() {
    let c = client(Fake::default());
    for path in ["/v1/embeddings", "/nothing", "/v1/chat/completions/", "/v1/models/"] {
        assert_eq!(c.get(path).await.error(404)["code"], "unknown_url", "{path}");
    }
    let answer = c.get("/v1/chat/completions").await;
    assert_eq!(answer.error(405)["code"], "method_not_allowed");
    assert_eq!(answer.headers["allow"], "POST");
    let answer = c.send(request("DELETE", "/v1/models", &[])).await;
    answer.error(405);
    assert!(answer.headers["allow"].to_str().unwrap().contains("GET"));
    let pointer = c.get("/").await;
    assert!(pointer.text.contains("/v1/chat/completions"));
    assert_eq!(pointer.headers["content-type"], "text/plain; charset=utf-8");
}

#[tokio::test]
async fn media_types() {
    let c = client(Fake::default());
    for good in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
        assert_eq!(c.send(request("POST", "/v1/completions", &[("content-type", good)])).await.status, 200, "{good}");
    }
    for bad in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "", "\u{80}"] {
        let answer = c.send(request("POST", "/v1/completions", &[("content-type", bad)])).await;
        assert_eq!(answer.error(415)["code"], "unsupported_media_type");
    }
    c.send(request("POST", "/v1/chat/completions", &[])).await.error(415);
}

#[tokio::test]
async fn bodies_are_bounded_each_and_in_sum() {
    let c = with_config(Fake::default(), ServerConfig { body_limit: 100, ..ServerConfig::default() });
    let exact = format!("{{\"prompt\": \"{}\"}}", "x".repeat(86));
    assert_eq!(exact.len(), 100);
    assert_eq!(c.post_text("/v1/completions", exact.clone()).await.status, 200);
    let answer = c.post_text("/v1/completions", exact.clone() + " ").await;
    assert_eq!(answer.error(413)["code"], "body_too_large");
    // Without a declared length it is found out while reading, and the rest is not read.
    let pieces = futures::stream::iter((0..3).map(|_| Ok::<_, std::io::Error>(vec![b' '; 60])))
        .chain(futures::stream::pending());
    use futures::StreamExt;
    let answer = c.post_text("/v1/completions", Body::from_stream(pieces)).await;
    assert_eq!(answer.error(413)["code"], "body_too_large");
    // One body too many at the same time.
    let c = with_config(Fake::default(), ServerConfig { body_budget: 150, ..ServerConfig::default() });
    let held = futures::stream::iter([Ok::<_, std::io::Error>(exact.clone())]).chain(futures::stream::pending());
    let (slow, other) = (c.post_text("/v1/completions", Body::from_stream(held)), async {
        tokio::task::yield_now().await;
        c.post_text("/v1/completions", exact.clone()).await
    });
    tokio::select! {
        biased;
        _ = slow => panic!("it never ends"),
        answer = other => assert_eq!(answer.error(503)["code"], "overloaded"),
    }
    // What it held was given back.
    assert_eq!(c.post_text("/v1/completions", exact).await.status, 200);
}

#[tokio::test]
async fn bodies_that_break_off_or_do_not_come() {
    use futures::StreamExt;
    let config = ServerConfig { body_timeout: Duration::from_millis(20), ..ServerConfig::default() };
    let c = with_config(Fake::default(), config);
    let broken = futures::stream::iter([Ok("{\"pro"), Err(std::io::Error::other("reset"))]);
    let error = c.post_text("/v1/completions", Body::from_stream(broken)).await.error(400);
    assert_eq!(error["code"], "incomplete_body");
    let stuck = futures::stream::iter([Ok::<_, std::io::Error>("{\"pro")]).chain(futures::stream::pending());
    let answer = c.post_text("/v1/completions", Body::from_stream(stuck)).await;
    assert_eq!(answer.error(408)["code"], "body_timeout");
    assert_eq!(answer.headers["connection"], "close");
}

#[tokio::test]
async fn keys() {
    let api_keys = vec!["sk-one".to_string(), "sk-two".to_string()];
    let c = with_config(Fake::default(), ServerConfig { api_keys, ..ServerConfig::default() });
    let post = |auth: &'static str| {
        request("POST", "/v1/completions", &[("content-type", "application/json"), ("authorization", auth)])
    };
    for good in ["Bearer sk-one", "bearer sk-two", "Bearer  sk-two "] {
        assert_eq!(c.send(post(good)).await.status, 200, "{good}");
    }
    for bad in
        ["Bearer sk-thr", "Bearer sk-on", "Bearer sk-one1", "Bearer ", "sk-one", "Basic sk-one", "Bearersk-one", ""]
    {
        let answer = c.send(post(bad)).await;
        let error = answer.error(401);
        assert_eq!((&error["code"], &error["type"]), (&json!("invalid_api_key"), &json!("invalid_request_error")));
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert!(!answer.text.contains("sk-"), "keys are not repeated");
    }
    for path in ["/v1/models", "/v1/models/fake", "/metrics", "/nothing", "/v1/chat/completions"] {
        assert_eq!(c.get(path).await.error(401)["code"], "invalid_api_key", "{path}");
    }
    for path in ["/", "/health"] {
        assert_eq!(c.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn cors_is_off_unless_asked_for() {
    let preflight = || {
        let headers = [
            ("origin", "https://page.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type,x-stainless-os"),
        ];
        request("OPTIONS", "/v1/chat/completions", &headers)
    };
    let allowed = |h: &HeaderMap| h.get("access-control-allow-origin").map(|v| v.to_str().unwrap().to_string());
    let c = client(Fake::default());
    let answer = c.send(preflight()).await;
    assert_eq!((answer.status.as_u16(), allowed(&answer.headers)), (405, None));
    for (origins, expected) in [
        (vec!["*".to_string()], Some("*")),
        (vec!["https://other.example".into(), "https://page.example".into()], Some("https://page.example")),
        (vec!["https://other.example".into()], None),
    ] {
        let config = ServerConfig { cors_origins: origins, api_keys: vec!["sk".into()], ..ServerConfig::default() };
        let c = with_config(Fake::default(), config);
        let answer = c.send(preflight()).await;
        assert_eq!(allowed(&answer.headers).as_deref(), expected);
        if expected.is_some() {
            assert_eq!(answer.status, 200);
            assert!(answer.headers["access-control-allow-headers"].to_str().unwrap().contains("x-stainless-os"));
        }
        // Refusals can be read by the page too.
        let answer = c.send(request("GET", "/v1/models", &[("origin", "https://page.example")])).await;
        assert_eq!((answer.status.as_u16(), allowed(&answer.headers).as_deref()), (401, expected));
    }
}

#[tokio::test]
async fn every_answer_has_an_id() {
    let c = client(Fake::default());
    let mut seen = std::collections::HashSet::new();
    for path in ["/", "/health", "/v1/models", "/nothing", "/v1/completions", "/health"] {
        let id = c.get(path).await.headers["x-request-id"].to_str().unwrap().to_string();
        assert!(id.starts_with("req-") && seen.insert(id));
    }
    for (sent, kept) in [("mine-1.2_3", true), ("", false), ("a b", false), ("x\"y", false), (&"x".repeat(65), false)] {
        let answer = c.send(request("GET", "/health", &[("x-request-id", sent)])).await;
        assert_eq!(answer.headers["x-request-id"] == sent, kept, "{sent}");
    }
}

#[tokio::test]
async fn answers_that_take_too_long_are_cancelled() {
    let config = ServerConfig { request_timeout: Duration::from_millis(30), ..ServerConfig::default() };
    for fake in [
        Fake { stuck: true, ..Fake::default() },
        Fake { endless: true, pace: Duration::from_millis(5), ..Fake::default() },
    ] {
        let c = with_config(fake, config.clone());
        let answer = c.chat(json!({})).await;
        assert_eq!(answer.error(504)["code"], "timeout");
        assert_eq!(answer.headers["x-should-retry"], "false");
        let (events, done) = c.chat(json!({"stream": true})).await.events();
        assert!(!done);
        assert_eq!(check_error(events.last().unwrap())["code"], "timeout");
        assert_eq!(c.fake.live.load(SeqCst), 0, "the generations were cancelled");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_kept_open_with_comments() {
    let config = ServerConfig {
        keep_alive: Duration::from_secs(10),
        request_timeout: Duration::from_secs(35),
        ..ServerConfig::default()
    };
    let c = with_config(Fake { stuck: true, ..Fake::default() }, config);
    let answer = c.chat(json!({"stream": true})).await;
    assert_eq!(answer.text.matches("\n: keep-alive\n").count(), 3, "{}", answer.text);
}

#[tokio::test]
async fn shutting_down_refuses_new_requests_and_cancels_at_last() {
    let (phase, seen) = tokio::sync::watch::channel(Phase::Running);
    let fake = Arc::new(Fake { endless: true, pace: Duration::from_millis(1), ..Fake::default() });
    let c = Client { router: router(AppState::with_phase(ServerConfig::default(), fake.clone(), seen)), fake };
    let script = async {
        while c.fake.live.load(SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        phase.send(Phase::Draining).unwrap();
        let answer = c.chat(json!({})).await;
        assert_eq!(answer.error(503)["code"], "shutting_down");
        assert!(answer.headers.contains_key("retry-after"));
        assert_eq!(c.get("/health").await.status, 503);
        assert_eq!(c.fake.live.load(SeqCst), 2, "those that run go on");
        phase.send(Phase::Cancelling).unwrap();
    };
    let (streamed, whole, ()) = tokio::join!(c.chat(json!({"stream": true})), c.chat(json!({})), script);
    let (events, done) = streamed.events();
    assert!(!done);
    assert_eq!(check_error(events.last().unwrap())["code"], "shutting_down");
    assert_eq!(whole.error(503)["code"], "shutting_down");
    assert_eq!(c.fake.live.load(SeqCst), 0);
}

#[tokio::test]
async fn a_panic_is_one_requests_misfortune() {
    let c = client(Fake::default());
    let error = c.chat(json!({"messages": [{"role": "user", "content": "panic please"}]})).await.error(500);
    assert!(!error["message"].as_str().unwrap().contains("asked for"), "panics are not told to clients");
    assert_eq!(c.chat(json!({})).await.status, 200);
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let c = client(Fake::default());
    c.complete(json!({})).await;
    c.complete(json!({"n": 0})).await;
    let answer = c.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    for line in [
        r#"cachalot_http_requests_total{route="/v1/completions",status="200"}"#,
        r#"cachalot_http_requests_total{route="/v1/completions",status="400"}"#,
        r#"cachalot_http_answer_seconds_bucket{le="1800"}"#,
        "# TYPE cachalot_http_generations gauge",
    ] {
        assert!(answer.text.contains(line), "{line}\n{}", answer.text);
    }
    assert!(!answer.text.contains("NaN"));
    let _: Value = c.get("/health").await.json();
}
