//! One HTTP request's generations: preparing them, and following their events under one deadline.

use std::sync::Arc;
use std::time::Duration;

use cachalot_engine::blend::Wish;
use cachalot_engine::{
    EngineError, ErrorKind, Event, FinishReason, KvReport, ReportSpec, Request, TokenLogprobs, Usage,
};
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::Span;

use crate::error::ApiError;
use crate::metrics::InFlight;
use crate::request::{Common, OutputFormat, SamplingFields};
use crate::session_turn::SessionTurn;
use crate::state::{AppState, Phase};

/// When a request came and when its answer must be complete.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub arrived: Instant,
    pub deadline: Instant,
    /// Seconds between the two, for messages.
    pub limit: f64,
}

impl Clock {
    pub fn start(state: &AppState) -> Clock {
        let (arrived, limit) = (Instant::now(), state.config.request_timeout);
        // A timeout beyond what the clock can hold is none.
        let deadline = arrived.checked_add(limit).unwrap_or(arrived + std::time::Duration::from_secs(1 << 30));
        Clock { arrived, deadline, limit: limit.as_secs_f64() }
    }
}

impl Clock {
    /// Time for everything but writing the answer: one that is complete is not to be lost to its report.
    fn within(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).mul_f64(0.95)
    }
}

/// Run the blocking part of a request (parsing, tokenizing, submitting) where it holds up nobody else.
///
/// # Errors
/// Those of `work`; 504 past the deadline; 503 when the server no longer takes requests.
pub(crate) async fn prepare<T: Send + 'static>(
    state: &AppState,
    clock: Clock,
    work: impl FnOnce(&AppState) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let preparation = async {
        let permit = Arc::clone(&state.workers).acquire_owned().await;
        let (state, span) = (state.clone(), Span::current());
        let work = move || {
            let _permit = permit;
            admitting(&state)?;
            span.in_scope(|| work(&state))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "preparing a request failed");
                Err(ApiError::internal("The request could not be prepared; this is a bug in the server."))
            }
        }
    };
    match timeout_at(clock.deadline, preparation).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::timeout(clock.limit)),
    }
}

/// Whether new requests are taken.
///
/// # Errors
/// 503 once the server is shutting down.
pub(crate) fn admitting(state: &AppState) -> Result<(), ApiError> {
    if *state.phase.borrow() == Phase::Running { Ok(()) } else { Err(ApiError::shutting_down()) }
}

/// Whether `asked` names the served model.
///
/// # Errors
/// 404 if not.
pub(crate) fn check_model(state: &AppState, asked: Option<&str>) -> Result<(), ApiError> {
    let info = state.backend.info();
    match asked {
        Some(name) if name != info.id && !info.aliases.iter().any(|a| a == name) => {
            Err(ApiError::model_not_found(name, &info.id))
        }
        _ => Ok(()),
    }
}

/// The engine's request for one prompt. `param` is the field the prompt came from.
///
/// # Errors
/// 413 when the prompt leaves no room in the context, 400 when it is empty.
pub(crate) fn engine_request(
    state: &AppState,
    clock: Clock,
    common: &Common,
    logprobs: Option<usize>,
    prompt: Vec<u32>,
    param: &str,
) -> Result<Request, ApiError> {
    let info = state.backend.info();
    if prompt.is_empty() {
        return Err(ApiError::invalid(param, format!("Invalid value for '{param}': the prompt has no tokens.")));
    }
    // What fits with another recipe is for the engine to say.
    if prompt.len() >= info.context && common.kv.is_none() {
        return Err(ApiError::context_length(param, prompt.len(), info.context));
    }
    let report = common.report.map(|share| ReportSpec { share, within: Some(clock.within()) });
    Ok(Request { logprobs, report, ..to_engine(common, prompt, &info.defaults) })
}

/// What the fields that both endpoints share ask of the engine, without log-probabilities and report. `defaults` are the
/// model's own.
pub fn to_engine(common: &Common, prompt: Vec<u32>, defaults: &SamplingFields) -> Request {
    // What a session goes on from, and saves, is what was computed.
    let lossy = if common.session.is_none() { common.lossy } else { Some(false) };
    Request {
        prompt,
        sampling: sampling(&common.sampling, defaults),
        max_tokens: common.max_tokens,
        stop: common.stop.clone(),
        n: common.n,
        beam: common.beam,
        kv: common.kv.clone(),
        spans: common.spans.clone(),
        wish: Wish {
            blend: common.reuse,
            chunks: common.chunks.clone(),
            lossy,
            within: common.within,
            pin: common.pin,
            ..Wish::default()
        },
        constraint: common.format.clone().map(constraint),
        ignore_eos: common.ignore_eos,
        ..Request::default()
    }
}

