//! Servers of the embedded model, as processes of their own would be, with folders that outlive them.
#![allow(dead_code)]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use cachalot_engine::reuse::below::{TierOptions, TierStore};
use cachalot_engine::session::{SessionConfig, Sessions, Shelf};
use cachalot_engine::{Engine, EngineConfig, ReuseConfig};
use cachalot_kernels::{Isa, Team};
use cachalot_model::{LoadOptions, Loaded, Model};
use cachalot_server::{AppState, EngineBackend, ServerConfig, router};
use cachalot_store::Identity;
use cachalot_store::codec::{Codec, Plain};
use cachalot_store::tier::TierConfig;
use serde_json::{Value, json};
use tower::ServiceExt;

pub fn loaded() -> Arc<Loaded> {
    static CALF: LazyLock<Arc<Loaded>> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf");
        let team = Arc::new(Team::new(NonZeroUsize::new(2).unwrap()));
        Arc::new(Model::load(&path, &LoadOptions::new(team)).unwrap())
    });
    CALF.clone()
}

/// A server, as a process of its own would be.
pub struct Server {
    pub router: Router,
    engine: Engine,
}

/// With sessions in a folder.
pub fn serve(folder: Option<&Path>) -> Server {
    serve_with(folder, None)
}

/// Also with tiers below the pool.
pub fn serve_with(folder: Option<&Path>, tiers: Option<TierConfig>) -> Server {
    let loaded = loaded();
    let identity = Identity { model: loaded.digest, ..Identity::default() };
    let reuse = ReuseConfig { identity, ..ReuseConfig::default() };
    let config = EngineConfig { reuse, kv_budget_bytes: 64 << 20, ..EngineConfig::default() };
    let team = Arc::new(Team::new(NonZeroUsize::new(2).unwrap()));
    let cache = config.cache(loaded.model.layer_geometry(), team, Isa::detect()).unwrap();
    let engine = Engine::start(loaded.model.clone(), loaded.tokenizer.clone(), cache, config);
    if let Some(tiers) = tiers {
        let options = TierOptions {
            tiers,
            threads: 1,
            queue: 32 << 20,
            codecs: [Arc::new(Plain) as Arc<dyn Codec>].into(),
            cost: None,
        };
        engine.handle().attach(Box::new(TierStore::open(options, engine.handle().cache()).unwrap())).unwrap();
    }
    let api_keys = vec!["one".to_owned(), "two".to_owned()];
    let config = ServerConfig { api_keys, ..ServerConfig::default() };
    let mut backend = EngineBackend::new(&config, engine.handle(), loaded.clone());
    if let Some(folder) = folder {
        let config = SessionConfig { model: loaded.name.clone(), tokenizer: loaded.name.clone(), pin_share: 0.01 };
        let shelf = Shelf::open(folder, 4, 0).unwrap();
        backend = backend.with_sessions(Sessions::new(engine.handle(), shelf, config));
    }
    Server { router: router(AppState::new(config, Arc::new(backend))), engine }
}

impl Server {
    /// Requests that are computed at the moment.
    pub fn running(&self) -> usize {
        self.engine.handle().stats().running
    }

    /// Bytes of pages, whoever holds them.
    pub fn kv_bytes(&self) -> u64 {
        self.engine.handle().cache().ledger().used()
    }

    pub async fn text(&self, key: &str, method: &str, path: &str, body: Value) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {key}"));
        let request = match body {
            Value::Null => request.body(Body::empty()),
            body => request.header("content-type", "application/json").body(Body::from(body.to_string())),
        };
        let response = self.router.clone().oneshot(request.unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    pub async fn send(&self, key: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let (status, text) = self.text(key, method, path, body).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
    }

    #[track_caller]
    pub fn ok(&self, (status, json): (u16, Value)) -> Value {
        assert_eq!(status, 200, "{json}");
        json
    }

    pub async fn get(&self, path: &str) -> Value {
        self.ok(self.send("one", "GET", &format!("/v1/kv/sessions{path}"), Value::Null).await)
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.ok(self.send("one", "POST", &format!("/v1/kv/sessions{path}"), body).await)
    }

    pub async fn refused(&self, status: u16, path: &str, body: Value) -> Value {
        let (got, json) = self.send("one", "POST", path, body).await;
        assert_eq!(got, status, "{json}");
        json["error"].clone()
    }

    pub async fn chat(&self, key: &str, session: &str, text: &str) -> Value {
        self.ok(self.send(key, "POST", "/v1/chat/completions", chat(session, json!([user(text)]))).await)
    }
}

pub fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

pub fn chat(session: &str, messages: Value) -> Value {
    json!({"messages": messages, "kv": {"session": session}, "max_tokens": 12, "temperature": 0})
}

pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

pub fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}
