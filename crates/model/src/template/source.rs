//! Where a model keeps its chat template.

use std::path::Path;

use serde_json::Value;

use crate::ModelError;
use crate::gguf::Metadata;
use crate::tokenizer::read_object;

/// Template texts of one model by name; the usual one is `default`, some have `tool_use` beside it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sources(pub Vec<(String, String)>);

impl Sources {
    /// The text with this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, text)| text.as_str())
    }

    /// From a Hugging Face folder, in the order in which transformers looks: `chat_template.jinja`,
    /// `chat_template.json`, `chat_template` in `tokenizer_config.json`.
    pub fn from_hf(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("chat_template.jinja");
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(Sources(vec![("default".into(), text)])),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(ModelError::io(&path, e)),
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            let path = dir.join(name);
            let Some(value) = read_object(&path)?.and_then(|mut map| map.remove("chat_template")) else { continue };
            match Self::from_json(value) {
                Some(sources) => return Ok(sources),
                None => {
                    let reason = "must be a string, or a list of objects with the strings \"name\" and \"template\"";
                    return Err(ModelError::config(&path, "chat_template", reason));
                }
            }
        }
        Ok(Sources::default())
    }

    fn from_json(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(Sources::default()),
            Value::String(text) => Some(Sources(vec![("default".into(), text)])),
            Value::Array(list) => {
                let text = |item: &Value, key: &str| Some(item.get(key)?.as_str()?.to_owned());
                let named: Option<Vec<_>> =
                    list.iter().map(|item| Some((text(item, "name")?, text(item, "template")?))).collect();
                named.map(Sources)
            }
            _ => None,
        }
    }

    /// From the metadata of a GGUF file.
    pub fn from_gguf(meta: &Metadata) -> Result<Self, ModelError> {
        let mut sources = Sources::default();
        if let Some(text) = meta.string("tokenizer.chat_template")? {
            sources.0.push(("default".into(), text.to_owned()));
        }
        for name in meta.strings("tokenizer.chat_templates")?.unwrap_or_default() {
            if let Some(text) = meta.string(&format!("tokenizer.chat_template.{name}"))? {
                sources.0.push((name.clone(), text.to_owned()));
            }
        }
        Ok(sources)
    }
}
