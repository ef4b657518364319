//! Answers: the same steps of a generation, told as one JSON document or as a stream of events, in the form of either
//! endpoint.

mod chat;
mod completion;
mod logprobs;
mod report;
mod usage;

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::Json;
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use cachalot_engine::{FinishReason, TokenLogprobs};
use serde_json::{Value, json};

pub(crate) use chat::ChatShape;
pub(crate) use completion::CompletionShape;

use crate::error::ApiError;
use crate::generate::{Run, Step, Totals};
use crate::state::AppState;

/// What every document of one answer carries.
#[derive(Clone)]
pub(crate) struct Header {
    pub state: AppState,
    pub id: String,
    pub created: u64,
    pub choices: usize,
}

impl Header {
    pub fn new(state: &AppState, prefix: &str, choices: usize) -> Header {
        let id = format!("{prefix}-{}", crate::ids::unique());
        Header { state: state.clone(), id, created: crate::ids::unix_seconds(), choices }
    }

    fn document(&self, object: &str, choices: Vec<Value>) -> Value {
        let info = self.state.backend.info();
        json!({
            "id": self.id, "object": object, "created": self.created, "model": info.id,
            "system_fingerprint": info.fingerprint, "choices": choices,
        })
    }

    /// A [`Header::document`] that says what the request took.
    fn document_with_usage(&self, object: &str, choices: Vec<Value>, totals: &Totals) -> Value {
        let mut document = self.document(object, choices);
        usage::add(&mut document, totals);
        report::add(&mut document, totals);
        document
    }

    /// A [`Header::document`] without choices that says what the cache did.
    fn document_with_report(&self, object: &str, totals: &Totals) -> Value {
        let mut document = self.document(object, Vec::new());
        report::add(&mut document, totals);
        document
    }
}

/// One finished choice.
#[derive(Default)]
pub(crate) struct Choice {
    pub text: String,
    pub tokens: Vec<(u32, TokenLogprobs)>,
    pub reason: Option<FinishReason>,
}

/// How one endpoint writes its answers.
pub(crate) trait Shape: Send + 'static {
    /// Documents before the first token.
    fn opening(&self) -> Vec<Value>;
    /// Document of a piece of text; `None` if there is nothing to say.
    fn token(&mut self, index: usize, text: &str, token: Option<(u32, &TokenLogprobs)>) -> Option<Value>;
    /// Document of the end of a choice.
    fn finished(&self, index: usize, reason: FinishReason) -> Value;
    /// Last document of a stream, with the usage and without choices.
    fn usage(&self, totals: &Totals) -> Value;
    /// Last document of a stream without usage, where a report was asked for.
    fn report(&self, totals: &Totals) -> Value;
    /// The whole answer as one document.
    fn complete(&self, choices: Vec<Choice>, totals: &Totals) -> Value;
    /// Number of choices over all prompts.
    fn choices(&self) -> usize;
}

/// Answer a request in the way it asked for.
///
/// # Errors
/// Whatever ends the generation, unless the answer is a stream: then the error is its last event.
pub(crate) async fn respond(
    state: &AppState,
    shape: impl Shape,
    run: Run,
    stream: bool,
    include_usage: bool,
) -> Result<Response, ApiError> {
    if stream { Ok(streamed(state, shape, run, include_usage)) } else { whole(shape, run).await }
}

async fn whole(shape: impl Shape, mut run: Run) -> Result<Response, ApiError> {
    let mut choices: Vec<Choice> = (0..shape.choices()).map(|_| Choice::default()).collect();
    while let Some(step) = run.next().await {
        match step? {
            Step::Progress { .. } => {}
            Step::Token { index, text, id, logprob } => {
                if let Some(choice) = choices.get_mut(index) {
                    choice.text += &text;
                    choice.tokens.extend(logprob.map(|l| (id, l)));
                }
            }
            Step::Finished { index, reason } => {
                if let Some(choice) = choices.get_mut(index) {
                    choice.reason = Some(reason);
                }
            }
            Step::Done(totals) => return Ok(Json(shape.complete(choices, &totals)).into_response()),
        }
    }
    Err(ApiError::internal("The engine stopped before the answer was finished."))
}

struct Streaming<S> {
    shape: S,
    run: Run,
    include_usage: bool,
    ready: VecDeque<Event>,
}

impl<S: Shape> Streaming<S> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.run.next().await? {
                Ok(step) => self.tell(step),
                Err(error) => return Some(data(&error.body())),
            }
        }
    }

    fn tell(&mut self, step: Step) {
        let document = match step {
            // A comment: no client takes it for data, and every proxy sees that the stream lives.
            Step::Progress { done, total } => {
                return self.ready.push_back(Event::default().comment(format!("prefill {done}/{total}")));
            }
            Step::Token { index, text, id, logprob } => {
                self.shape.token(index, &text, logprob.as_ref().map(|l| (id, l)))
            }
            Step::Finished { index, reason } => Some(self.shape.finished(index, reason)),
            Step::Done(totals) => {
                if self.include_usage {
                    self.ready.push_back(data(&self.shape.usage(&totals)));
                } else if totals.recipe.is_some() || totals.session.is_some() {
                    self.ready.push_back(data(&self.shape.report(&totals)));
                }
                return self.ready.push_back(Event::default().data("[DONE]"));
            }
        };
        if let Some(mut document) = document {
            self.note_usage(&mut document);
            self.ready.push_back(data(&document));
        }
    }

    /// With `include_usage` every document has the field, and only the last one a value.
    fn note_usage(&self, document: &mut Value) {
        if self.include_usage
            && let Value::Object(map) = document
        {
            map.insert("usage".into(), Value::Null);
        }
    }
}

fn streamed(state: &AppState, shape: impl Shape, run: Run, include_usage: bool) -> Response {
    let mut streaming = Streaming { shape, run, include_usage, ready: VecDeque::new() };
    for mut document in streaming.shape.opening() {
        streaming.note_usage(&mut document);
        streaming.ready.push_back(data(&document));
    }
    let events = futures::stream::unfold(streaming, |mut streaming| async move {
        streaming.next().await.map(|event| (Ok::<_, Infallible>(event), streaming))
    });
    let keep_alive = KeepAlive::new().interval(state.config.keep_alive).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // nginx holds streams back unless told not to.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

fn data(document: &Value) -> Event {
    // serde_json escapes line ends, so the document is one line.
    Event::default().data(document.to_string())
}

/// OpenAI's word for why a choice ended.
pub(crate) fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        _ => "stop",
    }
}
