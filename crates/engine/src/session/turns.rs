//! Which tokens of a prompt belong to which message.

use cachalot_model::ModelError;
use cachalot_model::template::{ChatTemplate, Message};
use cachalot_model::tokenizer::Tokenizer;
use serde_json::{Map, Value};

/// Most messages of a session: the end of each is found by rendering all before it.
pub const MAX_MESSAGES: usize = 1024;

/// A conversation as tokens, ready for the model's turn.
///
/// # Errors
/// Of the template; [`ModelError::Prompt`] where there are more than [`MAX_MESSAGES`].
pub fn encode(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    messages: &[Message],
    tools: Option<&Value>,
    arguments: Option<&Map<String, Value>>,
) -> Result<Vec<u32>, ModelError> {
    if messages.len() > MAX_MESSAGES {
        let reason = format!("a session of {} messages; at most {MAX_MESSAGES} are possible", messages.len());
        return Err(ModelError::Prompt { reason });
    }
    template.encode(tokenizer, messages, true, tools, arguments)
}

/// Where each message ends in the tokens of a conversation. The ends of the first ones are `known`, which saves rendering them.
///
/// A place within a token, or one that the template does not tell (it refuses a conversation that ends there, or writes
/// earlier turns differently once there are later ones), is moved to the end of the token before it. Going back to it is right
/// all the same: the conversation is then rendered anew, and only what agrees is used.
///
/// # Errors
/// Of the template, for the whole conversation.
pub fn ends(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    messages: &[Message],
    tools: Option<&Value>,
    arguments: Option<&Map<String, Value>>,
    tokens: &[u32],
    known: &[usize],
) -> Result<Vec<usize>, ModelError> {
    let whole = template.render(messages, true, tools, arguments)?.text;
    let mut ends: Vec<usize> = known.iter().copied().take(messages.len()).collect();
    let spelled = |&id: &u32| match tokenizer.is_control(id) {
        true => tokenizer.token_spelling(id).len(),
        false => tokenizer.token_bytes(id).len(),
    };
    // A place in the tokens, and the bytes of text before it.
    let mut place = ends.last().map_or(0, |&end| end.min(tokens.len()));
    let mut bytes: usize = tokens[..place].iter().map(spelled).sum();
    while ends.len() < messages.len() {
        let rendered = template.render(&messages[..ends.len() + 1], false, tools, arguments);
        let text = rendered.map_or(String::new(), |prompt| prompt.text);
        let end = whole.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        while let Some(more) = tokens.get(place).map(spelled).filter(|more| bytes + more <= end) {
            (bytes, place) = (bytes + more, place + 1);
        }
        ends.push(place);
    }
    Ok(ends)
}
