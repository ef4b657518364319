//! Sessions over HTTP, with the real engine and the embedded model.
#![allow(clippy::unwrap_used, clippy::panic)]

mod real;

use std::path::PathBuf;

use axum::body::Body;
use axum::http::Request;
use real::{chat, content, files, serve, user};
use serde_json::{Value, json};
use tower::ServiceExt;

const LINES: [&str; 3] = [
    "Tell me of the sea and of all the ships that you have seen on it, and of their names, and of their cargoes.",
    "And then?",
    "What came of it in the end?",
];

#[tokio::test]
async fn a_conversation_goes_on_after_a_restart_as_if_there_had_been_none() {
    let (restarted, steady) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = serve(Some(steady.path()));
    let mut tokens = 0;
    for (i, line) in LINES.into_iter().enumerate() {
        let other = serve(Some(restarted.path()));
        let (a, b) = (one.chat("one", "talk", line).await, other.chat("one", "talk", line).await);
        assert_eq!(a["choices"], b["choices"], "line {i}");
        assert_eq!(a["usage"], b["usage"], "line {i}");
        let session = &b["kv"]["session"];
        assert_eq!((&session["created"], &session["turns"]), (&json!(i == 0), &json!(2 * i + 2)));
        assert_eq!(session["tokens"], tokens);
        if i > 0 {
            // The last token of an answer is computed by nobody.
            assert_eq!((&session["restored_tokens"], &session["recompute_tokens"]), (&json!(tokens - 1), &json!(1)));
            assert_eq!(b["usage"]["prompt_tokens_details"]["cached_tokens"], tokens - 1);
        }
        tokens = b["usage"]["total_tokens"].as_u64().unwrap();
        // Loading waits for the answer to be saved.
        let loaded = other.post("/talk/load", Value::Null).await;
        assert_eq!((&loaded["tokens"], &loaded["recompute_tokens"]), (&json!(tokens), &json!(1)), "{loaded}");
    }
    // Who sends the whole conversation means the whole conversation.
    let shown = one.get("/talk").await;
    let said: Vec<Value> = shown["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|turn| json!({"role": turn["role"], "content": turn["content"]}))
        .collect();
    let last = serve(Some(restarted.path()));
    let whole = json!([&said[..], &[user("Why?")]].concat());
    let answer = last.ok(last.send("one", "POST", "/v1/chat/completions", chat("talk", whole)).await);
    assert_eq!(content(&answer), content(&one.chat("one", "talk", "Why?").await));
    assert_eq!(answer["kv"]["session"]["turns"], 8);
}

#[tokio::test]
async fn sessions_are_saved_forked_rewound_pinned_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(Some(dir.path()));
    let messages = json!([{"role": "system", "content": "You count ships. ".repeat(20)}, user("Well?")]);
    let saved = server.post("", json!({"name": "a", "messages": messages})).await;
    assert_eq!((&saved["turns"], &saved["saved_tokens"]), (&json!(2), &saved["tokens"]), "{saved}");
    let again = json!({"name": "a", "messages": messages});
    assert_eq!(server.refused(409, "/v1/kv/sessions", again.clone()).await["code"], "session_exists");
    let mut replace = again;
    replace["replace"] = json!(true);
    assert_eq!(server.post("", replace).await["cached_tokens"], saved["tokens"].as_u64().unwrap() - 1);
    let fork = server.post("", json!({"name": "b", "fork_of": "a", "turn": 1})).await;
    assert_eq!(fork["turns"], 1);
    let answer = server.chat("one", "b", "How many?").await;
    assert_eq!(answer["kv"]["session"]["turns"], 3);
    server.post("/b/load", Value::Null).await;
    assert_eq!(server.post("/b/rewind", json!({"turn": 1})).await["tokens"], fork["tokens"]);
    // Rewound and asked again: the same answer.
    let once_more = server.chat("one", "b", "How many?").await;
    assert_eq!(content(&once_more), content(&answer));
    // A hundredth of 64 MiB is not enough.
    let prompt = json!({"name": "long", "prompt": "ships and more ships, ".repeat(120)});
    assert_eq!(server.post("", prompt).await["turns"], 1);
    let refused = server.refused(409, "/v1/kv/sessions/long/pin", json!({"seconds": 9})).await;
    assert_eq!(refused["code"], "pin_too_large");
    let pinned = server.post("/a/pin", json!({"seconds": 900})).await;
    assert!(pinned["pinned_bytes"].as_u64() > Some(0) && pinned["pinned_until"].as_u64() > Some(900), "{pinned}");
    assert_eq!(server.get("/a").await["pinned_until"], pinned["pinned_until"]);
    assert_eq!(server.post("/a/pin", json!({"seconds": 0})).await["pinned_until"], Value::Null);
    let listed = server.get("").await;
    let names: Vec<&str> = listed["data"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "long"]);
    let error = server.refused(409, "/v1/chat/completions", chat("long", json!([user("x")]))).await;
    assert_eq!(error["code"], "session_unsuited");
    for name in names {
        let path = format!("/v1/kv/sessions/{name}");
        assert_eq!(server.ok(server.send("one", "DELETE", &path, Value::Null).await)["deleted"], true);
        assert_eq!(server.send("one", "DELETE", &path, Value::Null).await.0, 404);
    }
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn tenants_do_not_see_each_others_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(Some(dir.path()));
    server.chat("one", "talk", LINES[0]).await;
    server.post("/talk/load", Value::Null).await;
    let other = server.ok(server.send("two", "GET", "/v1/kv/sessions", Value::Null).await);
    assert_eq!(other["data"], json!([]));
    for (method, path, body) in [
        ("GET", "/talk", Value::Null),
        ("DELETE", "/talk", Value::Null),
        ("POST", "/talk/load", Value::Null),
        ("POST", "/talk/rewind", json!({"turn": 0})),
        ("POST", "/talk/pin", json!({"seconds": 5})),
        ("POST", "", json!({"name": "x", "fork_of": "talk"})),
    ] {
        let (status, json) = server.send("two", method, &format!("/v1/kv/sessions{path}"), body).await;
        assert_eq!((status, &json["error"]["code"]), (404, &json!("session_not_found")), "{method} {path}");
    }
    // The same name is another session, and nothing of the first one is used for it.
    let answer = server.chat("two", "talk", LINES[0]).await;
    assert_eq!((&answer["kv"]["session"]["created"], &answer["kv"]["session"]["turns"]), (&json!(true), &json!(2)));
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(server.get("/talk").await["turns"], 2);
}

