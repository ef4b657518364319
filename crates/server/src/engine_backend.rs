//! The real engine behind the seam.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use cachalot_engine::blend::Wish;
use cachalot_engine::session::Sessions;
use cachalot_engine::{Deletion, EditId, EngineError, EngineHandle, Explanation, Request, Scope};
use cachalot_kv::recipe::Card;
use cachalot_kv::{Recipe, Registry};
use cachalot_model::template::{ChatTemplate, Message};
use cachalot_model::tokenizer::{GenerationDefaults, Specials};
use cachalot_model::{Loaded, ModelError};
use serde_json::{Map, Value};

use crate::backend::{Backend, Events, Later, ModelInfo};
use crate::config::ServerConfig;
use crate::request::{ChatMessage, Conversation, SamplingFields};
use crate::session::SessionService;

/// A loaded model and the engine that runs it.
pub struct EngineBackend {
    handle: EngineHandle,
    loaded: Arc<Loaded>,
    info: ModelInfo,
    cards: OnceLock<Vec<Card>>,
    sessions: Option<Arc<SessionService>>,
}

impl EngineBackend {
    /// Serve `loaded` through `handle`, under the names and the recipe of `config`.
    pub fn new(config: &ServerConfig, handle: EngineHandle, loaded: Arc<Loaded>) -> EngineBackend {
        let info = ModelInfo {
            id: config.model_id.clone().unwrap_or_else(|| loaded.name.clone()),
            aliases: config.aliases.clone(),
            created: crate::ids::unix_seconds(),
            context: handle.context(),
            vocab: loaded.model.spec.vocab,
            kv_recipe: config.kv_recipe.clone(),
            fingerprint: fingerprint(&loaded, &config.kv_recipe),
            defaults: sampling_defaults(&loaded.generation),
        };
        EngineBackend { handle, loaded, info, cards: OnceLock::new(), sessions: None }
    }

    /// With named sessions of the same engine.
    pub fn with_sessions(mut self, sessions: Sessions) -> EngineBackend {
        self.sessions = Some(SessionService::start(sessions, self.loaded.clone()));
        self
    }
}

/// What applies where a request says nothing. A model whose authors rule sampling out answers greedily.
fn sampling_defaults(model: &GenerationDefaults) -> SamplingFields {
    SamplingFields {
        temperature: model.default_temperature(),
        top_p: model.top_p,
        top_k: model.top_k.map(|k| k as usize),
        min_p: model.min_p,
        repetition_penalty: model.repetition_penalty,
        ..SamplingFields::default()
    }
}

/// Everything that answers depend on: weights, template, recipe and this program.
fn fingerprint(loaded: &Loaded, kv_recipe: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    let template = loaded.template.as_ref().map_or("", ChatTemplate::source);
    for field in
        [loaded.digest.as_slice(), template.as_bytes(), kv_recipe.as_bytes(), env!("CARGO_PKG_VERSION").as_bytes()]
    {
        // Lengths keep the fields apart.
        hasher.update(&(field.len() as u64).to_le_bytes()).update(field);
    }
    format!("fp_{}", &hasher.finalize().to_hex()[..10])
}

impl Backend for EngineBackend {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn encode_text(&self, text: &str) -> Result<Vec<u32>, String> {
        let tokenizer = &self.loaded.tokenizer;
        let mut ids = tokenizer.encode(text, Specials::Parse).map_err(words)?;
        if let Some(bos) = tokenizer.bos()
            && tokenizer.add_bos()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    fn encode_chat(&self, chat: &Conversation) -> Result<Vec<u32>, String> {
        let template = ChatTemplate::require(self.loaded.template.as_ref()).map_err(words)?;
        let messages: Vec<Message> = chat.messages.iter().map(message).collect();
        template
            .encode(&self.loaded.tokenizer, &messages, true, chat.tools.as_ref(), chat.arguments.as_ref())
            .map_err(words)
    }