fn sampling(asked: &SamplingFields, model: &SamplingFields) -> cachalot_engine::Sampling {
    let base = cachalot_engine::Sampling::default();
    // OpenAI allows a top_p of 0, which keeps the most likely token; the engine wants it above 0.
    let top_p = asked.top_p.or(model.top_p).unwrap_or(base.top_p).max(f32::MIN_POSITIVE);
    cachalot_engine::Sampling {
        temperature: asked.temperature.or(model.temperature).unwrap_or(base.temperature),
        top_p,
        top_k: asked.top_k.or(model.top_k).unwrap_or(base.top_k),
        min_p: asked.min_p.or(model.min_p).unwrap_or(base.min_p),
        presence_penalty: asked.presence_penalty.unwrap_or(base.presence_penalty),
        frequency_penalty: asked.frequency_penalty.unwrap_or(base.frequency_penalty),
        repetition_penalty: asked.repetition_penalty.or(model.repetition_penalty).unwrap_or(base.repetition_penalty),
        seed: asked.seed,
        logit_bias: asked.logit_bias.clone(),
    }
}

fn constraint(format: OutputFormat) -> cachalot_engine::ConstraintSpec {
    use cachalot_engine::ConstraintSpec;
    match format {
        OutputFormat::JsonObject => ConstraintSpec::JsonObject,
        OutputFormat::JsonSchema(schema) => ConstraintSpec::JsonSchema(schema),
        OutputFormat::Regex(pattern) => ConstraintSpec::Regex(pattern),
        OutputFormat::Lark(grammar) => ConstraintSpec::Lark(grammar),
    }
}

