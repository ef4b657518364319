//! The fields that chat and text completions share.

use std::ops::Range;
use std::time::Duration;

use cachalot_engine::{Beam, Blend, Stopping};
use serde_json::Value;

use super::fields::{Fields, number_in, unknown_token};
use super::format::OutputFormat;
use super::{Limits, MAX_CHOICES, MAX_STOP_BYTES, MAX_STOPS, kv};
use crate::error::{ApiError, shorten};

/// Sampling fields as the client sent them; `None` leaves the choice to the model's own defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingFields {
    /// 0 to 2; 0 takes the most likely token.
    pub temperature: Option<f32>,
    /// 0 to 1.
    pub top_p: Option<f32>,
    /// Number of candidates kept; 0 keeps all.
    pub top_k: Option<usize>,
    /// 0 to 1, relative to the most likely token.
    pub min_p: Option<f32>,
    /// -2 to 2.
    pub presence_penalty: Option<f32>,
    /// -2 to 2.
    pub frequency_penalty: Option<f32>,
    /// 0.01 to 10; 1 is none.
    pub repetition_penalty: Option<f32>,
    /// Any 64-bit integer, its bits taken as they are.
    pub seed: Option<u64>,
    /// Token ids of this model with what is added to their logits, -100 to 100.
    pub logit_bias: Vec<(u32, f32)>,
}

/// Fields that mean the same on both completion endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Common {
    /// The model the client asks for; `None` takes whatever is served.
    pub model: Option<String>,
    /// How the next token is chosen.
    pub sampling: SamplingFields,
    /// Largest number of generated tokens per choice.
    pub max_tokens: Option<usize>,
    /// Choices per prompt.
    pub n: usize,
    /// Search for the most likely texts instead of drawing tokens.
    pub beam: Option<Beam>,
    /// Strings that end a choice; never empty strings.
    pub stop: Vec<String>,
    /// Answer as server-sent events.
    pub stream: bool,
    /// A last event of the stream carries the usage.
    pub include_usage: bool,
    /// Go on after the end-of-text token.
    pub ignore_eos: bool,
    /// What the answer must look like.
    pub format: Option<OutputFormat>,
    /// How the cache is kept, where that is not the server's own way: an expression that parses.
    pub kv: Option<String>,
    /// How the request says that the cache is kept, be it the server's own way: a session may be kept in another one.
    pub recipe: Option<String>,
    /// The session that is gone on with.
    pub session: Option<String>,
    /// Stretches of the prompt, in tokens, that recipes may treat by themselves.
    pub spans: Vec<Range<usize>>,
    /// Stretches of the prompt, in tokens, that other prompts have at other places.
    pub chunks: Vec<Range<usize>>,
    /// How stretches that were computed in another context are used; `None` leaves it to the server.
    pub reuse: Option<Blend>,
    /// Whether blocks may be taken that a lossy codec has changed; `None` leaves it to the server.
    pub lossy: Option<bool>,
    /// The time in which the first token is wanted, for those who allow that.
    pub within: Option<Duration>,
    /// For how long the prompt's blocks are to stay.
    pub pin: Option<Duration>,
    /// Compare this share of the answer's steps with the exact cache.
    pub report: Option<f64>,
}

impl Common {
    /// Read the shared fields.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn parse(fields: &Fields<'_>, limits: &Limits) -> Result<Common, ApiError> {
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let recipe = kv::recipe(fields, limits)?;
        let n = fields.count("n", 1, MAX_CHOICES)?.unwrap_or(1);
        Ok(Common {
            model: fields.string("model")?.map(str::to_string),
            sampling: SamplingFields::parse(fields, limits)?,
            max_tokens: fields.count("max_tokens", 1, i32::MAX as u32)?,
            n,
            beam: beam(fields, n)?,
            stop: stops(fields)?,
            stream,
            include_usage: include_usage(fields, stream)?,
            ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
            format: OutputFormat::parse(fields)?,
            kv: recipe.clone().filter(|recipe| *recipe != limits.kv_recipe),
            recipe,
            session: kv::session(fields)?,
            spans: kv::stretches(fields, "spans")?,
            chunks: kv::stretches(fields, "chunks")?,
            reuse: kv::reuse_of(fields)?,
            lossy: kv::lossy(fields)?,
            within: kv::within(fields)?,
            pin: kv::pin(fields)?,
            report: kv::report(fields)?,
        })
    }
}

