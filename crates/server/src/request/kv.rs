//! The field `kv`: how a request wants its cache kept, and whether it wants to know what that did.

use std::ops::Range;
use std::time::Duration;

use cachalot_engine::blend::Method;
use cachalot_engine::{Blend, EngineError, ReplayConfig};
use cachalot_kv::Recipe;
use cachalot_kv::recipe::expression::Files;
use serde_json::Value;

use super::Limits;
use super::fields::{Fields, number_in};
use crate::error::ApiError;

/// `kv.spans` and `kv.chunks` are pairs of token positions `[from, to]` in the prompt. Whether they lie in it is for the engine
/// to say.
pub(super) fn stretches(fields: &Fields<'_>, name: &str) -> Result<Vec<Range<usize>>, ApiError> {
    let Some(Value::Object(kv)) = fields.get("kv") else { return Ok(Vec::new()) };
    let wrong = |at: String, value: &Value| ApiError::wrong_type(at, "a pair of token positions [from, to]", value);
    let pair = |(i, value): (usize, &Value)| {
        let at = |i: usize| value.get(i).and_then(Value::as_u64).and_then(|at| usize::try_from(at).ok());
        match (value.as_array().map(Vec::len), at(0), at(1)) {
            (Some(2), Some(from), Some(to)) => Ok(from..to),
            _ => Err(wrong(format!("kv.{name}[{i}]"), value)),
        }
    };
    match kv.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().enumerate().map(pair).collect(),
        Some(other) => Err(ApiError::wrong_type(format!("kv.{name}"), "an array of pairs of token positions", other)),
    }
}

/// `reuse` says how stretches that were computed in another context are used: a method's name, or
/// `{"method": .., "share": .., "chunks": "auto"}`, with the numbers that the method takes. `path` is where the field stands.
///
/// # Errors
/// 400 that names the field.
pub(crate) fn reuse(fields: &Fields<'_>, path: &str) -> Result<Option<Blend>, ApiError> {
    let at = if path.is_empty() { "reuse".to_owned() } else { format!("{path}.reuse") };
    let wrong = |error: EngineError| ApiError::invalid(at.clone(), format!("Invalid value for '{at}': {error}."));
    match fields.get("reuse") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => text.parse().map(Some).map_err(wrong),
        Some(value @ Value::Object(_)) => {
            let reuse = Fields::of(value, &at)?;
            reuse.require("method")?;
            let mut method = Method::named(reuse.string("method")?.unwrap_or_default()).map_err(wrong)?;
            for name in Method::OPTIONS {
                let Some(value) = reuse.get(name).filter(|value| !value.is_null()) else { continue };
                let at = format!("{at}.{name}");
                let Some(number) = value.as_f64() else { return Err(ApiError::wrong_type(at, "a number", value)) };
                let wrong = |e: EngineError| ApiError::invalid(at.clone(), format!("Invalid value for '{at}': {e}."));
                method = method.with(name, number).map_err(wrong)?;
            }
            let auto = reuse.word("chunks", &["auto", "marked"])? == Some("auto");
            Ok(Some(Blend { method, auto }))
        }
        Some(other) => Err(ApiError::wrong_type(at, "a method's name or {\"method\": name}", other)),
    }
}

/// `kv.reuse`; see [`reuse`].
pub(super) fn reuse_of(fields: &Fields<'_>) -> Result<Option<Blend>, ApiError> {
    match fields.get("kv") {
        Some(value @ Value::Object(_)) => reuse(&Fields::of(value, "kv")?, "kv"),
        _ => Ok(None),
    }
}

/// `kv` is a recipe or an expression of recipes, as a string or as `{"recipe": ".."}`. Whether the model allows it is for
/// the engine to say.
pub(super) fn recipe(fields: &Fields<'_>, limits: &Limits) -> Result<Option<String>, ApiError> {
    let (param, asked) = match fields.get("kv") {
        None => return Ok(None),
        Some(Value::String(s)) => ("kv", s.as_str()),
        Some(value @ Value::Object(_)) => {
            let kv = Fields::of(value, "kv")?;
            match kv.string("recipe")? {
                Some(recipe) => ("kv.recipe", recipe),
                None if ["spans", "report", "session", "reuse", "chunks", "lossy", "pin"]
                    .iter()
                    .any(|name| kv.get(name).is_some()) =>
                {
                    return Ok(None);
                }
                None => return kv.require("recipe").map(|_| None),
            }
        }
        Some(other) => {
            return Err(ApiError::wrong_type("kv", "the name of a recipe or {\"recipe\": name}", other));
        }
    };
    // The server's own may be one that clients could not write.
    if asked == limits.kv_recipe {
        return Ok(Some(asked.to_owned()));
    }
    // A client's expression cannot name files of the server.
    match Recipe::parse(asked, Files::Refused) {
        Ok(_) => Ok(Some(asked.to_string())),
        Err(error) => Err(ApiError::invalid(param, format!("Invalid value for '{param}': {error}."))),
    }
}

