//! Fields of a line, with reasons where they are missing or of the wrong type.

use serde_json::{Map, Value};

/// A JSON object.
pub(super) struct Fields(pub Map<String, Value>);

impl Fields {
    /// A field that is there and not null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<&str, String> {
        self.get(name).ok_or_else(|| format!("has no `{name}`"))?.as_str().ok_or_else(|| not(name, "a string"))
    }

    /// A text that may be missing.
    pub fn text_or<'a>(&'a self, name: &str, or: &'a str) -> Result<&'a str, String> {
        self.get(name).map_or(Ok(or), |value| value.as_str().ok_or_else(|| not(name, "a string")))
    }

    /// A list.
    pub fn list(&self, name: &str) -> Result<&[Value], String> {
        let value = self.get(name).ok_or_else(|| format!("has no `{name}`"))?;
        value.as_array().map(Vec::as_slice).ok_or_else(|| not(name, "a list"))
    }

    /// Strings or numbers, one or a list of them; none where the field is missing.
    pub fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(|value| one(name, value)).collect(),
            Some(value) => Ok(vec![one(name, value)?]),
        }
    }

    /// What the line calls itself.
    pub fn id(&self) -> Result<Option<String>, String> {
        let name = ["id", "_id", "index"].into_iter().find(|name| self.get(name).is_some());
        name.map(|name| one(name, &self.0[name])).transpose()
    }
}

fn one(name: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(not(name, "a string or a number, or a list of them")),
    }
}

fn not(name: &str, what: &str) -> String {
    format!("`{name}` is not {what}")
}