#[tokio::test]
async fn what_cannot_be_is_said_and_how_to_mend_it() {
    let off = serve(None);
    for (path, body) in [
        ("/v1/chat/completions", chat("a", json!([user("x")]))),
        ("/v1/kv/sessions", json!({"name": "a", "prompt": "x"})),
    ] {
        let error = off.refused(400, path, body).await;
        assert!(error["message"].as_str().unwrap().contains("--kv-sessions FOLDER"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let server = serve(Some(dir.path()));
    for bad in ["..", "a b", "a/b", "", "ä", &"n".repeat(101)] {
        let error = server.refused(400, "/v1/kv/sessions", json!({"name": bad, "prompt": "x"})).await;
        assert_eq!(error["param"], "name", "{bad}");
        let error = server.refused(400, "/v1/chat/completions", chat(bad, json!([user("x")]))).await;
        assert_eq!(error["param"], "kv.session", "{bad}");
    }
    assert_eq!(server.send("one", "GET", "/v1/kv/sessions/..%2Fx", Value::Null).await.0, 400);
    server.post("", json!({"name": "a", "messages": [user("Well?")]})).await;
    let with = |field: &str, value: Value| {
        let mut body = chat("a", json!([user("x")]));
        body[field] = value;
        body
    };
    for (body, param) in [
        (with("n", json!(2)), "n"),
        (with("kv", json!({"session": 7})), "kv.session"),
        (with("kv", json!({"session": "a", "spans": [[0, 1]]})), "kv.spans"),
    ] {
        assert_eq!(server.refused(400, "/v1/chat/completions", body).await["param"], param);
    }
    let other = with("kv", json!({"session": "a", "recipe": "int8(window=64)"}));
    let error = server.refused(409, "/v1/chat/completions", other).await;
    assert!(error["message"].as_str().unwrap().contains("different recipe or profile"), "{error}");
    let text = json!({"prompt": "x", "kv": {"session": "a"}});
    assert_eq!(server.refused(400, "/v1/completions", text).await["param"], "kv.session");
    assert_eq!(server.refused(400, "/v1/kv/sessions", json!({"name": "b"})).await["param"], "messages");
    assert_eq!(server.refused(400, "/v1/kv/sessions/a/rewind", json!({"turn": 2})).await["param"], "turn");
    // None of it changed the session.
    assert_eq!(server.get("/a").await["turns"], 1);
}

#[tokio::test]
async fn a_stream_says_what_became_of_the_session_and_an_answer_that_nobody_read_is_not_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(Some(dir.path()));
    let mut body = chat("a", json!([user(LINES[0])]));
    body["stream"] = json!(true);
    let (status, text) = server.text("one", "POST", "/v1/chat/completions", body.clone()).await;
    assert_eq!(status, 200);
    let mut documents = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let last: Value = serde_json::from_str(documents.next_back().unwrap()).unwrap();
    assert_eq!(last["kv"]["session"]["turns"], 2, "{text}");
    server.post("/a/load", Value::Null).await;
    body["max_tokens"] = json!(2000);
    let request = Request::post("/v1/chat/completions").header("authorization", "Bearer one");
    let request = request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap();
    drop(server.router.clone().oneshot(request).await.unwrap());
    server.post("/a/load", Value::Null).await;
    assert_eq!(server.get("/a").await["turns"], 2);
}

#[tokio::test]
async fn what_a_turn_would_begin_with_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(Some(dir.path()));
    let explain = |turn: Value| server.send("one", "POST", "/v1/kv/explain", turn);
    let turn = || chat("talk", json!([user(LINES[1])]));
    let nothing = server.ok(explain(turn()).await);
    assert_eq!((&nothing["session"]["created"], &nothing["reusable_tokens"]), (&json!(true), &json!(0)));
    let first = server.chat("one", "talk", LINES[0]).await;
    let known = first["usage"]["total_tokens"].as_u64().unwrap();
    // Waits for the answer to be saved, as the turn would.
    let here = server.ok(explain(turn()).await);
    assert_eq!((&here["session"]["name"], &here["session"]["created"]), (&json!("talk"), &json!(false)));
    assert_eq!(here["session"]["tokens"], known);
    drop(server);
    let server = serve(Some(dir.path()));
    let after = server.ok(server.send("one", "POST", "/v1/kv/explain", turn()).await);
    assert_eq!((&after["prompt_tokens"], &after["recipe"]), (&here["prompt_tokens"], &json!("f16")));
    let answer = server.chat("one", "talk", LINES[1]).await;
    let usage = &answer["usage"];
    // What was said is what happens.
    assert_eq!(after["prompt_tokens"], usage["prompt_tokens"]);
    assert_eq!(after["reusable_tokens"], usage["prompt_tokens_details"]["cached_tokens"]);
    assert_eq!(after["reusable_tokens"], known - 1);
    server.post("/talk/load", Value::Null).await;
    assert_eq!(server.get("/talk").await["turns"], 4, "a question is no turn");
    server.refused(400, "/v1/kv/explain", chat("no/name", json!([user("x")]))).await;
}

#[tokio::test]
async fn a_recipe_that_is_named_must_be_that_of_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(Some(dir.path()));
    let kept = |recipe: &str| json!({"session": "talk", "recipe": recipe});
    let turn = |kv: Value| {
        let mut turn = chat("talk", json!([user(LINES[0])]));
        turn["kv"] = kv;
        turn
    };
    server.ok(server.send("one", "POST", "/v1/chat/completions", turn(kept("int8"))).await);
    for path in ["/v1/chat/completions", "/v1/kv/explain"] {
        // Be it the server's own.
        for other in ["f16", "int4"] {
            let error = server.refused(409, path, turn(kept(other))).await;
            assert_eq!((&error["code"], &error["param"]), (&json!("session_differs"), &json!("kv")), "{path}, {other}");
        }
        for same in [json!({"session": "talk"}), kept("int8")] {
            server.ok(server.send("one", "POST", path, turn(same)).await);
        }
    }
    assert_eq!(server.get("/talk").await["recipe"], "int8");
}

