//! A tenant takes back everything that was kept for it, over HTTP: with the real engine, real folders, and the embedded model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod real;
mod support;

use std::path::{Path, PathBuf};

use axum::http::{Method, Request};
use cachalot_engine::Deletion;
use cachalot_server::tenant_of_key;
use cachalot_store::tier::backend::BucketConfig;
use cachalot_store::tier::{DiskConfig, RemoteConfig, Removed, ShelfConfig, Tenant, TierConfig};
use real::{Server, files, serve_with, user};
use serde_json::{Value, json};
use support::{Fake, client};

/// What outlives a server.
struct Folders {
    dir: tempfile::TempDir,
}

impl Folders {
    fn new() -> Folders {
        let folders = Folders { dir: tempfile::tempdir().unwrap() };
        ["disk", "bucket", "sessions"].iter().for_each(|name| std::fs::create_dir(folders.path(name)).unwrap());
        folders
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serve(&self) -> Server {
        let bucket = BucketConfig::new(format!("file://{}", self.path("bucket").display()));
        let disk = DiskConfig { folder: self.path("disk"), direct: false, shelf: ShelfConfig::new(64 << 20) };
        let tiers = TierConfig {
            ram: Some(ShelfConfig::new(16 << 20)),
            disk: Some(disk),
            remote: Some((bucket, RemoteConfig::default())),
            ..TierConfig::default()
        };
        serve_with(Some(&self.path("sessions")), Some(tiers))
    }

    /// Files and their bytes that a key's holder has in the disk tier, or the bucket.
    fn blocks_of(&self, place: &str, key: &str) -> Vec<PathBuf> {
        let folder = self.path(place).join(Tenant::named(&tenant_of_key(key.as_bytes())).to_string());
        if folder.exists() { files(&folder) } else { Vec::new() }
    }

    /// Files anywhere that have these bytes in them. Looks again where one went, or got its name, meanwhile.
    fn with(&self, text: &str) -> Vec<PathBuf> {
        loop {
            let found = files(self.dir.path());
            let read: Result<Vec<Vec<u8>>, _> = found.iter().map(std::fs::read).collect();
            match read {
                Ok(read) => {
                    let has = |bytes: &[u8]| contains(bytes, text.as_bytes());
                    return found.into_iter().zip(read).filter(|(_, bytes)| has(bytes)).map(|(path, _)| path).collect();
                }
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
            }
        }
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

fn story(key: &str) -> String {
    format!("The {key}-mate counts the ships, and tells of them. {}", "They sail along the coast. ".repeat(12))
}

async fn completion(server: &Server, key: &str) -> u64 {
    let body = json!({"prompt": story(key), "max_tokens": 4, "temperature": 0});
    let answer = server.ok(server.send(key, "POST", "/v1/completions", body).await);
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

async fn sessions(server: &Server, key: &str) -> usize {
    let listed = server.ok(server.send(key, "GET", "/v1/kv/sessions", Value::Null).await);
    listed["data"].as_array().unwrap().len()
}

/// Once the answer has been saved.
async fn talk(server: &Server, key: &str) {
    server.chat(key, "talk", &story(key)).await;
    server.ok(server.send(key, "POST", "/v1/kv/sessions/talk/load", Value::Null).await);
}

async fn delete(server: &Server, key: &str) -> Value {
    server.ok(server.send(key, "DELETE", "/v1/kv/tenant", Value::Null).await)
}

fn place<'a>(deletion: &'a Value, name: &str) -> &'a Value {
    let places = deletion["places"].as_array().unwrap();
    places.iter().find(|place| place["place"] == name).unwrap_or_else(|| panic!("{name} in {deletion}"))
}

#[tokio::test]
async fn whoever_deletes_himself_is_gone_everywhere_and_nobody_else() {
    let folders = Folders::new();
    let server = folders.serve();
    for key in ["one", "two"] {
        assert_eq!(completion(&server, key).await, 0);
        talk(&server, key).await;
    }
    // What is to be written is, and the memory forgotten.
    drop(server);
    let server = folders.serve();
    for key in ["one", "two"] {
        assert!(!folders.blocks_of("disk", key).is_empty() && !folders.blocks_of("bucket", key).is_empty());
        assert_eq!(folders.with(&format!("{key}-mate")).len(), 1, "the session has the text");
        assert!(completion(&server, key).await > 60, "what was on disk is found");
    }
    server.ok(server.send("one", "POST", "/v1/kv/sessions/talk/pin", json!({"seconds": 900})).await);
    let theirs = ["disk", "bucket"].map(|place| {
        let mut blocks = folders.blocks_of(place, "two");
        // Others are being written at the moment, under another name.
        blocks.retain(|path| path.file_name().unwrap().to_str().unwrap().bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(!blocks.is_empty());
        blocks
    });
    // A file that somebody began to write and never finished.
    let own = folders.with("one-mate")[0].parent().unwrap().to_owned();
    std::fs::write(own.join(".kv-file-abc.part"), story("one")).unwrap();

    let deletion = delete(&server, "one").await;
    assert_eq!((&deletion["object"], &deletion["deleted"]), (&json!("kv.tenant.deletion"), &json!(true)));
    for name in ["pool", "disk", "remote", "sessions"] {
        let place = place(&deletion, name);
        assert!(place["removed"].as_u64() > Some(0) && place["removed_bytes"].as_u64() > Some(0), "{place}");
    }
    for place in deletion["places"].as_array().unwrap() {
        assert_eq!((&place["left"], &place["left_bytes"], &place["failed"]), (&json!(0), &json!(0), &json!(false)));
    }
    assert_eq!(place(&deletion, "sessions")["removed"], 1);
    let gone = |when: &str| {
        assert_eq!(folders.blocks_of("disk", "one"), Vec::<PathBuf>::new(), "{when}");
        assert_eq!(folders.blocks_of("bucket", "one"), Vec::<PathBuf>::new(), "{when}");
        assert_eq!(folders.with("one-mate"), Vec::<PathBuf>::new(), "{when}");
        assert!(!own.exists(), "{when}");
    };
    gone("at once");
    for (place, theirs) in ["disk", "bucket"].into_iter().zip(&theirs) {
        let mut now = folders.blocks_of(place, "two");
        now.retain(|path| theirs.contains(path));
        assert_eq!(now.len(), theirs.len(), "{place}: what is another's stays");
    }
    assert_eq!((sessions(&server, "one").await, sessions(&server, "two").await), (0, 1));
    let explained = json!({"prompt": story("one")});
    let explained = server.ok(server.send("one", "POST", "/v1/kv/explain", explained).await);
    assert_eq!((&explained["matched_tokens"], &explained["stop"]["kind"]), (&json!(0), &json!("nothing")));
    assert!(completion(&server, "two").await > 60);
    // Nothing comes back with the next start.
    drop(server);
    gone("after the end");
    let server = folders.serve();
    assert!(completion(&server, "two").await > 60);
    assert_eq!(completion(&server, "one").await, 0);
    // There is nothing of somebody who was never here, and that is proven, too.
    assert_eq!(delete(&server, "one").await["deleted"], true);
    assert_eq!(place(&delete(&server, "one").await, "disk")["removed"], 0);
}

#[tokio::test]
async fn what_runs_ends_and_what_is_being_saved_goes_with_the_rest() {
    let folders = Folders::new();
    let server = std::sync::Arc::new(folders.serve());
    // An answer whose session is still being saved, or waits for that.
    server.chat("one", "talk", &story("one")).await;
    let running = server.clone();
    let long = json!({"prompt": story("one"), "max_tokens": 2000, "ignore_eos": true, "temperature": 0});
    let running = tokio::spawn(async move { running.send("one", "POST", "/v1/completions", long).await });
    let in_session = server.clone();
    let long = json!({
        "messages": [user("And then?")], "max_tokens": 2000, "ignore_eos": true, "kv": {"session": "talk"},
    });
    let in_session = tokio::spawn(async move { in_session.send("one", "POST", "/v1/chat/completions", long).await });
    while server.running() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let deletion = delete(&server, "one").await;
    assert_eq!((&deletion["deleted"], &deletion["requests_ended"]), (&json!(true), &json!(2)), "{deletion}");
    for ended in [running, in_session] {
        let (status, error) = ended.await.unwrap();
        assert_eq!((status, &error["error"]["code"]), (409, &json!("tenant_deleted")), "{error}");
    }
    assert_eq!(folders.with("one-mate"), Vec::<PathBuf>::new());
    assert_eq!(folders.blocks_of("disk", "one"), Vec::<PathBuf>::new());
    assert_eq!(files(&folders.path("sessions")), Vec::<PathBuf>::new());
    assert_eq!(server.kv_bytes(), 0, "nobody else has anything");
    // From now on the key is as good as a new one.
    assert_eq!(completion(&server, "one").await, 0);
    assert!(completion(&server, "one").await > 60);
}

#[tokio::test]
async fn what_could_not_be_removed_is_said() {
    let left = Removed { objects: 3, bytes: 300, left_objects: 1, left_bytes: 100, ..Removed::default() };
    let failed = Removed { fault: Some("/secret/path: no".into()), ..Removed::default() };
    for (pool, sessions) in [(left.clone(), None), (Removed::default(), Some(failed))] {
        let deletion = Deletion { pool, sessions, ..Deletion::default() };
        let c = client(Fake { deletion: Some(deletion), ..Fake::default() });
        let request = Request::delete("/v1/kv/tenant").body(axum::body::Body::empty()).unwrap();
        let answer = c.send(request).await;
        answer.error(500);
        let json = answer.json();
        assert_eq!(json["deleted"], false);
        let place = json["places"].as_array().unwrap().last().unwrap();
        assert!(place["left_bytes"] == 100 || place["failed"] == true, "{place}");
        assert!(!answer.text.contains("/secret"), "{}", answer.text);
    }
}

#[tokio::test]
async fn nothing_but_the_key_says_whose() {
    let c = client(Fake { deletion: Some(Deletion::default()), ..Fake::default() });
    let ask = |method: Method, path: &str, body: &str| {
        Request::builder().method(method).uri(path).body(axum::body::Body::from(body.to_owned())).unwrap()
    };
    let path = "/v1/kv/tenant";
    assert_eq!(c.send(ask(Method::DELETE, path, "")).await.json()["deleted"], true);
    for (path, body) in [("/v1/kv/tenant?tenant=two", ""), (path, "{\"tenant\": \"two\"}")] {
        assert_eq!(c.send(ask(Method::DELETE, path, body)).await.error(400)["code"], "unexpected_body");
    }
    for method in [Method::GET, Method::POST] {
        c.send(ask(method, path, "")).await.error(405);
    }
    let dir = tempfile::tempdir().unwrap();
    let server = real::serve(Some(Path::new(dir.path())));
    assert_eq!(server.send("three", "DELETE", path, Value::Null).await.0, 401);
}
