//! From the body of a request to the tokens of its prompt: what answering, explaining and saving have in common.

use crate::error::ApiError;
use crate::generate::check_model;
use crate::request::{ChatRequest, CompletionRequest, Conversation, Prompt};
use crate::state::AppState;

/// A checked chat request for the model that is served.
///
/// # Errors
/// 400 that names the field; 404 for another model.
pub(crate) fn chat(state: &AppState, body: &[u8]) -> Result<ChatRequest, ApiError> {
    let request = ChatRequest::parse(body, &state.limits)?;
    check_model(state, request.common.model.as_deref())?;
    Ok(request)
}

/// The same of a text completion.
///
/// # Errors
/// As [`chat`].
pub(crate) fn completion(state: &AppState, body: &[u8]) -> Result<CompletionRequest, ApiError> {
    let request = CompletionRequest::parse(body, &state.limits)?;
    check_model(state, request.common.model.as_deref())?;
    Ok(request)
}

/// The only prompt of a request that may have one.
///
/// # Errors
/// 400 with `why` where there are more.
pub(crate) fn only(mut prompts: Vec<Prompt>, why: &str) -> Result<Prompt, ApiError> {
    let one = prompts.pop().filter(|_| prompts.is_empty());
    one.ok_or_else(|| ApiError::invalid("prompt", why))
}

/// Tokens of a conversation, ready for the model's turn.
///
/// # Errors
/// 400 in the template's words.
pub(crate) fn of_chat(state: &AppState, chat: &Conversation) -> Result<Vec<u32>, ApiError> {
    state.backend.encode_chat(chat).map_err(|reason| {
        ApiError::invalid("messages", format!("The messages cannot be given to this model: {reason}."))
    })
}

/// Tokens of a raw prompt. `which` is how a message calls it.
///
/// # Errors
/// 400 in the tokenizer's words.
pub(crate) fn of_text(state: &AppState, prompt: Prompt, which: &str) -> Result<Vec<u32>, ApiError> {
    match prompt {
        Prompt::Tokens(ids) => Ok(ids),
        Prompt::Text(text) => state
            .backend
            .encode_text(&text)
            .map_err(|reason| ApiError::invalid("prompt", format!("{which} cannot be given to this model: {reason}."))),
    }
}

/// What a raw prompt says.
pub(crate) fn text_of(state: &AppState, prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(ids) => {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| state.backend.token_bytes(*id)).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }
}