/// A text in whose middle something can be changed.
fn long_text() -> String {
    let line =
        |i: usize| format!("On day {i} the ship of captain {} lay in the harbour of port {}. ", i * 7 % 13, i * 5 % 11);
    (0..40).map(line).collect()
}

#[tokio::test]
async fn an_edit_computes_itself_and_what_deviates_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(Some(folder.path()));
    let made = server.post("", json!({"name": "log", "prompt": long_text()})).await;
    let (find, replace) = ("On day 12 the ship", "On the twelfth day the old ship");
    let edit = |reuse: &str, find: &str, replace: &str| json!({"session": "log", "find": find, "replace": replace, "reuse": reuse});
    let said = server.ok(server.send("one", "POST", "/v1/kv/edit", edit("pie", find, replace)).await);
    let number = |json: &Value, field: &str| json[field].as_u64().unwrap();
    let tokens = number(&said, "tokens");
    assert_eq!(number(&said, "tokens_before"), number(&made, "tokens"));
    assert_eq!(
        number(&said, "cached_tokens") + number(&said, "moved_tokens") + number(&said, "computed_tokens"),
        tokens
    );
    assert!(number(&said, "computed_tokens") < 30 && number(&said, "moved_tokens") > 200, "{said}");
    assert_eq!(said["exact"], false);
    let text = server.get("/log").await["messages"][0]["content"].as_str().unwrap().to_owned();
    assert_eq!(text, long_text().replace(find, replace));
    // What it made is the session's alone: the same text from somebody who knows nothing of the edit is computed.
    let other = server.post("", json!({"name": "other", "prompt": text})).await;
    assert!(number(&other, "cached_tokens") < tokens / 2, "{other}");
    drop(server);
    let again = serve(Some(folder.path()));
    let loaded = again.post("/log/load", json!({})).await;
    assert!(number(&loaded, "restored_tokens") + 64 > tokens, "{loaded}");
    // Exactly, and back.
    let back = again.ok(again.send("one", "POST", "/v1/kv/edit", edit("exact", replace, find)).await);
    assert_eq!((&back["exact"], &back["moved_tokens"], &back["tokens"]), (&json!(true), &json!(0), &made["tokens"]));
}

