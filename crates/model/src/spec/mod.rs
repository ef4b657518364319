//! What a model is made of: any supported configuration, normalised into one description of one decoder.
//!
//! `config.json` ([`huggingface`]) and GGUF metadata ([`gguf`]) both become a [`ModelSpec`]; the loader and the forward
//! pass know nothing of families.

mod check;
pub mod gguf;
pub mod huggingface;
mod json;
pub mod rope;
mod scaling;

pub use rope::{RopeScaling, RopeSpec};

use serde::Serialize;

/// The families a `model_type` or GGUF architecture can name, for messages.
pub const KNOWN_MODEL_TYPES: &str =
    "known model types: gemma3, gemma3_text, llama, mistral, phi3, qwen2, qwen3 (SmolLM2 and TinyLlama are llama)";
/// GGUF architectures that can be loaded, for messages.
pub const KNOWN_ARCHITECTURES: &str =
    "known GGUF architectures: gemma3, llama (also Mistral, SmolLM2, TinyLlama), phi3, qwen2, qwen3";

/// One decoder-only model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSpec {
    /// The family, as `model_type` or `general.architecture` names it.
    pub architecture: String,
    /// Rows of the embedding table and width of the logits.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layers.
    pub intermediate: usize,
    /// Query heads of every layer.
    pub heads: usize,
    /// Key and value heads of every layer; divides `heads`.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Positions the model was made for.
    pub context: usize,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
    /// Norm weights are stored as their difference from 1 (Gemma's safetensors); the loader adds the 1.
    pub norm_plus_one: bool,
    /// Whether the head is the embedding table.
    pub tied_embeddings: bool,
    /// Embeddings are multiplied by this.
    pub embedding_scale: Option<f32>,
    /// `cap * tanh(logit / cap)` on the final logits.
    pub logit_softcap: Option<f32>,
    /// The rotary schemes that layers refer to.
    pub ropes: Vec<RopeSpec>,
    /// The layers, first to last.
    pub layers: Vec<LayerSpec>,
}

/// What one layer does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerSpec {
    /// A token sees itself and `window - 1` tokens before it; all where `None`.
    pub window: Option<usize>,
    /// Index into [`ModelSpec::ropes`].
    pub rope: usize,
    /// What attention scores are multiplied by.
    pub attention_scale: f32,
    /// `cap * tanh(score / cap)` on attention scores.
    pub attention_softcap: Option<f32>,
    /// Per-head norm of queries and keys before rotary position.
    pub qk_norm: bool,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the attention's output.
    pub output_bias: bool,
    /// Biases on gate, up and down.
    pub mlp_bias: bool,
    /// Norms after attention and feed-forward, before they are added to the residual stream.
    pub post_norms: bool,
    /// What gates the feed-forward layer.
    pub activation: Activation,
}

/// The gating function of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
    /// GELU by the error function.
    GeluErf,
}

impl Activation {
    /// The function that `hidden_act` names, where it is known.
    fn named(name: &str) -> Option<Activation> {
        match name {
            "silu" | "swish" => Some(Activation::Silu),
            "gelu_pytorch_tanh" | "gelu_new" => Some(Activation::GeluTanh),
            "gelu" => Some(Activation::GeluErf),
            _ => None,
        }
    }
}

impl ModelSpec {
    /// Channels of all query heads of a row.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Channels of all key (or value) heads of a row.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}
