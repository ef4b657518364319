//! `config.json` to [`ModelSpec`].

use std::path::Path;

use serde_json::Value;

use super::json::Object;
use super::scaling::{self, Defaults, Kind};
use super::{Activation, KNOWN_MODEL_TYPES, LayerSpec, ModelSpec, check};
use crate::ModelError;

/// The families that differ in more than numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Phi3,
    Gemma3,
}

/// Reads a configuration; `path` is the file it came from, for messages.
///
/// # Errors
/// `Config` for values that are missing, of the wrong type or impossible; `Unsupported` for other models and schemes.
pub fn spec(path: &Path, config: &Value) -> Result<ModelSpec, ModelError> {
    let top = Object::new(path, config)?;
    let model_type = top
        .string("model_type")?
        .ok_or_else(|| top.error("model_type", format!("it is missing; {KNOWN_MODEL_TYPES}")))?;
    let (family, config) = match model_type {
        "llama" => (Family::Llama, top),
        "mistral" => (Family::Mistral, top),
        "qwen2" => (Family::Qwen2, top),
        "qwen3" => (Family::Qwen3, top),
        "phi3" => (Family::Phi3, top),
        "gemma3_text" => (Family::Gemma3, top),
        // The text part of the model that also sees pictures.
        "gemma3" => {
            (Family::Gemma3, top.object("text_config")?.ok_or_else(|| top.error("text_config", "the key is missing"))?)
        }
        other => {
            let what = format!("{}: model_type {other:?}", path.display());
            return Err(ModelError::unsupported(what, KNOWN_MODEL_TYPES));
        }
    };
    if config.has("quantization_config") || top.has("quantization_config") {
        return Err(ModelError::unsupported(
            format!("{}: quantization_config", path.display()),
            "safetensors weights can be F32, F16 or BF16; for quantized weights use a GGUF file",
        ));
    }
    Reader { family, config, top }.read(model_type)
}

struct Reader<'a> {
    family: Family,
    config: Object<'a>,
    top: Object<'a>,
}