#[tokio::test]
async fn a_conversation_is_edited_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(Some(folder.path()));
    let first = format!("{} Where was the ship?", long_text());
    server.chat("one", "a", &first).await;
    let body = json!({"session": "a", "turn": 0, "from": 0, "to": 6, "replace": "By day"});
    let said = server.ok(server.send("one", "POST", "/v1/kv/edit", body).await);
    assert_eq!((&said["reuse"], &said["exact"]), (&json!("cacheblend(share=0.15)"), &json!(false)));
    let answer = server.chat("one", "a", "And then?").await;
    let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached + 64 > said["tokens"].as_u64().unwrap(), "{answer} {said}");
    // Waits until the answer is saved.
    server.post("/a/load", json!({})).await;
    assert!(server.get("/a").await["messages"][0]["content"].as_str().unwrap().starts_with("By day 0"));
    assert_eq!(server.get("/a").await["messages"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn edits_that_cannot_be_are_refused_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(Some(folder.path()));
    server.post("", json!({"name": "log", "prompt": "one two one"})).await;
    let before = server.get("/log").await;
    for (status, param, body) in [
        (400, "session", json!({"find": "one", "replace": "x"})),
        (400, "find", json!({"session": "log", "replace": "x"})),
        (400, "find", json!({"session": "log", "find": "", "replace": "x"})),
        (400, "find", json!({"session": "log", "find": "three", "replace": "x"})),
        (400, "find", json!({"session": "log", "find": "one", "replace": "x"})),
        (400, "to", json!({"session": "log", "from": 0, "to": 3, "replace": "x"})),
        (400, "to", json!({"session": "log", "turn": 0, "from": 0, "to": 12, "replace": "x"})),
        (400, "to", json!({"session": "log", "turn": 0, "from": 3, "to": 1, "replace": "x"})),
        (400, "turn", json!({"session": "log", "turn": 1, "find": "two", "replace": "x"})),
        (400, "reuse", json!({"session": "log", "find": "two", "replace": "x", "reuse": "guess"})),
        (400, "reuse", json!({"session": "log", "find": "two", "replace": "x", "reuse": "ape"})),
        (400, "reuse", json!({"session": "log", "find": "two", "replace": "x", "reuse": "kvcomm(gamma=0.5)"})),
        (404, "name", json!({"session": "nobody", "find": "two", "replace": "x"})),
    ] {
        let error = server.refused(status, "/v1/kv/edit", body.clone()).await;
        assert_eq!(error["param"], param, "{body}: {error}");
    }
    let after = server.get("/log").await;
    assert_eq!(after["messages"], before["messages"]);
}

#[tokio::test]
async fn documents_that_other_prompts_had_are_moved_where_a_request_allows_it() {
    let server = serve(None);
    let half = long_text().lines().map(|text| text[..text.len() / 2].to_owned()).collect::<String>();
    let document = |n: usize| half.replace("captain", &format!("the {n}th captain")).replace("port", "bay");
    let ask = |order: [usize; 2], reuse: &str| {
        let mut parts = vec![json!({"type": "text", "text": "Of two ships.\n\n"})];
        parts.extend(order.map(|n| json!({"type": "text", "text": document(n), "cache": "chunk"})));
        parts.push(json!({"type": "text", "text": "\n\nWhich of them was first?"}));
        json!({"messages": [{"role": "user", "content": parts}], "kv": {"reuse": reuse}, "max_tokens": 4, "temperature": 0})
    };
    let moved = async |key: &str, order, reuse: &str| {
        let answer = server.ok(server.send(key, "POST", "/v1/chat/completions", ask(order, reuse)).await);
        let usage = answer["usage"].clone();
        let moved = usage["prompt_tokens_details"]["kv_moved_tokens"].as_u64().unwrap_or(0);
        (moved, usage["prompt_tokens"].as_u64().unwrap())
    };
    assert_eq!(moved("one", [1, 2], "exact").await.0, 0);
    let (tokens, prompt) = moved("one", [2, 1], "cacheblend").await;
    assert!(tokens > prompt * 8 / 10 && tokens < prompt, "{tokens} of {prompt}");
    assert_eq!(moved("two", [2, 1], "cacheblend").await.0, 0, "another key's");
    assert_eq!(moved("one", [2, 1], "exact").await.0, 0);
}

#[tokio::test]
async fn what_would_be_moved_is_explained_and_so_it_is() {
    let server = serve(None);
    let half = long_text().lines().map(|text| text[..text.len() / 2].to_owned()).collect::<String>();
    let document = |n: usize| half.replace("captain", &format!("the {n}th captain")).replace("port", "bay");
    let ask = |order: [usize; 2], reuse: &str| {
        let mut parts = vec![json!({"type": "text", "text": format!("Of ships {order:?}.\n\n")})];
        parts.extend(order.map(|n| json!({"type": "text", "text": document(n), "cache": "chunk"})));
        parts.push(json!({"type": "text", "text": "\n\nWhich of them was first?"}));
        json!({"messages": [{"role": "user", "content": parts}], "kv": {"reuse": reuse}, "max_tokens": 4, "temperature": 0})
    };
    let chat = async |order, reuse: &str| {
        server.ok(server.send("one", "POST", "/v1/chat/completions", ask(order, reuse)).await)
    };
    let explain = async |key: &str, order, reuse: &str| {
        server.ok(server.send(key, "POST", "/v1/kv/explain", ask(order, reuse)).await)
    };
    chat([1, 2], "cache-craft").await;
    let said = explain("one", [2, 1], "cache-craft(alpha=0.5)").await["moved"].clone();
    assert_eq!(said["method"], "cache-craft(alpha=0.5)");
    let chunks = said["chunks"].as_array().unwrap();
    assert_eq!(chunks.len(), 2);
    let rows: usize = chunks.iter().map(|chunk| chunk["rows"].as_array().unwrap().len()).sum();
    assert!(chunks.iter().all(|chunk| chunk["variants"] == 1) && rows > 0, "{said}");
    assert_eq!(said["recomputed_tokens"], rows);
    let details = chat([2, 1], "cache-craft(alpha=0.5)").await["usage"]["prompt_tokens_details"].clone();
    assert_eq!(
        (&details["kv_moved_tokens"], &details["kv_recomputed_tokens"]),
        (&said["moved_tokens"], &said["recomputed_tokens"])
    );
    assert_eq!(explain("two", [2, 1], "cache-craft").await["moved"]["moved_tokens"], 0, "another key's");
    assert_eq!(explain("one", [2, 1], "exact").await.get("moved"), None);
}
