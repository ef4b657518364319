//! Typed look-ups in a JSON object, with errors that name the file and the dotted key.

use std::path::Path;

use serde_json::{Map, Value};

use crate::ModelError;

/// One object of a configuration file.
#[derive(Clone, Copy)]
pub(super) struct Object<'a> {
    pub(super) path: &'a Path,
    /// Dotted prefix of the keys, empty or ending in a dot.
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    pub(super) fn new(path: &'a Path, value: &'a Value) -> Result<Object<'a>, ModelError> {
        let map = value.as_object().ok_or_else(|| ModelError::config(path, "(file)", "it is not a JSON object"))?;
        Ok(Object { path, prefix: "", map })
    }

    pub(super) fn error(&self, key: &str, reason: impl Into<String>) -> ModelError {
        ModelError::config(self.path, format!("{}{key}", self.prefix), reason)
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => convert(v).map(Some).ok_or_else(|| {
                let shown: String = v.to_string().chars().take(60).collect();
                self.error(key, format!("{wanted} was expected, found {shown}"))
            }),
        }
    }

    /// `null` counts as absent, here and below.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.typed(key, "a non-negative integer", |v| v.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    pub(super) fn size_required(&self, key: &str) -> Result<usize, ModelError> {
        self.size(key)?.ok_or_else(|| self.error(key, "the key is missing"))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a number", |v| v.as_f64().filter(|f| f.is_finite()))
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        self.typed(key, "an array of strings", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    pub(super) fn object(&self, key: &'static str) -> Result<Option<Object<'a>>, ModelError> {
        let map = self.typed(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Object { path: self.path, prefix: dotted(key), map }))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|v| !v.is_null())
    }
}

/// Only these objects are ever entered; keeping them static spares an allocation and a lifetime.
fn dotted(key: &'static str) -> &'static str {
    match key {
        "text_config" => "text_config.",
        "rope_parameters" => "rope_parameters.",
        "rope_scaling" => "rope_scaling.",
        "full_attention" => "rope_parameters.full_attention.",
        "sliding_attention" => "rope_parameters.sliding_attention.",
        _ => "",
    }
}