impl Reader<'_> {
    fn read(&self, model_type: &str) -> Result<ModelSpec, ModelError> {
        let c = &self.config;
        let gemma = self.family == Family::Gemma3;
        // Gemma's published configurations leave out what equals the defaults of its class.
        let size = |key: &str, gemma_default: usize| match c.size(key)? {
            Some(n) => Ok(n),
            None if gemma => Ok(gemma_default),
            None => c.size_required(key),
        };
        let hidden = size("hidden_size", 2304)?;
        let heads = size("num_attention_heads", 8)?;
        let kv_heads = match c.size("num_key_value_heads")? {
            Some(n) => n,
            None => match self.family {
                Family::Gemma3 => 4,
                Family::Mistral => 8,
                _ => heads,
            },
        };
        let head_dim = self.head_dim(hidden, heads)?;
        let count = check::layer_count(c.path, "num_hidden_layers", size("num_hidden_layers", 26)?)?;
        let context = size("max_position_embeddings", 131_072)?;
        let scale = match self.family {
            Family::Gemma3 => c.number("query_pre_attn_scalar")?.unwrap_or(256.0),
            _ => head_dim as f64,
        };
        let full = self.rope(Kind::Full, head_dim, context)?;
        let ropes = if gemma { vec![full, self.rope(Kind::Sliding, head_dim, context)?] } else { vec![full] };
        let attention_bias = match self.family {
            Family::Llama | Family::Qwen3 | Family::Gemma3 => c.boolean("attention_bias")?.unwrap_or(false),
            _ => false,
        };
        let layer = LayerSpec {
            window: None,
            rope: 0,
            attention_scale: scale.powf(-0.5) as f32,
            attention_softcap: if gemma { c.number("attn_logit_softcapping")?.map(|v| v as f32) } else { None },
            qk_norm: matches!(self.family, Family::Qwen3 | Family::Gemma3),
            qkv_bias: attention_bias || self.family == Family::Qwen2,
            output_bias: attention_bias,
            mlp_bias: self.family == Family::Llama && c.boolean("mlp_bias")?.unwrap_or(false),
            post_norms: gemma,
            activation: self.activation()?,
        };
        let windows = self.windows(count)?;
        let layers = windows
            .into_iter()
            .map(|window| LayerSpec { window, rope: usize::from(gemma && window.is_some()), ..layer.clone() })
            .collect();
        let tied = match c.boolean("tie_word_embeddings")? {
            Some(tied) => tied,
            None => self.top.boolean("tie_word_embeddings")?.unwrap_or(gemma),
        };
        let spec = ModelSpec {
            architecture: model_type.to_owned(),
            vocab: size("vocab_size", 262_208)?,
            hidden,
            intermediate: size("intermediate_size", 9216)?,
            heads,
            kv_heads,
            head_dim,
            context,
            norm_eps: c.number("rms_norm_eps")?.unwrap_or(if self.family == Family::Phi3 { 1e-5 } else { 1e-6 }) as f32,
            norm_plus_one: gemma,
            tied_embeddings: tied,
            embedding_scale: if gemma { Some(self.embedding_scale(hidden)?) } else { None },
            logit_softcap: if gemma { c.number("final_logit_softcapping")?.map(|v| v as f32) } else { None },
            ropes,
            layers,
        };
        spec.checked(c.path)
    }

    fn head_dim(&self, hidden: usize, heads: usize) -> Result<usize, ModelError> {
        if let Some(dim) = self.config.size("head_dim")? {
            return Ok(dim);
        }
        match self.family {
            Family::Gemma3 => Ok(256),
            Family::Qwen3 => Ok(128),
            _ if heads > 0 && hidden.is_multiple_of(heads) => Ok(hidden / heads),
            _ => {
                Err(self.config.error("num_attention_heads", format!("{heads} heads do not divide {hidden} channels")))
            }
        }
    }

    fn rope(&self, kind: Kind, head_dim: usize, context: usize) -> Result<super::RopeSpec, ModelError> {
        let gemma = self.family == Family::Gemma3;
        let (theta, theta_key) = match kind {
            Kind::Sliding => (10_000.0, "rope_local_base_freq"),
            Kind::Full => (if gemma { 1_000_000.0 } else { 10_000.0 }, "rope_theta"),
        };
        let defaults = Defaults { theta, theta_key, scaled: kind == Kind::Full, head_dim, context };
        scaling::read(&self.config, kind, &defaults)
    }

    fn activation(&self) -> Result<Activation, ModelError> {
        let (key, default) = match self.family {
            Family::Gemma3 => ("hidden_activation", "gelu_pytorch_tanh"),
            _ => ("hidden_act", "silu"),
        };
        let name = self.config.string(key)?.unwrap_or(default);
        Activation::named(name).ok_or_else(|| {
            ModelError::unsupported(
                format!("{}: activation {name:?}", self.config.path.display()),
                "known activations: silu, gelu, gelu_new, gelu_pytorch_tanh",
            )
        })
    }

    /// Gemma multiplies embeddings by the square root of their width, rounded to the type of the weights.
    fn embedding_scale(&self, hidden: usize) -> Result<f32, ModelError> {
        let exact = (hidden as f64).sqrt() as f32;
        let mut dtype = None;
        for object in [&self.config, &self.top] {
            for key in ["dtype", "torch_dtype"] {
                dtype = dtype.or(object.string(key)?);
            }
        }
        Ok(match dtype {
            Some("bfloat16") => half::bf16::from_f32(exact).to_f32(),
            Some("float16") => half::f16::from_f32(exact).to_f32(),
            _ => exact,
        })
    }

    /// The sliding window of each layer.
    fn windows(&self, count: usize) -> Result<Vec<Option<usize>>, ModelError> {
        let c = &self.config;
        let given = c.size("sliding_window")?;
        let window = match self.family {
            Family::Llama => None,
            Family::Mistral | Family::Phi3 => given,
            // A window in the file means nothing unless it is switched on.
            Family::Qwen2 | Family::Qwen3 => {
                given.filter(|_| matches!(c.boolean("use_sliding_window"), Ok(Some(true))))
            }
            Family::Gemma3 => Some(given.unwrap_or(4096)),
        };
        if matches!(self.family, Family::Qwen2 | Family::Qwen3) {
            c.boolean("use_sliding_window")?;
        }
        let Some(window) = window else { return Ok(vec![None; count]) };
        if c.boolean("use_bidirectional_attention")? == Some(true) {
            let what = format!("{}: bidirectional attention", c.path.display());
            return Err(ModelError::unsupported(what, "only models that predict the next token can be run"));
        }
        if matches!(self.family, Family::Mistral | Family::Phi3) {
            return Ok(vec![Some(window); count]);
        }
        if let Some(types) = c.strings("layer_types")? {
            return self.listed(&types, window, count);
        }
        if self.family == Family::Gemma3 {
            let pattern = match c.size("sliding_window_pattern")? {
                Some(n) => n,
                None => c.size("_sliding_window_pattern")?.unwrap_or(6),
            };
            if pattern == 0 {
                return Err(c.error("sliding_window_pattern", "0; at least 1 is needed"));
            }
            return Ok((1..=count).map(|i| (!i.is_multiple_of(pattern)).then_some(window)).collect());
        }
        let first = c.size("max_window_layers")?.unwrap_or(28);
        Ok((0..count).map(|i| (i >= first).then_some(window)).collect())
    }

    fn listed(&self, types: &[&str], window: usize, count: usize) -> Result<Vec<Option<usize>>, ModelError> {
        if types.len() != count {
            let reason = format!("{} entries for {count} layers", types.len());
            return Err(self.config.error("layer_types", reason));
        }
        let one = |name: &&str| match *name {
            "full_attention" => Ok(None),
            "sliding_attention" => Ok(Some(window)),
            other => Err(ModelError::unsupported(
                format!("{}: layer type {other:?}", self.config.path.display()),
                "known layer types: full_attention, sliding_attention",
            )),
        };
        types.iter().map(one).collect()
    }
}