/// `kv.session` is the name of a session to go on with. Whether there may be one of this name is for the sessions to say.
pub(super) fn session(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    match fields.get("kv") {
        Some(value @ Value::Object(_)) => Ok(Fields::of(value, "kv")?.string("session")?.map(str::to_owned)),
        _ => Ok(None),
    }
}

/// `kv.lossy` allows blocks that a lossy codec below the pool has changed, or forbids them.
pub(super) fn lossy(fields: &Fields<'_>) -> Result<Option<bool>, ApiError> {
    match fields.get("kv") {
        Some(value @ Value::Object(_)) => match Fields::of(value, "kv")?.get("lossy") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(allowed)) => Ok(Some(*allowed)),
            Some(Value::Object(_)) => Ok(Some(true)),
            Some(other) => Err(ApiError::wrong_type("kv.lossy", "true, false or {\"within\": seconds}", other)),
        },
        _ => Ok(None),
    }
}

/// `kv.lossy.within` are the seconds in which the first token is wanted, where there are several levels of loss to choose from.
pub(super) fn within(fields: &Fields<'_>) -> Result<Option<Duration>, ApiError> {
    let Some(value @ Value::Object(_)) = fields.get("kv") else { return Ok(None) };
    let Some(lossy @ Value::Object(_)) = Fields::of(value, "kv")?.get("lossy") else { return Ok(None) };
    let seconds = Fields::of(lossy, "kv.lossy")?.require("within")?;
    Ok(Some(Duration::from_secs_f32(number_in("kv.lossy.within", seconds, 0.0, 3600.0)?)))
}

/// Longest pin of a prompt.
const LONGEST_PIN: u64 = 24 * 3600;

/// `kv.pin` says how long the prompt's blocks are to stay: seconds, or a text as `"90s"`, `"10m"`, `"2h"`. Zero lets go of an earlier
/// pin.
pub(super) fn pin(fields: &Fields<'_>) -> Result<Option<Duration>, ApiError> {
    let Some(value @ Value::Object(_)) = fields.get("kv") else { return Ok(None) };
    let seconds = match Fields::of(value, "kv")?.get("pin") {
        None => return Ok(None),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => seconds(text),
        Some(other) => return Err(ApiError::wrong_type("kv.pin", "seconds, or a text such as \"10m\"", other)),
    };
    match seconds.filter(|seconds| *seconds <= LONGEST_PIN) {
        Some(seconds) => Ok(Some(Duration::from_secs(seconds))),
        None => {
            let allowed = "whole seconds, or a number with s, m or h, at most 24h";
            Err(ApiError::invalid("kv.pin", format!("Invalid value for 'kv.pin': it must be {allowed}.")))
        }
    }
}

/// `"90s"`, `"10m"`, `"2h"`.
fn seconds(text: &str) -> Option<u64> {
    let unit = [("s", 1), ("m", 60), ("h", 3600)];
    let (digits, each) = unit.iter().find_map(|(unit, each)| Some((text.strip_suffix(unit)?, *each)))?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| is_number)?.checked_mul(each)
}

/// `kv.report` is `true`, or `{"share": ..}` of the answer's steps.
pub(super) fn report(fields: &Fields<'_>) -> Result<Option<f64>, ApiError> {
    let Some(Value::Object(kv)) = fields.get("kv") else { return Ok(None) };
    match kv.get("report") {
        None | Some(Value::Null | Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => Ok(Some(ReplayConfig::STEPS)),
        Some(value @ Value::Object(_)) => match Fields::of(value, "kv.report")?.get("share") {
            None => Ok(Some(ReplayConfig::STEPS)),
            Some(share) => {
                number_in("kv.report.share", share, 0.0, 1.0)?;
                Ok(share.as_f64())
            }
        },
        Some(other) => Err(ApiError::wrong_type("kv.report", "true, false or {\"share\": number}", other)),
    }
}
