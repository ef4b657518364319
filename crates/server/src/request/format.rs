//! `response_format`: what the answer must look like.

use serde_json::Value;

use super::fields::Fields;
use crate::error::ApiError;

/// The shape that the sampler enforces on the answer.
#[derive(Debug, Clone, PartialEq)]
pub enum OutputFormat {
    /// Any JSON object.
    JsonObject,
    /// JSON that validates against this schema.
    JsonSchema(Value),
    /// Text that matches this regular expression as a whole.
    Regex(String),
    /// Text of this Lark grammar.
    Lark(String),
}

impl OutputFormat {
    /// Read `response_format`. `None` is free text.
    ///
    /// Beside OpenAI's `text`, `json_object` and `json_schema`, `{"type": "regex", "pattern": ".."}` and
    /// `{"type": "lark", "grammar": ".."}` are understood.
    ///
    /// # Errors
    /// 400 that names the field. Whether a schema can be enforced is for the engine to say.
    pub fn parse(fields: &Fields<'_>) -> Result<Option<OutputFormat>, ApiError> {
        let Some(value) = fields.get("response_format") else { return Ok(None) };
        let format = Fields::of(value, "response_format")?;
        format.require("type")?;
        let kind = format.word("type", &["text", "json_object", "json_schema", "regex", "lark"])?;
        match kind {
            Some("json_object") => Ok(Some(match format.get("schema") {
                // The form older clients use for a schema.
                Some(schema) => OutputFormat::JsonSchema(schema_object("response_format.schema", schema)?),
                None => OutputFormat::JsonObject,
            })),
            Some("json_schema") => {
                let inner = Fields::of(format.require("json_schema")?, "response_format.json_schema")?;
                let schema = schema_object("response_format.json_schema.schema", inner.require("schema")?)?;
                inner.string("name")?;
                inner.boolean("strict")?;
                Ok(Some(OutputFormat::JsonSchema(schema)))
            }
            Some("regex") => {
                format.require("pattern")?;
                Ok(format.string("pattern")?.map(|p| OutputFormat::Regex(p.to_string())))
            }
            Some("lark") => {
                format.require("grammar")?;
                Ok(format.string("grammar")?.map(|g| OutputFormat::Lark(g.to_string())))
            }
            _ => Ok(None),
        }
    }
}

fn schema_object(path: &str, value: &Value) -> Result<Value, ApiError> {
    match value {
        Value::Object(_) => Ok(value.clone()),
        other => Err(ApiError::wrong_type(path, "a JSON schema (an object)", other)),
    }
}
