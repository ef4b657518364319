//! A scripted backend, and short ways to ask a router.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request as HttpRequest, StatusCode};
use cachalot_engine::blend::Wish;
use cachalot_engine::reuse::Stop;
use cachalot_engine::{
    Deletion, EditId, EngineError, Event, Explanation, FinishReason, Request, TokenLogprobs, TopLogprob, Usage,
};
use cachalot_kv::Registry;
use cachalot_kv::recipe::Card;
use cachalot_server::request::{Conversation, SamplingFields};
use cachalot_server::{AppState, Backend, Events, Later, ModelInfo, ServerConfig, router};
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// Ids below this are bytes, this one ends a text, those above are the script's pieces.
pub const END: u32 = 256;

/// Every byte of a prompt is a token; every answer is the same list of pieces, one token each.
pub struct Fake {
    pub info: ModelInfo,
    pub pieces: Vec<&'static str>,
    /// Wait before each token.
    pub pace: Duration,
    /// Never end.
    pub endless: bool,
    /// Stay in the prefill for ever, after one report of progress.
    pub stuck: bool,
    /// Refuse submissions with this, once so many were taken.
    pub refuse: Option<(usize, EngineError)>,
    /// Fail with this after the first token.
    pub fail: Option<EngineError>,
    /// Break off without `Done` after the first token.
    pub vanish: bool,
    /// What deleting comes to.
    pub deletion: Option<Deletion>,
    pub seen: Mutex<Vec<Request>>,
    pub tools: Mutex<Option<Value>>,
    pub live: Arc<AtomicUsize>,
}

impl Default for Fake {
    fn default() -> Fake {
        Fake {
            info: ModelInfo {
                id: "org/fake".into(),
                aliases: vec!["fake".into()],
                created: 1_700_000_000,
                context: 200,
                vocab: 300,
                kv_recipe: "f16".into(),
                fingerprint: "fp_fake".into(),
                defaults: SamplingFields { temperature: Some(0.5), ..SamplingFields::default() },
            },
            pieces: vec!["Hel", "lo", " wörld", "!"],
            pace: Duration::ZERO,
            endless: false,
            stuck: false,
            refuse: None,
            fail: None,
            vanish: false,
            deletion: None,
            seen: Mutex::default(),
            tools: Mutex::default(),
            live: Arc::default(),
        }
    }
}