    fn stretches(&self, chat: &Conversation, prompt: &[u32]) -> Vec<Range<usize>> {
        let Some(template) = self.loaded.template.as_ref().filter(|_| !chat.chunks.is_empty()) else {
            return Vec::new();
        };
        let messages: Vec<Message> = chat.messages.iter().map(message).collect();
        let (tokenizer, tools, arguments) = (&self.loaded.tokenizer, chat.tools.as_ref(), chat.arguments.as_ref());
        let rendered = template.prepare(tokenizer, &messages, true, tools, arguments);
        let texts: Vec<&str> = chat.chunks.iter().map(String::as_str).collect();
        rendered.map_or_else(|_| Vec::new(), |rendered| tokenizer.stretches(&rendered, prompt, &texts))
    }

    fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.loaded.tokenizer.token_bytes(id).into_owned()
    }

    fn recipes(&self) -> Vec<Card> {
        let recipes = self.handle.recipes();
        let card = |recipe: &Recipe| {
            let profile = recipe.profile_among(recipes.profiles());
            Card::of(recipe, recipes.layers(), profile.map(|profile| &**profile))
        };
        self.cards.get_or_init(|| Registry::all().iter().map(card).collect()).clone()
    }

    fn explain(
        &self,
        prompt: Vec<u32>,
        kv: Option<String>,
        tenant: String,
        edit: Option<EditId>,
        wish: Wish,
    ) -> Later<Explanation> {
        let handle = self.handle.clone();
        Box::pin(
            async move { handle.explain_with(prompt, Scope { kv: kv.as_deref(), tenant: &tenant, edit }, wish).await },
        )
    }

    fn delete_tenant(&self, tenant: String) -> Later<Deletion> {
        let (handle, service) = (self.handle.clone(), self.sessions.clone());
        Box::pin(async move {
            match service {
                Some(service) => service.sessions.delete_tenant(&tenant).await,
                None => handle.delete_tenant(&tenant).await,
            }
        })
    }

    fn sessions(&self) -> Option<Arc<SessionService>> {
        self.sessions.clone()
    }

    fn submit(&self, request: Request) -> Result<Events, EngineError> {
        let mut generation = self.handle.submit(request)?;
        Ok(Box::pin(futures::stream::poll_fn(move |context| generation.poll_next(context))))
    }
}

fn words(error: ModelError) -> String {
    error.to_string()
}

pub(crate) fn message(message: &ChatMessage) -> Message {
    let mut extra = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            extra.insert(key.into(), value);
        }
    };
    put("name", message.name.clone().map(Value::from));
    put("tool_call_id", message.tool_call_id.clone().map(Value::from));
    put("tool_calls", message.tool_calls.clone().map(with_objects));
    Message { role: message.role.clone(), content: message.content.clone(), extra }
}

/// OpenAI's API carries a call's arguments as a string of JSON; templates expect the object in it.
fn with_objects(mut calls: Value) -> Value {
    for call in calls.as_array_mut().into_iter().flatten() {
        if let Some(arguments) = call.pointer_mut("/function/arguments")
            && let Some(object) = arguments.as_str().and_then(|s| serde_json::from_str::<Map<String, Value>>(s).ok())
        {
            *arguments = Value::Object(object);
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_of_calls_become_objects_where_they_are_some() {
        let call = |arguments: Value| json!([{"type": "function", "function": {"name": "f", "arguments": arguments}}]);
        assert_eq!(with_objects(call(json!("{\"a\": 1}"))), call(json!({"a": 1})));
        for left in [json!("not json"), json!("[1]"), json!({"a": 1}), json!(null)] {
            assert_eq!(with_objects(call(left.clone())), call(left));
        }
        assert_eq!(with_objects(json!([1, {}])), json!([1, {}]));
    }

    #[test]
    fn a_model_that_is_not_to_be_sampled_from_answers_greedily_by_default() {
        let model = GenerationDefaults { temperature: Some(0.6), top_k: Some(20), ..GenerationDefaults::default() };
        let defaults = sampling_defaults(&model);
        assert_eq!((defaults.temperature, defaults.top_k), (Some(0.6), Some(20)));
        let greedy = GenerationDefaults { do_sample: Some(false), ..model };
        assert_eq!(sampling_defaults(&greedy).temperature, Some(0.0));
        // A model that says nothing leaves the temperature to the API's own default, 1.
        assert_eq!(sampling_defaults(&GenerationDefaults::default()).temperature, None);
    }
}
