//! The seam between HTTP and the engine. Tests put a scripted backend behind it.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use cachalot_engine::blend::Wish;
use cachalot_engine::{Deletion, EditId, EngineError, Event, Explanation, Request};
use cachalot_kv::recipe::Card;
use futures::Stream;

use crate::request::{Conversation, SamplingFields};
use crate::session::SessionService;

/// The events of one request, in the engine's order. Dropping the stream cancels the request.
pub type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// What the engine says a little later.
pub type Later<T> = Pin<Box<dyn Future<Output = Result<T, EngineError>> + Send>>;

/// What is served, as far as clients may know it.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Name of the model.
    pub id: String,
    /// Other names that requests may use.
    pub aliases: Vec<String>,
    /// When the model was loaded, seconds since 1970.
    pub created: u64,
    /// Tokens of prompt and answer together.
    pub context: usize,
    /// Number of token ids.
    pub vocab: usize,
    /// Recipe of the key-value cache.
    pub kv_recipe: String,
    /// Changes when weights, tokenizer or build change; `system_fingerprint` of every answer.
    pub fingerprint: String,
    /// The model's own sampling defaults, for fields that a request leaves open.
    pub defaults: SamplingFields,
}

/// What the routes need from model and engine. All methods may be called from any thread; [`Backend::encode_text`],
/// [`Backend::encode_chat`] and [`Backend::submit`] are called where blocking is allowed.
pub trait Backend: Send + Sync + 'static {
    /// What is served.
    fn info(&self) -> &ModelInfo;

    /// Token ids of a raw prompt, with the start token where the model wants one. Special tokens spelled in the text are
    /// honoured: a raw prompt is how a client with a template of its own talks to the model.
    ///
    /// # Errors
    /// Why the text cannot be tokenized; the client's fault.
    fn encode_text(&self, text: &str) -> Result<Vec<u32>, String>;

    /// Token ids of a conversation, ready for the model's turn. Nothing inside a message becomes a special token.
    ///
    /// # Errors
    /// Why the template refuses the messages, or that there is no template; the client's fault.
    fn encode_chat(&self, chat: &Conversation) -> Result<Vec<u32>, String>;

    /// Where the texts that a conversation marks stand in its prompt, in tokens, as far as they can be found.
    fn stretches(&self, _chat: &Conversation, _prompt: &[u32]) -> Vec<Range<usize>> {
        Vec::new()
    }

    /// Raw bytes of one token; empty for special tokens and unknown ids.
    fn token_bytes(&self, id: u32) -> Vec<u8>;

    /// The recipes that requests may name, with what they cost on the model. May take a moment, the first time.
    fn recipes(&self) -> Vec<Card>;

    /// What a prompt could begin with at the moment, of what was computed for the same tenant, and why not with more.
    ///
    /// # Errors
    /// Of the recipe, or that the engine is going down.
    fn explain(
        &self,
        prompt: Vec<u32>,
        kv: Option<String>,
        tenant: String,
        edit: Option<EditId>,
        wish: Wish,
    ) -> Later<Explanation>;

    /// Removes all of a tenant, wherever it is; see [`cachalot_engine::session::Sessions::delete_tenant`]. Goes on only as long as
    /// somebody asks what came of it; may block.
    ///
    /// # Errors
    /// That the engine is going down.
    fn delete_tenant(&self, tenant: String) -> Later<Deletion>;

    /// Named sessions; none where the server keeps none.
    fn sessions(&self) -> Option<Arc<SessionService>> {
        None
    }

    /// Start generating.
    ///
    /// # Errors
    /// The request is refused before it begins.
    fn submit(&self, request: Request) -> Result<Events, EngineError>;
}