struct Live(Arc<AtomicUsize>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Fake {
    pub fn only(&self) -> Request {
        let seen = self.seen.lock().unwrap();
        assert_eq!(seen.len(), 1);
        seen[0].clone()
    }

    fn script(&self, request: &Request) -> VecDeque<Event> {
        let total = request.prompt.len();
        let mut events = VecDeque::from([Event::PromptProgress { done: total, total }]);
        let ends = request.max_tokens.is_none_or(|m| m > self.pieces.len());
        let count = self.pieces.len().min(request.max_tokens.unwrap_or(usize::MAX));
        let token = |choice, id: u32, text: &str| Event::Token {
            choice,
            text: text.into(),
            id,
            logprob: request.logprobs.map(|n| TokenLogprobs {
                logprob: -0.5,
                top: (0..n as u32).map(|i| TopLogprob { id: i + 65, logprob: -1.0 - i as f32 }).collect(),
            }),
        };
        for (i, piece) in self.pieces[..count].iter().enumerate() {
            events.extend((0..request.n).map(|c| token(c, END + 1 + i as u32, piece)));
        }
        let reason = if ends { FinishReason::Stop } else { FinishReason::Length };
        for c in 0..request.n {
            if ends {
                events.push_back(token(c, END, ""));
            }
            events.push_back(Event::Finished { choice: c, reason });
        }
        let completion_tokens = (count + usize::from(ends)) * request.n;
        events.push_back(Event::Done(Usage {
            prompt_tokens: total,
            completion_tokens,
            cached_tokens: total / 2,
            ..Usage::default()
        }));
        events
    }
}

impl Backend for Fake {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn encode_text(&self, text: &str) -> Result<Vec<u32>, String> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn encode_chat(&self, chat: &Conversation) -> Result<Vec<u32>, String> {
        *self.tools.lock().unwrap() = chat.tools.clone();
        let text: String = chat.messages.iter().map(|m| format!("{}:{}\n", m.role, m.content)).collect();
        if text.contains("refuse me") {
            return Err("the template raised an exception: no".into());
        }
        assert!(!text.contains("panic please"), "asked for");
        self.encode_text(&text)
    }

    fn token_bytes(&self, id: u32) -> Vec<u8> {
        match id {
            0..END => vec![id as u8],
            END => Vec::new(),
            _ => self.pieces.get((id - END - 1) as usize).map(|p| p.as_bytes().to_vec()).unwrap_or_default(),
        }
    }

    fn recipes(&self) -> Vec<Card> {
        let recipe = Registry::find("f16").unwrap();
        vec![Card::of(recipe, &[], None)]
    }

    fn explain(
        &self,
        prompt: Vec<u32>,
        kv: Option<String>,
        tenant: String,
        _: Option<EditId>,
        _: Wish,
    ) -> Later<Explanation> {
        let tokens = prompt.len();
        let stop = Stop::Differs { position: 2, token: prompt[2], cached: 88 };
        assert!(tenant.is_empty() && kv.as_deref() != Some("f16"));
        let explanation = Explanation {
            prompt_tokens: tokens,
            matched_tokens: 2,
            reusable_tokens: 2,
            lossy_reusable_tokens: None,
            pinned_tokens: None,
            pinned_seconds: None,
            block_tokens: 64,
            block: 0,
            reason: stop.to_string(),
            stop,
            moved: None,
        };
        Box::pin(async move { Ok(explanation) })
    }

    fn delete_tenant(&self, tenant: String) -> Later<Deletion> {
        assert!(tenant.is_empty());
        let deletion = self.deletion.clone();
        Box::pin(async move { deletion.ok_or(EngineError::ShuttingDown) })
    }

    fn submit(&self, request: Request) -> Result<Events, EngineError> {
        let mut seen = self.seen.lock().unwrap();
        if let Some((after, error)) = &self.refuse
            && seen.len() >= *after
        {
            return Err(error.clone());
        }
        let mut events = self.script(&request);
        if self.endless {
            events.truncate(1);
        }
        if let Some(error) = &self.fail {
            events.truncate(2);
            events.push_back(Event::Error(error.clone()));
        }
        if self.vanish {
            events.truncate(2);
        }
        seen.push(request);
        self.live.fetch_add(1, SeqCst);
        let (live, pace, endless, stuck) = (Live(self.live.clone()), self.pace, self.endless, self.stuck);
        Ok(futures::stream::unfold((events, live), move |(mut events, live)| async move {
            match events.pop_front() {
                Some(event) => {
                    if matches!(event, Event::Token { .. }) && !pace.is_zero() {
                        tokio::time::sleep(pace).await;
                    }
                    if stuck {
                        events.clear();
                    }
                    Some((event, (events, live)))
                }
                None if stuck => std::future::pending().await,
                None if endless => {
                    if !pace.is_zero() {
                        tokio::time::sleep(pace).await;
                    }
                    tokio::task::yield_now().await;
                    let event = Event::Token { choice: 0, text: "on and on ".into(), id: 65, logprob: None };
                    Some((event, (events, live)))
                }
                None => None,
            }
        })
        .boxed())
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// The `error` object, after checking that it has OpenAI's four fields and nothing else.
    #[track_caller]
    pub fn error(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        check_error(&self.json())
    }

    /// The documents of a stream, and whether it ended with `[DONE]`.
    pub fn events(&self) -> (Vec<Value>, bool) {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let mut data: Vec<&str> = self.text.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
        let done = data.last() == Some(&"[DONE]");
        if done {
            data.pop();
        }
        (data.iter().map(|d| serde_json::from_str(d).unwrap()).collect(), done)
    }
}

#[track_caller]
pub fn check_error(document: &Value) -> Value {
    let error = &document["error"];
    let keys: Vec<&str> = error.as_object().expect("an error object").keys().map(String::as_str).collect();
    assert_eq!(keys, ["message", "type", "param", "code"]);
    assert!(error["message"].as_str().is_some_and(|m| m.len() > 10), "{error}");
    error.clone()
}

pub struct Client {
    pub fake: Arc<Fake>,
    pub router: Router,
}

pub fn client(fake: Fake) -> Client {
    with_config(fake, ServerConfig::default())
}

pub fn with_config(fake: Fake, config: ServerConfig) -> Client {
    let fake = Arc::new(fake);
    Client { router: router(AppState::new(config, fake.clone())), fake }
}

impl Client {
    pub async fn send(&self, request: HttpRequest<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let text = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
        Answer { status: head.status, headers: head.headers, text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(HttpRequest::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn post_text(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(HttpRequest::post(path).header("content-type", "application/json").body(body.into()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_text(path, body.to_string()).await
    }

    /// A chat of one `hi`, with `more` fields.
    pub async fn chat(&self, more: Value) -> Answer {
        self.post("/v1/chat/completions", merged(json!({"messages": [{"role": "user", "content": "hi"}]}), more)).await
    }

    /// A completion of `hi`, with `more` fields.
    pub async fn complete(&self, more: Value) -> Answer {
        self.post("/v1/completions", merged(json!({"prompt": "hi"}), more)).await
    }
}

pub fn merged(mut base: Value, more: Value) -> Value {
    let map = base.as_object_mut().unwrap();
    for (key, value) in more.as_object().unwrap() {
        map.insert(key.clone(), value.clone());
    }
    base
}
