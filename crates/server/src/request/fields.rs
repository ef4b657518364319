//! Reading one JSON object field by field, so that every error names the field.

use serde_json::{Map, Value};

use crate::error::{ApiError, shorten};

/// A JSON object and the path that leads to it. `null` counts as absent, unknown fields are never looked at.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: &'a str,
}

impl<'a> Fields<'a> {
    /// The object `value`; `path` is empty for the body itself.
    ///
    /// # Errors
    /// 400 when `value` is not an object.
    pub fn of(value: &'a Value, path: &'a str) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Fields { map, path }),
            other if path.is_empty() => Err(ApiError::bad_request(
                "invalid_type",
                format!("The request body must be a JSON object, found {}.", crate::error::type_name(other)),
            )),
            other => Err(ApiError::wrong_type(path, "an object", other)),
        }
    }

    /// Full path of one field, as errors name it.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    /// The field, unless it is absent or `null`.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    /// The field, or a 400 that names it.
    ///
    /// # Errors
    /// 400 when the field is absent or `null`.
    pub fn require(&self, name: &str) -> Result<&'a Value, ApiError> {
        self.get(name).ok_or_else(|| ApiError::missing(self.path(name)))
    }

    /// A boolean.
    ///
    /// # Errors
    /// 400 on any other type.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(ApiError::wrong_type(self.path(name), "a boolean", other)),
        }
    }

    /// A string.
    ///
    /// # Errors
    /// 400 on any other type.
    pub fn string(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(ApiError::wrong_type(self.path(name), "a string", other)),
        }
    }

    /// An integer in `low..=high`. `1.0` is not an integer.
    ///
    /// # Errors
    /// 400 on any other type and outside the range.
    pub fn integer(&self, name: &str, low: i64, high: i64) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let Value::Number(number) = value else {
            return Err(ApiError::wrong_type(self.path(name), "an integer", value));
        };
        if number.is_f64() {
            return Err(ApiError::wrong_type(self.path(name), "an integer", value));
        }
        match number.as_i64().filter(|v| (low..=high).contains(v)) {
            Some(v) => Ok(Some(v)),
            None => Err(ApiError::invalid(
                self.path(name),
                format!("Invalid value for '{}': {number} is not within {low} and {high}.", self.path(name)),
            )),
        }
    }

    /// An integer in `low..=high` that is a count.
    ///
    /// # Errors
    /// As [`Fields::integer`].
    pub fn count(&self, name: &str, low: u32, high: u32) -> Result<Option<usize>, ApiError> {
        Ok(self.integer(name, i64::from(low), i64::from(high))?.map(|v| v as usize))
    }

    /// A number in `low..=high`.
    ///
    /// # Errors
    /// 400 on any other type and outside the range.
    pub fn number(&self, name: &str, low: f64, high: f64) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        Ok(Some(number_in(&self.path(name), value, low, high)?))
    }

    /// One of a closed list of words.
    ///
    /// # Errors
    /// 400 on any other type or word; the message lists the known ones.
    pub fn word(&self, name: &str, known: &[&'static str]) -> Result<Option<&'static str>, ApiError> {
        let Some(text) = self.string(name)? else { return Ok(None) };
        match known.iter().find(|k| **k == text) {
            Some(k) => Ok(Some(k)),
            None => Err(ApiError::invalid(
                self.path(name),
                format!(
                    "Invalid value for '{}': '{}' is not one of {}.",
                    self.path(name),
                    shorten(text),
                    known.join(", ")
                ),
            )),
        }
    }
}

/// A JSON number within `low..=high`.
///
/// # Errors
/// 400 that names `path`, on any other type and outside the range.
pub fn number_in(path: &str, value: &Value, low: f64, high: f64) -> Result<f32, ApiError> {
    match value.as_f64() {
        None => Err(ApiError::wrong_type(path, "a number", value)),
        Some(v) if (low..=high).contains(&v) => Ok(v as f32),
        Some(v) => {
            Err(ApiError::invalid(path, format!("Invalid value for '{path}': {v} is not within {low} and {high}.")))
        }
    }
}

/// A token id below `vocab`.
///
/// # Errors
/// 400 that names `path`, on any other type and outside the vocabulary.
pub fn token_id(path: &str, value: &Value, vocab: usize) -> Result<u32, ApiError> {
    match value {
        Value::Number(n) if !n.is_f64() => n
            .as_u64()
            .filter(|id| (*id as usize) < vocab)
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| unknown_token(path, &n.to_string(), vocab)),
        other => Err(ApiError::wrong_type(path, "a token id", other)),
    }
}

/// 400: `id` is not a token of this model.
pub fn unknown_token(path: &str, id: &str, vocab: usize) -> ApiError {
    ApiError::invalid(
        path,
        format!(
            "Invalid value for '{path}': {} is not a token id of this model (0 to {}).",
            shorten(id),
            vocab.max(1) - 1
        ),
    )
}
