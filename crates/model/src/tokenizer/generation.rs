//! What a model's folder says about how to generate with it.

use std::path::Path;

use serde_json::{Map, Value};

use crate::ModelError;

/// Defaults from `generation_config.json`. A field that the file does not have is `None`; the engine then uses its own.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct GenerationDefaults {
    /// Ids that end a generation.
    pub eos: Vec<u32>,
    /// Whether the authors mean the model to be sampled from; `Some(false)` means greedy.
    pub do_sample: Option<bool>,
    /// Softmax temperature.
    pub temperature: Option<f32>,
    /// Keep the k most probable tokens.
    pub top_k: Option<u32>,
    /// Keep the most probable tokens up to this total probability.
    pub top_p: Option<f32>,
    /// Keep tokens at least this probable relative to the most probable one.
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens that occurred.
    pub repetition_penalty: Option<f32>,
    /// Upper limit of new tokens.
    pub max_new_tokens: Option<u32>,
}

impl GenerationDefaults {
    /// The temperature of a request that names none: 0 where the authors rule sampling out, whatever temperature the file
    /// has beside that; `None` where the file says nothing, and the caller's own default applies.
    pub fn default_temperature(&self) -> Option<f32> {
        match self.do_sample {
            Some(false) => Some(0.0),
            Some(true) => Some(self.temperature.unwrap_or(1.0)),
            None => self.temperature,
        }
    }

    /// Reads `generation_config.json` of a Hugging Face folder; where that file or its `eos_token_id` is missing,
    /// `eos_token_id` of `config.json`. A folder with neither gives the empty defaults.
    ///
    /// # Errors
    /// A file that cannot be read, that is not a JSON object, or a value of the wrong type or range.
    pub fn from_hf(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("generation_config.json");
        let map = read_object(&path)?.unwrap_or_default();
        let number = |key: &str, min: f64| match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64().filter(|x| x.is_finite() && *x >= min) {
                Some(x) => Ok(Some(x)),
                None => Err(ModelError::config(&path, key, format!("{value} is not a number of at least {min}"))),
            },
        };
        let mut defaults = GenerationDefaults {
            eos: ids(&path, &map, "eos_token_id")?,
            do_sample: map.get("do_sample").and_then(Value::as_bool),
            temperature: number("temperature", 0.0)?.map(|x| x as f32),
            top_k: number("top_k", 0.0)?.map(|x| x as u32),
            top_p: number("top_p", 0.0)?.map(|x| x as f32),
            min_p: number("min_p", 0.0)?.map(|x| x as f32),
            repetition_penalty: number("repetition_penalty", 0.0)?.map(|x| x as f32),
            max_new_tokens: number("max_new_tokens", 0.0)?.map(|x| x as u32),
        };
        if defaults.eos.is_empty() {
            let path = dir.join("config.json");
            if let Some(config) = read_object(&path)? {
                defaults.eos = ids(&path, &config, "eos_token_id")?;
            }
        }
        Ok(defaults)
    }
}

/// One id or a list of them.
fn ids(path: &Path, map: &Map<String, Value>, key: &str) -> Result<Vec<u32>, ModelError> {
    let one = |value: &Value| {
        value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            ModelError::config(path, key, format!("{value} is not a token id (an integer from 0) or a list of them"))
        })
    };
    match map.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}

/// Reads a JSON object; `None` if there is no such file.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, ModelError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ModelError::io(path, e)),
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(_) => Err(ModelError::config(path, "(file)", "is JSON but not an object")),
        Err(e) => Err(ModelError::config(path, "(file)", format!("is not JSON: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(generation: Option<&str>, config: Option<&str>) -> Result<GenerationDefaults, ModelError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("generation_config.json", generation), ("config.json", config)] {
            if let Some(text) = text {
                std::fs::write(dir.path().join(name), text).unwrap();
            }
        }
        GenerationDefaults::from_hf(dir.path())
    }

    #[test]
    fn one_id_a_list_and_the_fallback() {
        assert_eq!(read(Some(r#"{"eos_token_id": 7}"#), Some(r#"{"eos_token_id": 8}"#)).unwrap().eos, [7]);
        assert_eq!(read(Some(r#"{"eos_token_id": [7, 9]}"#), None).unwrap().eos, [7, 9]);
        assert_eq!(read(None, Some(r#"{"eos_token_id": 8}"#)).unwrap().eos, [8]);
        assert_eq!(read(None, None).unwrap(), GenerationDefaults::default());
        let d = read(Some(r#"{"temperature": 0.6, "top_k": 20, "do_sample": true, "top_p": null}"#), None).unwrap();
        assert_eq!((d.temperature, d.top_k, d.top_p, d.do_sample), (Some(0.6), Some(20), None, Some(true)));
    }

    #[test]
    fn authors_who_rule_sampling_out_mean_temperature_0() {
        for (file, want) in [
            (r#"{"do_sample": false}"#, Some(0.0)),
            (r#"{"do_sample": false, "temperature": 0.6}"#, Some(0.0)),
            (r#"{"do_sample": true}"#, Some(1.0)),
            (r#"{"do_sample": true, "temperature": 0.6}"#, Some(0.6)),
            (r#"{"temperature": 0.6}"#, Some(0.6)),
            ("{}", None),
        ] {
            assert_eq!(read(Some(file), None).unwrap().default_temperature(), want, "{file}");
        }
    }

    #[test]
    fn wrong_types_name_file_and_key() {
        for bad in [r#"{"eos_token_id": "x"}"#, r#"{"temperature": -1}"#, r#"{"top_p": "a"}"#, "[]", "{"] {
            let message = read(Some(bad), None).unwrap_err().to_string();
            assert!(message.contains("generation_config.json"), "{message}");
        }
        assert!(read(Some(r#"{"eos_token_id": -1}"#), None).unwrap_err().to_string().contains("eos_token_id"));
    }
}
