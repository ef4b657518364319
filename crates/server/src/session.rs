//! Sessions of the engine that is served: the model's words for them, and what is done while nobody asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::http::StatusCode;
use cachalot_engine::session::{Guard, Saved, Session, SessionError, SessionName, Sessions};
use cachalot_model::Loaded;
use cachalot_model::template::{ChatTemplate, Message};

use crate::error::ApiError;
use crate::generate::{Clock, prepare, refusal};
use crate::state::AppState;

/// How often pins are looked at.
const TEND: Duration = Duration::from_secs(1);

/// Sessions on disk and in memory, beside the model they belong to.
pub struct SessionService {
    pub(crate) sessions: Sessions,
    pub(crate) loaded: Arc<Loaded>,
    /// Answers that are being saved.
    saving: AtomicUsize,
}

impl SessionService {
    /// Also starts the thread that ends pins.
    pub(crate) fn start(sessions: Sessions, loaded: Arc<Loaded>) -> Arc<SessionService> {
        let service = Arc::new(SessionService { sessions, loaded, saving: AtomicUsize::new(0) });
        let weak = Arc::downgrade(&service);
        let tend = move || {
            let mut stuck = false;
            loop {
                std::thread::sleep(TEND);
                let Some(service) = weak.upgrade() else { return };
                stuck = service.tend(stuck);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("cachalot-pins".to_owned()).spawn(tend) {
            tracing::error!(%error, "the thread that ends pins did not start; pinned sessions stay until they are unpinned");
        }
        service
    }

    /// Ends pins whose time is over, and one more where requests wait and none can run for want of the memory that pins hold.
    /// Whether that is so now; it has to be so twice.
    fn tend(&self, was_stuck: bool) -> bool {
        self.sessions.expire(crate::ids::unix_seconds());
        let stats = self.sessions.handle().stats();
        let stuck = stats.queued > 0 && stats.running == 0;
        if stuck
            && was_stuck
            && let Some(name) = self.sessions.yield_pin()
        {
            tracing::warn!(session = %name, "unpinned before its time: a request could not have run beside it");
        }
        stuck
    }

    /// Completes when all answers that are to be saved are.
    pub async fn settled(&self) {
        while self.saving.load(SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The session as it is saved in the background; the answer is out already.
    pub(crate) fn save_later(self: &Arc<Self>, guard: Guard, session: Session) {
        self.saving.fetch_add(1, SeqCst);
        let (service, runtime) = (self.clone(), tokio::runtime::Handle::current());
        tokio::task::spawn_blocking(move || {
            let saved = runtime.block_on(service.sessions.save(&guard, &session));
            crate::metrics::session_saved(saved.is_ok());
            match saved {
                Ok(Saved { tokens, saved_tokens, bytes, written_bytes, .. }) => {
                    tracing::debug!(tokens, saved_tokens, bytes, written_bytes, "a session was saved");
                }
                Err(error) => tracing::error!(%error, "an answer was given, but its session was not saved"),
            }
            drop(guard);
            service.saving.fetch_sub(1, SeqCst);
        });
    }

    /// Tokens of a conversation, ready for the model's turn.
    pub(crate) fn encode(&self, session: &Session, messages: &[Message]) -> Result<Vec<u32>, ApiError> {
        let template = self.template()?;
        let (tools, arguments) = (session.tools.as_ref(), session.arguments.as_ref());
        cachalot_engine::session::encode(template, &self.loaded.tokenizer, messages, tools, arguments).map_err(words)
    }

    /// Where the messages end in the tokens of the session; `known` are the first of these places.
    pub(crate) fn ends(
        &self,
        session: &Session,
        messages: &[Message],
        tokens: &[u32],
        known: &[usize],
    ) -> Result<Vec<usize>, ApiError> {
        let template = self.template()?;
        let (tools, arguments) = (session.tools.as_ref(), session.arguments.as_ref());
        let tokenizer = &self.loaded.tokenizer;
        cachalot_engine::session::ends(template, tokenizer, messages, tools, arguments, tokens, known).map_err(words)
    }

    fn template(&self) -> Result<&ChatTemplate, ApiError> {
        ChatTemplate::require(self.loaded.template.as_ref()).map_err(words)
    }

    /// What a token spells; nothing where it is not text.
    pub(crate) fn bytes(&self, id: u32) -> Vec<u8> {
        let tokenizer = &self.loaded.tokenizer;
        if tokenizer.is_control(id) { Vec::new() } else { tokenizer.token_bytes(id).into_owned() }
    }
}

fn words(error: cachalot_model::ModelError) -> ApiError {
    ApiError::invalid("messages", format!("The messages cannot be given to this model: {error}."))
}

/// The server's sessions.
///
/// # Errors
/// 400 where there are none, with how to have some.
pub(crate) fn service(state: &AppState, param: &str) -> Result<Arc<SessionService>, ApiError> {
    state.backend.sessions().ok_or_else(|| {
        let how = "Sessions are switched off; start the server with --kv-sessions FOLDER to keep some.";
        ApiError::unsupported(param, how)
    })
}

/// A name from outside.
///
/// # Errors
/// 400.
pub(crate) fn name(param: &str, text: &str) -> Result<SessionName, ApiError> {
    text.parse().map_err(|error: SessionError| ApiError::invalid(param, format!("{error}.")))
}

/// The right to change a session, as soon as nobody else has it.
///
/// # Errors
/// 504 past the deadline.
pub(crate) async fn lock(
    service: &SessionService,
    clock: Clock,
    tenant: &str,
    name: &SessionName,
) -> Result<Guard, ApiError> {
    let lock = tokio::time::timeout_at(clock.deadline, service.sessions.lock(tenant, name)).await;
    lock.map_err(|_| ApiError::timeout(clock.limit))
}

/// Work on files, and short work of the engine, where blocking is allowed. Whoever waits for a session must have waited before.
///
/// # Errors
/// Those of `work`; 504 past the deadline.
pub(crate) async fn blocking<T: Send + 'static>(
    state: &AppState,
    clock: Clock,
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    let runtime = tokio::runtime::Handle::current();
    prepare(state, clock, move |_| runtime.block_on(work)).await
}

/// In OpenAI's words. Paths of the server are nothing for clients.
pub(crate) fn failure(error: SessionError) -> ApiError {
    let message = format!("{error}.");
    let conflict = |code: &'static str, param: Option<&str>| ApiError {
        status: StatusCode::CONFLICT,
        kind: "invalid_request_error",
        message: message.clone(),
        param: param.map(str::to_owned),
        code: Some(code),
        retry_after: None,
    };
    match error {
        SessionError::Name { .. } => ApiError::invalid("name", message),
        SessionError::Turn { .. } => ApiError::invalid("turn", message),
        SessionError::Unknown { .. } => {
            ApiError { status: StatusCode::NOT_FOUND, ..conflict("session_not_found", Some("name")) }
        }
        SessionError::Exists { .. } => conflict("session_exists", Some("name")),
        SessionError::Different { .. } => conflict("session_differs", Some("kv")),
        SessionError::Damaged { .. } => conflict("session_damaged", None),
        SessionError::Unsuited { .. } => conflict("session_unsuited", None),
        SessionError::PinTooLarge { .. } => conflict("pin_too_large", Some("seconds")),
        SessionError::TooMany { .. } => conflict("too_many_sessions", None),
        SessionError::Engine(error) => refusal(&error, "messages"),
        other => {
            tracing::error!(error = %other, "a session's file failed");
            ApiError::internal("The session's file could not be read or written; the server's log says why.")
        }
    }
}
