//! GGUF metadata (and a look at which tensors there are) to [`ModelSpec`].

use super::rope::{KNOWN_SCHEMES, RopeScaling, RopeSpec, yarn_mscale};
use super::{Activation, KNOWN_ARCHITECTURES, LayerSpec, ModelSpec, check};
use crate::ModelError;
use crate::gguf::{Header, Metadata, Value};

/// Reads the description of the model in a file. `rope_factors` are the values of the tensor `rope_freqs.weight`,
/// where the file has one.
///
/// # Errors
/// `Config` for keys that are missing, of the wrong type or impossible; `Unsupported` for other models and schemes.
pub fn spec(header: &Header, rope_factors: Option<Vec<f32>>) -> Result<ModelSpec, ModelError> {
    let meta = &header.metadata;
    let architecture =
        meta.string("general.architecture")?.ok_or_else(|| meta.missing("general.architecture"))?.to_owned();
    if !matches!(architecture.as_str(), "llama" | "qwen2" | "qwen3" | "phi3" | "gemma3") {
        let what = format!("{}: architecture {architecture:?}", meta.path().display());
        return Err(ModelError::unsupported(what, KNOWN_ARCHITECTURES));
    }
    Reader { meta, header, architecture }.read(rope_factors)
}

struct Reader<'a> {
    meta: &'a Metadata,
    header: &'a Header,
    architecture: String,
}