/// The engine's refusal in OpenAI's words. `param` is the field the prompt came from.
pub fn refusal(error: &EngineError, param: &str) -> ApiError {
    let message = sentence(&error.to_string());
    match error {
        EngineError::PromptTooLong { prompt, context } => ApiError::context_length(param, *prompt, *context),
        EngineError::KvTooSmall { .. } => {
            ApiError { param: Some(param.into()), message, ..ApiError::context_length(param, 0, 0) }
        }
        EngineError::InvalidParameter { name, .. } => ApiError::invalid(*name, message),
        EngineError::InvalidConstraint { .. } => ApiError::invalid("response_format", message),
        EngineError::TenantDeleted => ApiError::tenant_deleted(message),
        EngineError::Recipe(_) => ApiError::invalid("kv", message),
        other => match other.kind() {
            ErrorKind::Request | ErrorKind::TooLarge => ApiError::invalid(param, message),
            ErrorKind::Busy => ApiError::queue_full(message, 1),
            ErrorKind::Unavailable => ApiError::unavailable("shutting_down", message, 5),
            ErrorKind::Internal => ApiError::internal(message),
        },
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

/// What happens next in an answer. `index` counts choices over all prompts.
#[derive(Debug)]
pub(crate) enum Step {
    Progress { done: usize, total: usize },
    Token { index: usize, text: String, id: u32, logprob: Option<TokenLogprobs> },
    Finished { index: usize, reason: FinishReason },
    Done(Box<Totals>),
}

/// Usage of all prompts of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    /// Sums; the timings are those of the last prompt that finished.
    pub usage: Usage,
    /// Number of prompts.
    pub prompts: usize,
    /// How the cache was kept, where reports were asked for.
    pub recipe: Option<String>,
    /// What the cache did to each choice, in no order.
    pub reports: Vec<(usize, KvReport)>,
    /// What became of the session, where there is one.
    pub session: Option<serde_json::Value>,
}

/// The running generations of one HTTP request. Dropping it cancels them.
pub(crate) struct Run {
    events: SelectAll<BoxStream<'static, (usize, Option<Event>)>>,
    choices: usize,
    waiting: usize,
    totals: Totals,
    clock: Clock,
    phase: watch::Receiver<Phase>,
    session: Option<SessionTurn>,
    param: &'static str,
    over: bool,
    span: Span,
    _in_flight: InFlight,
}

impl Run {
    /// Submit `requests`, which all ask for the same number of choices.
    ///
    /// # Errors
    /// The engine's refusal of any of them; those submitted before it are cancelled.
    pub fn submit(
        state: &AppState,
        requests: Vec<Request>,
        clock: Clock,
        param: &'static str,
    ) -> Result<Run, ApiError> {
        let mut events = SelectAll::new();
        let (waiting, choices) = (requests.len(), requests.first().map_or(1, |r| r.n));
        let own = || state.backend.info().kv_recipe.clone();
        let reported = requests.first().filter(|request| request.report.is_some());
        let recipe = reported.map(|request| request.kv.clone().unwrap_or_else(own));
        for (prompt, request) in requests.into_iter().enumerate() {
            let stream = state.backend.submit(request).map_err(|e| refusal(&e, param))?;
            // `None` marks an end of the stream, which must not come before `Done`.
            let end = futures::stream::once(async { None });
            events.push(stream.map(Some).chain(end).map(move |e| (prompt, e)).boxed());
        }
        Ok(Run {
            events,
            choices,
            waiting,
            totals: Totals { prompts: waiting, recipe, ..Totals::default() },
            clock,
            phase: state.phase.clone(),
            session: None,
            param,
            over: false,
            span: Span::current(),
            _in_flight: InFlight::begin(),
        })
    }

    /// The answer becomes a turn of a session, if it is generated to its end.
    pub fn follow(&mut self, session: SessionTurn) {
        self.session = Some(session);
    }

    /// The next step. After `Done` or an error there is none.
    pub async fn next(&mut self) -> Option<Result<Step, ApiError>> {
        if self.over {
            return None;
        }
        loop {
            let event = {
                let cancelled = cancelled(&mut self.phase);
                tokio::select! {
                    // Events that are there already go out before a timeout does.
                    biased;
                    event = self.events.next() => event,
                    () = cancelled => return self.fail(ApiError::shutting_down()),
                    () = tokio::time::sleep_until(self.clock.deadline) => {
                        return self.fail(ApiError::timeout(self.clock.limit));
                    }
                }
            };
            match self.step(event) {
                Some(Ok(step)) => return Some(Ok(step)),
                Some(Err(error)) => return self.fail(error),
                None => continue,
            }
        }
    }

    fn step(&mut self, event: Option<(usize, Option<Event>)>) -> Option<Result<Step, ApiError>> {
        let lost = || ApiError::internal("The engine stopped before the answer was finished.");
        let (prompt, event) = match event {
            Some((prompt, Some(event))) => (prompt, event),
            // The end of one stream: only right after its `Done`, and then another prompt is still running.
            Some((_, None)) if self.waiting < self.totals.prompts => return None,
            _ => return Some(Err(lost())),
        };
        let index = |choice: usize| prompt * self.choices + choice;
        Some(Ok(match event {
            Event::PromptProgress { done, total } => Step::Progress { done, total },
            Event::Token { choice, text, id, logprob } => {
                if let Some(session) = &mut self.session {
                    session.token(id, &text);
                }
                Step::Token { index: index(choice), text, id, logprob }
            }
            Event::Finished { reason: FinishReason::Cancelled, .. } => return Some(Err(ApiError::shutting_down())),
            Event::Finished { reason: FinishReason::Error, .. } => return Some(Err(lost())),
            Event::Finished { choice, reason } => Step::Finished { index: index(choice), reason },
            Event::Report { choice, report } => {
                self.totals.reports.push((index(choice), report));
                return None;
            }
            Event::Error(error) => return Some(Err(refusal(&error, self.param))),
            Event::Done(usage) => {
                let sum = &mut self.totals.usage;
                sum.prompt_tokens += usage.prompt_tokens;
                sum.completion_tokens += usage.completion_tokens;
                sum.cached_tokens += usage.cached_tokens;
                sum.lossy_tokens += usage.lossy_tokens;
                sum.moved_tokens += usage.moved_tokens;
                sum.recomputed_tokens += usage.recomputed_tokens;
                sum.pinned = usage.pinned.map(|pinned| sum.pinned.map_or(pinned, |before| before.and(pinned)));
                sum.kept_share = usage.kept_share;
                sum.timings = usage.timings;
                self.waiting -= 1;
                if self.waiting > 0 {
                    return None;
                }
                self.over = true;
                self.totals.session = self.session.take().map(SessionTurn::finish);
                let (seconds, usage) = (self.clock.arrived.elapsed().as_secs_f64(), self.totals.usage);
                crate::metrics::finished(seconds);
                self.span.in_scope(|| {
                    tracing::info!(
                        prompt_tokens = usage.prompt_tokens,
                        cached_tokens = usage.cached_tokens,
                        completion_tokens = usage.completion_tokens,
                        seconds,
                        "answered"
                    );
                });
                Step::Done(Box::new(std::mem::take(&mut self.totals)))
            }
        }))
    }

    /// End with an error; the generations are cancelled at once, not only when the answer is dropped.
    fn fail(&mut self, error: ApiError) -> Option<Result<Step, ApiError>> {
        self.over = true;
        self.session = None;
        self.events.clear();
        self.span.in_scope(|| tracing::warn!(%error, "request failed"));
        Some(Err(error))
    }
}

async fn cancelled(phase: &mut watch::Receiver<Phase>) {
    if phase.wait_for(|p| *p >= Phase::Cancelling).await.is_err() {
        // Nobody is left who could cancel.
        std::future::pending::<()>().await;
    }
}
