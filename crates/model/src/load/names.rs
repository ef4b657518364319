//! What tensors are called: in Hugging Face folders and in GGUF files.

use super::checkpoint::Checkpoint;
use crate::spec::ModelSpec;

/// Which convention a checkpoint follows.
pub(super) enum Naming {
    /// Hugging Face, with what stands before `layers.` and before `lm_head.`.
    HuggingFace { base: String, head: String },
    /// GGUF; rows of q and k may be in the order of interleaved rotary pairs, and gate and up may be one tensor.
    Gguf { interleaved: bool, joint_up: bool },
}

/// The tensors of one layer, without `.weight` and `.bias`.
pub(super) struct LayerNames {
    pub(super) attention_norm: String,
    pub(super) q: String,
    pub(super) k: String,
    pub(super) v: String,
    /// q, k and v in one tensor; used where the checkpoint has it.
    pub(super) qkv: String,
    pub(super) q_norm: String,
    pub(super) k_norm: String,
    pub(super) output: String,
    pub(super) post_attention_norm: String,
    pub(super) ffn_norm: String,
    pub(super) gate: String,
    pub(super) up: String,
    /// gate and up in one tensor, where the checkpoint has it.
    pub(super) gate_up: Option<String>,
    pub(super) down: String,
    pub(super) post_ffn_norm: String,
}

impl Naming {
    /// The prefix differs between text models and those that also see pictures.
    pub(super) fn hugging_face(checkpoint: &Checkpoint) -> Naming {
        let bases = ["model.", "language_model.model.", "model.language_model.", "language_model.", ""];
        let base = bases.into_iter().find(|b| checkpoint.has(&format!("{b}embed_tokens.weight"))).unwrap_or("model.");
        let heads = ["lm_head.", "language_model.lm_head."];
        let head = heads.into_iter().find(|h| checkpoint.has(&format!("{h}weight"))).unwrap_or("lm_head.");
        Naming::HuggingFace { base: base.into(), head: head.into() }
    }

    pub(super) fn gguf(spec: &ModelSpec) -> Naming {
        Naming::Gguf { interleaved: spec.architecture == "llama", joint_up: spec.architecture == "phi3" }
    }

    pub(super) fn interleaved(&self) -> bool {
        matches!(self, Naming::Gguf { interleaved: true, .. })
    }

    pub(super) fn embedding(&self) -> String {
        match self {
            Naming::HuggingFace { base, .. } => format!("{base}embed_tokens.weight"),
            Naming::Gguf { .. } => "token_embd.weight".into(),
        }
    }

    pub(super) fn final_norm(&self) -> String {
        match self {
            Naming::HuggingFace { base, .. } => format!("{base}norm.weight"),
            Naming::Gguf { .. } => "output_norm.weight".into(),
        }
    }

    pub(super) fn head(&self) -> String {
        match self {
            Naming::HuggingFace { head, .. } => format!("{head}weight"),
            Naming::Gguf { .. } => "output.weight".into(),
        }
    }

    pub(super) fn layer(&self, i: usize, post_norms: bool) -> LayerNames {
        match self {
            Naming::HuggingFace { base, .. } => {
                let at = |name: &str| format!("{base}layers.{i}.{name}");
                LayerNames {
                    attention_norm: at("input_layernorm"),
                    q: at("self_attn.q_proj"),
                    k: at("self_attn.k_proj"),
                    v: at("self_attn.v_proj"),
                    qkv: at("self_attn.qkv_proj"),
                    q_norm: at("self_attn.q_norm"),
                    k_norm: at("self_attn.k_norm"),
                    output: at("self_attn.o_proj"),
                    // The same name stands before the feed-forward layer where there are no norms after.
                    post_attention_norm: at("post_attention_layernorm"),
                    ffn_norm: at(if post_norms { "pre_feedforward_layernorm" } else { "post_attention_layernorm" }),
                    gate: at("mlp.gate_proj"),
                    up: at("mlp.up_proj"),
                    gate_up: Some(at("mlp.gate_up_proj")),
                    down: at("mlp.down_proj"),
                    post_ffn_norm: at("post_feedforward_layernorm"),
                }
            }
            Naming::Gguf { joint_up, .. } => {
                let at = |name: &str| format!("blk.{i}.{name}");
                LayerNames {
                    attention_norm: at("attn_norm"),
                    q: at("attn_q"),
                    k: at("attn_k"),
                    v: at("attn_v"),
                    qkv: at("attn_qkv"),
                    q_norm: at("attn_q_norm"),
                    k_norm: at("attn_k_norm"),
                    output: at("attn_output"),
                    post_attention_norm: at("post_attention_norm"),
                    ffn_norm: at("ffn_norm"),
                    gate: at("ffn_gate"),
                    up: at("ffn_up"),
                    gate_up: joint_up.then(|| at("ffn_up")),
                    down: at("ffn_down"),
                    post_ffn_norm: at("post_ffw_norm"),
                }
            }
        }
    }
}
