//! The key-value section of a GGUF file, with typed look-ups that name the file and the key when they fail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::value::{Array, Value};
use crate::ModelError;

/// The metadata of one file.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    path: PathBuf,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// Metadata of `path`, from values already read (tests build their own).
    pub fn new(path: &Path, values: BTreeMap<String, Value>) -> Metadata {
        Metadata { path: path.into(), values }
    }

    /// The file it came from, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All keys with their values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// The raw value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        match convert(value) {
            Some(v) => Ok(Some(v)),
            None => Err(ModelError::config(&self.path, key, format!("{wanted} was expected, found {}", value.kind()))),
        }
    }

    /// A non-negative integer of any width. `None` when absent; an error when of another type or negative.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, ModelError> {
        self.typed(key, "a non-negative integer", |v| match v {
            Value::Unsigned(u) => Some(*u),
            Value::Signed(i) => u64::try_from(*i).ok(),
            _ => None,
        })
    }

    /// A number of any type. `None` when absent; an error when not a finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a finite number", |v| match v {
            Value::Unsigned(u) => Some(*u as f64),
            Value::Signed(i) => Some(*i as f64),
            Value::Float(f) => f.is_finite().then_some(*f),
            _ => None,
        })
    }

    /// A boolean. `None` when absent; an error when of another type.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "a boolean", |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }

    /// A text. `None` when absent; an error when of another type.
    pub fn string(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.typed(key, "a string", |v| if let Value::String(s) = v { Some(s.as_str()) } else { None })
    }

    /// An array of texts. `None` when absent; an error when of another type.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, ModelError> {
        self.typed(key, "an array of strings", |v| match v {
            Value::Array(Array::String(a)) => Some(a.as_slice()),
            _ => None,
        })
    }

    /// An array of floats. `None` when absent; an error when of another type.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>, ModelError> {
        self.typed(key, "an array of floats", |v| match v {
            Value::Array(Array::Float(a)) => Some(a.as_slice()),
            _ => None,
        })
    }

    /// An array of integers of either sign. `None` when absent; an error when of another type or out of range.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, ModelError> {
        self.typed(key, "an array of integers", |v| match v {
            Value::Array(Array::Signed(a)) => Some(a.clone()),
            Value::Array(Array::Unsigned(a)) => a.iter().map(|u| i64::try_from(*u).ok()).collect(),
            _ => None,
        })
    }

    /// An array of booleans (integers count as "not zero"). `None` when absent; an error when of another type.
    pub fn booleans(&self, key: &str) -> Result<Option<Vec<bool>>, ModelError> {
        self.typed(key, "an array of booleans", |v| match v {
            Value::Array(Array::Bool(a)) => Some(a.clone()),
            Value::Array(Array::Signed(a)) => Some(a.iter().map(|i| *i != 0).collect()),
            Value::Array(Array::Unsigned(a)) => Some(a.iter().map(|u| *u != 0).collect()),
            _ => None,
        })
    }

    /// The error for a key that must be there and is not.
    pub fn missing(&self, key: &str) -> ModelError {
        ModelError::config(&self.path, key, "the key is missing; the file was not written for a language model")
    }

    /// An error about the value of a key.
    pub fn bad(&self, key: &str, reason: impl Into<String>) -> ModelError {
        ModelError::config(&self.path, key, reason)
    }
}
