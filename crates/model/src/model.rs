//! A model in memory: packed weights and what the cache must know of it.

use std::sync::{Arc, Mutex};

use cachalot_kernels::{Isa, Team, linear::Linear};
use cachalot_kv::{LayerGeometry, Output, Rope};

use crate::ModelError;
use crate::forward::Scratch;
use crate::load::{LoadOptions, NonFinite, linear_bytes};
use crate::spec::ModelSpec;

/// A decoder-only model: immutable weights, shared by all sequences.
pub struct Model {
    /// What it is made of.
    pub spec: ModelSpec,
    /// `[vocab][hidden]`; also the head where they are tied.
    pub(crate) embedding: Arc<Linear>,
    pub(crate) head: Arc<Linear>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) isa: Isa,
    pub(crate) team: Arc<Team>,
    /// Buffers of steps that are over, for the next ones.
    pub(crate) scratch: Mutex<Vec<Scratch>>,
    odd: Vec<NonFinite>,
}

/// The weights of one layer.
pub(crate) struct Layer {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) qkv: Joint,
    pub(crate) q_norm: Option<Vec<f32>>,
    pub(crate) k_norm: Option<Vec<f32>>,
    pub(crate) output: Arc<Linear>,
    pub(crate) post_attention_norm: Option<Vec<f32>>,
    pub(crate) ffn_norm: Vec<f32>,
    pub(crate) gate_up: Joint,
    pub(crate) down: Linear,
    pub(crate) post_ffn_norm: Option<Vec<f32>>,
}

/// Matrices with the same input: one where they could be joined.
pub(crate) enum Joint {
    /// All outputs after each other.
    One(Linear),
    /// Kinds that differ, as some GGUF files have for v.
    Parts(Vec<Linear>),
}

impl Joint {
    pub(crate) fn of(parts: Vec<Linear>) -> Joint {
        match Linear::concat(parts) {
            Ok(one) => Joint::One(one),
            Err(parts) => Joint::Parts(parts),
        }
    }

    fn linears(&self) -> &[Linear] {
        match self {
            Joint::One(one) => std::slice::from_ref(one),
            Joint::Parts(parts) => parts,
        }
    }
}

impl Model {
    pub(crate) fn assemble(
        spec: ModelSpec,
        embedding: Arc<Linear>,
        head: Arc<Linear>,
        final_norm: Vec<f32>,
        layers: Vec<Layer>,
        odd: Vec<NonFinite>,
        options: &LoadOptions,
    ) -> Result<Model, ModelError> {
        if layers.len() != spec.layers.len() {
            let reason = format!("{} layers of {} were loaded", layers.len(), spec.layers.len());
            return Err(ModelError::Forward { reason });
        }
        let (isa, team) = (options.isa, options.team.clone());
        let scratch = Mutex::new(Vec::new());
        Ok(Model { spec, embedding, head, final_norm, layers, isa, team, scratch, odd })
    }

    /// What a [`cachalot_kv::KvCache`] for this model needs to know, layer by layer.
    pub fn layer_geometry(&self) -> Vec<LayerGeometry> {
        let mut layers = geometry(&self.spec);
        let dim = self.spec.head_dim;
        for (layer, weights) in layers.iter_mut().zip(&self.layers) {
            let output = weights.output.clone();
            layer.output = Some(Output::new(move |head| {
                let mut row = vec![0.0; output.inp()];
                let mut part = Vec::with_capacity(output.out() * dim);
                for i in 0..output.out() {
                    output.row(i, &mut row);
                    part.extend_from_slice(&row[head * dim..][..dim]);
                }
                part
            }));
        }
        layers
    }

    /// Bytes of packed weights.
    pub fn weight_bytes(&self) -> usize {
        let head = if Arc::ptr_eq(&self.embedding, &self.head) { 0 } else { self.head.bytes() };
        self.embedding.bytes() + head + self.layer_bytes()
    }

    /// Bytes of weights that a decode step reads: all but the embedding table, of which it reads one row per token.
    pub fn bytes_per_step(&self) -> usize {
        self.head.bytes() + self.layer_bytes()
    }

    fn layer_bytes(&self) -> usize {
        let of = |l: &Layer| {
            linear_bytes(l.qkv.linears().iter().chain([&*l.output]).chain(l.gate_up.linears()).chain([&l.down]))
        };
        self.layers.iter().map(of).sum()
    }

    /// Tensors with NaN or infinite numbers, by name; empty for a healthy model.
    pub fn non_finite(&self) -> &[NonFinite] {
        &self.odd
    }

    /// The instruction set it computes with.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

/// What a cache for such a model needs to know, layer by layer. Layers with the same rotary scheme share its tables.
pub fn geometry(spec: &ModelSpec) -> Vec<LayerGeometry> {
    let ropes: Vec<Arc<Rope>> =
        spec.ropes.iter().map(|r| Arc::new(Rope::new(r.inv_freq(), r.attention_factor()))).collect();
    let of = |l: &crate::spec::LayerSpec| LayerGeometry {
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        scale: l.attention_scale,
        softcap: l.attention_softcap,
        window: l.window,
        rope: ropes.get(l.rope).cloned(),
        output: None,
    };
    spec.layers.iter().map(of).collect()
}