impl SamplingFields {
    fn parse(fields: &Fields<'_>, limits: &Limits) -> Result<SamplingFields, ApiError> {
        // -1 is how some clients write "all candidates".
        let top_k = fields.integer("top_k", -1, i64::from(i32::MAX))?.map(|k| k.max(0) as usize);
        Ok(SamplingFields {
            temperature: fields.number("temperature", 0.0, 2.0)?,
            top_p: fields.number("top_p", 0.0, 1.0)?,
            top_k,
            min_p: fields.number("min_p", 0.0, 1.0)?,
            presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?,
            frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?,
            // Logits are divided by it, so it stays clear of 0.
            repetition_penalty: fields.number("repetition_penalty", 0.01, 10.0)?,
            seed: fields.integer("seed", i64::MIN, i64::MAX)?.map(|s| s as u64),
            logit_bias: logit_bias(fields, limits)?,
        })
    }
}

/// vLLM's fields of beam search: `best_of` is the number of beams, `n` of texts.
fn beam(fields: &Fields<'_>, n: usize) -> Result<Option<Beam>, ApiError> {
    let wanted = fields.boolean("use_beam_search")?.unwrap_or(false);
    let width = fields.count("best_of", 1, MAX_CHOICES)?;
    let length_penalty = fields.number("length_penalty", -100.0, 100.0)?;
    let stopping = match fields.get("early_stopping") {
        None | Some(Value::Bool(false)) => Stopping::Hopeless,
        Some(Value::Bool(true)) => Stopping::Early,
        Some(Value::String(word)) if word == "never" => Stopping::Never,
        Some(other) => return Err(ApiError::wrong_type("early_stopping", "true, false or \"never\"", other)),
    };
    if !wanted {
        if width.is_some_and(|width| width != n) {
            return Err(ApiError::unsupported(
                "best_of",
                "'best_of' other than 'n' is for beam search here ('use_beam_search': true); else ask for 'n' with \
                 'logprobs' and choose.",
            ));
        }
        return Ok(None);
    }
    let width = width.unwrap_or(n);
    if width < n {
        return Err(ApiError::invalid(
            "best_of",
            format!("Invalid value for 'best_of': {width} beams do not give n = {n} texts."),
        ));
    }
    Ok(Some(Beam { width, length_penalty: length_penalty.unwrap_or(1.0), stopping }))
}

fn stops(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let list = match fields.get("stop") {
        None => return Ok(Vec::new()),
        Some(one @ Value::String(_)) => std::slice::from_ref(one),
        Some(Value::Array(list)) => list.as_slice(),
        Some(other) => return Err(ApiError::wrong_type("stop", "a string or an array of strings", other)),
    };
    if list.len() > MAX_STOPS {
        return Err(ApiError::invalid(
            "stop",
            format!("Invalid value for 'stop': {} strings, at most {MAX_STOPS} are allowed.", list.len()),
        ));
    }
    list.iter()
        .enumerate()
        .map(|(i, value)| match value {
            Value::String(s) if s.is_empty() => Err(ApiError::invalid(
                "stop",
                format!("Invalid value for 'stop': string {i} is empty, so it would end every answer at once."),
            )),
            Value::String(s) if s.len() > MAX_STOP_BYTES => Err(ApiError::invalid(
                "stop",
                format!("Invalid value for 'stop': string {i} has {} bytes, at most {MAX_STOP_BYTES}.", s.len()),
            )),
            Value::String(s) => Ok(s.clone()),
            other => Err(ApiError::wrong_type(format!("stop[{i}]"), "a string", other)),
        })
        .collect()
}

fn include_usage(fields: &Fields<'_>, stream: bool) -> Result<bool, ApiError> {
    let Some(value) = fields.get("stream_options") else { return Ok(false) };
    if !stream {
        return Err(ApiError::invalid("stream_options", "'stream_options' is only allowed when 'stream' is true."));
    }
    Ok(Fields::of(value, "stream_options")?.boolean("include_usage")?.unwrap_or(false))
}

fn logit_bias(fields: &Fields<'_>, limits: &Limits) -> Result<Vec<(u32, f32)>, ApiError> {
    let map = match fields.get("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(other) => {
            return Err(ApiError::wrong_type("logit_bias", "an object from token ids to numbers", other));
        }
    };
    map.iter()
        .map(|(key, value)| {
            let id = key
                .parse::<u32>()
                .ok()
                .filter(|id| (*id as usize) < limits.vocab)
                .ok_or_else(|| unknown_token("logit_bias", &format!("'{}'", shorten(key)), limits.vocab))?;
            Ok((id, number_in(&format!("logit_bias.{id}"), value, -100.0, 100.0)?))
        })
        .collect()
}
