//! Lines of the output, in the shape of OpenAI's batch results.

use super::drive::Answer;
use super::input::{Line, Refusal};
use serde_json::{Value, json};

/// What a line is called in the output, whether it has an id of its own or not.
pub fn id(number: usize) -> String {
    format!("line-{number}")
}

/// The number in an id.
pub fn number(id: &str) -> Option<usize> {
    id.strip_prefix("line-")?.parse().ok()
}

pub fn answered(line: &Line, model: &str, answer: &Answer) -> Value {
    let chat = line.asked.as_ref().is_ok_and(|asked| asked.chat);
    let choice = |(i, choice): (usize, &super::drive::Choice)| {
        let mut value = json!({ "index": i });
        value[if chat { "message" } else { "text" }] =
            if chat { json!({ "role": "assistant", "content": choice.text }) } else { json!(choice.text) };
        value["finish_reason"] = json!(choice.reason);
        value
    };
    let usage = &answer.usage;
    let body = json!({
        "object": if chat { "chat.completion" } else { "text_completion" },
        "model": model,
        "choices": answer.choices.iter().enumerate().map(choice).collect::<Vec<_>>(),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": { "cached_tokens": usage.cached_tokens },
        },
    });
    let response = json!({ "status_code": 200, "body": body });
    json!({ "id": id(line.number), "custom_id": line.custom_id, "response": response, "error": null })
}

pub fn refused(line: &Line, refusal: &Refusal) -> Value {
    let error =
        json!({ "code": refusal.code, "message": refusal.message, "param": refusal.param, "line": line.number });
    json!({ "id": id(line.number), "custom_id": line.custom_id, "response": null, "error": error })
}