impl Reader<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    /// A size; some writers give one per layer, which must all be equal.
    fn size(&self, suffix: &str) -> Result<Option<usize>, ModelError> {
        let key = self.key(suffix);
        let value = match self.meta.get(&key) {
            Some(Value::Array(_)) => {
                let all = self.meta.integers(&key)?.unwrap_or_default();
                let first = all.first().copied().unwrap_or(0);
                if all.iter().any(|v| *v != first) {
                    let what = format!("{}: {key} that differs between layers", self.meta.path().display());
                    return Err(ModelError::unsupported(what, "all layers must have the same sizes"));
                }
                u64::try_from(first).ok()
            }
            _ => self.meta.unsigned(&key)?,
        };
        value.map(|v| usize::try_from(v).map_err(|_| self.meta.bad(&key, format!("{v} is too large")))).transpose()
    }

    fn required(&self, suffix: &str) -> Result<usize, ModelError> {
        self.size(suffix)?.ok_or_else(|| self.meta.missing(&self.key(suffix)))
    }

    fn number(&self, suffix: &str) -> Result<Option<f64>, ModelError> {
        self.meta.number(&self.key(suffix))
    }

    fn has(&self, tensor: &str) -> bool {
        self.header.tensor(tensor).is_some()
    }

    fn read(&self, rope_factors: Option<Vec<f32>>) -> Result<ModelSpec, ModelError> {
        let gemma = self.architecture == "gemma3";
        let hidden = self.required("embedding_length")?;
        let heads = self.required("attention.head_count")?;
        let kv_heads = self.size("attention.head_count_kv")?.unwrap_or(heads);
        let head_dim = match self.size("attention.key_length")? {
            Some(dim) => dim,
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let reason = format!("{heads} heads do not divide {hidden} channels");
                return Err(self.meta.bad(&self.key("attention.head_count"), reason));
            }
        };
        if let Some(v) = self.size("attention.value_length")?
            && v != head_dim
        {
            let what = format!("{}: values of {v} channels beside keys of {head_dim}", self.meta.path().display());
            return Err(ModelError::unsupported(what, "keys and values must have the same width"));
        }
        let count = check::layer_count(self.meta.path(), &self.key("block_count"), self.required("block_count")?)?;
        let context = self.required("context_length")?;
        let full = self.rope(head_dim, context, rope_factors)?;
        let ropes = if gemma {
            let theta = self.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
            let local = RopeSpec { theta, rotary_dim: full.rotary_dim, scaling: RopeScaling::Default };
            vec![full, local]
        } else {
            vec![full]
        };
        let scale = match self.number("attention.scale")? {
            Some(scale) => scale,
            // The largest Gemma scales by the width per head of its residual stream; files do not say so.
            None if gemma && count == 62 && heads > 0 => (hidden as f64 / heads as f64).powf(-0.5),
            None => (head_dim as f64).powf(-0.5),
        };
        let fused_bias = self.has("blk.0.attn_qkv.bias");
        let layer = LayerSpec {
            window: None,
            rope: 0,
            attention_scale: scale as f32,
            attention_softcap: self.number("attn_logit_softcapping")?.map(|v| v as f32),
            qk_norm: matches!(self.architecture.as_str(), "qwen3" | "gemma3"),
            qkv_bias: self.architecture == "qwen2" || fused_bias || self.has("blk.0.attn_q.bias"),
            output_bias: self.has("blk.0.attn_output.bias"),
            mlp_bias: self.has("blk.0.ffn_gate.bias"),
            post_norms: gemma,
            activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
        };
        let layers = self
            .windows(count)?
            .into_iter()
            .map(|window| LayerSpec { window, rope: usize::from(gemma && window.is_some()), ..layer.clone() })
            .collect();
        let embedding = self.header.tensor("token_embd.weight").ok_or_else(|| ModelError::MissingTensor {
            tensor: "token_embd.weight".into(),
            path: self.meta.path().into(),
        })?;
        let spec = ModelSpec {
            // The table decides: `vocab_size` is optional, and the list of tokens may be shorter.
            vocab: embedding.shape.first().copied().unwrap_or(0),
            hidden,
            intermediate: self.required("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            context,
            norm_eps: self.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6) as f32,
            // Writers of GGUF have added the 1 already.
            norm_plus_one: false,
            tied_embeddings: !self.has("output.weight"),
            embedding_scale: gemma.then_some((hidden as f64).sqrt() as f32),
            logit_softcap: self.number("final_logit_softcapping")?.map(|v| v as f32),
            ropes,
            layers,
            architecture: self.architecture.clone(),
        };
        spec.checked(self.meta.path())
    }

    fn rope(&self, head_dim: usize, context: usize, factors: Option<Vec<f32>>) -> Result<RopeSpec, ModelError> {
        let theta = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        let rotary_dim = self.size("rope.dimension_count")?.unwrap_or(head_dim);
        if self.has("rope_factors_long.weight") || self.has("rope_factors_short.weight") {
            let what = format!("{}: RoPE scheme longrope", self.meta.path().display());
            return Err(ModelError::unsupported(what, format!("{KNOWN_SCHEMES}; use the short-context variant (4k)")));
        }
        let key = self.key("rope.scaling.type");
        let name = self.meta.string(&key)?;
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            // The name before `rope.scaling` was a section of its own.
            None => self.number("rope.scale_linear")?,
        };
        let factor = factor.filter(|f| *f != 0.0);
        let scaling = match name {
            None | Some("none") if factors.is_some() => RopeScaling::Default,
            None | Some("none" | "linear") => match factor {
                Some(factor) if name != Some("none") && factor != 1.0 => RopeScaling::Linear { factor },
                _ => RopeScaling::Default,
            },
            Some("yarn") => {
                let original = self.number("rope.scaling.original_context_length")?.unwrap_or(context as f64);
                let factor = factor.unwrap_or(context as f64 / original);
                let given = self.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
                RopeScaling::Yarn {
                    factor,
                    original,
                    beta_fast: self.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    beta_slow: self.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    truncate: true,
                    attention_factor: given * yarn_mscale(factor, 1.0),
                }
            }
            Some(other) => {
                let what = format!("{}: RoPE scheme {other}", self.meta.path().display());
                return Err(ModelError::unsupported(what, KNOWN_SCHEMES));
            }
        };
        let scaling = match (factors, scaling) {
            (None, scaling) => scaling,
            (Some(factors), RopeScaling::Default) => RopeScaling::Factors { common: 1.0, factors },
            (Some(factors), RopeScaling::Linear { factor }) => RopeScaling::Factors { common: factor, factors },
            (Some(_), _) => {
                let what = format!("{}: rope_freqs.weight together with yarn", self.meta.path().display());
                return Err(ModelError::unsupported(what, "one of them at a time"));
            }
        };
        Ok(RopeSpec { theta, rotary_dim, scaling })
    }

    fn windows(&self, count: usize) -> Result<Vec<Option<usize>>, ModelError> {
        // Qwen's writers copy a window that the model does not use.
        let window = match self.architecture.as_str() {
            "qwen2" | "qwen3" => None,
            _ => self.size("attention.sliding_window")?.filter(|w| *w > 0),
        };
        let Some(window) = window else { return Ok(vec![None; count]) };
        if self.architecture != "gemma3" {
            return Ok(vec![Some(window); count]);
        }
        let key = self.key("attention.sliding_window_pattern");
        match self.meta.get(&key) {
            Some(Value::Array(_)) => {
                let slides = self.meta.booleans(&key)?.unwrap_or_default();
                if slides.len() != count {
                    return Err(self.meta.bad(&key, format!("{} entries for {count} layers", slides.len())));
                }
                Ok(slides.into_iter().map(|s| s.then_some(window)).collect())
            }
            _ => {
                let pattern = self.meta.unsigned(&key)?.unwrap_or(6);
                if pattern == 0 {
                    return Err(self.meta.bad(&key, "0; at least 1 is needed"));
                }
                Ok((1..=count as u64).map(|i| (!i.is_multiple_of(pattern)).then_some(window)).collect())
            }
        }
    }
}
