//! The shape of a cache.

use crate::{CachePlan, KvError, KvFormat, Rope};
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::simd::LANES;
use std::sync::Arc;

/// Attention of one layer.
#[derive(Clone, Debug)]
pub struct LayerGeometry {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// What scores are multiplied by, usually `head_dim^-0.5`.
    pub scale: f32,
    /// `cap * tanh(score / cap)`, where the model has it.
    pub softcap: Option<f32>,
    /// A token sees itself and `window - 1` tokens before it; all where `None`.
    pub window: Option<usize>,
    /// Rotary position of queries and keys, where the layer has it.
    pub rope: Option<Arc<Rope>>,
    /// What the layer does with the heads' outputs, for methods that want to know how far a value reaches.
    pub output: Option<Output>,
}

/// The output projection of a layer, one query head at a time.
#[derive(Clone)]
pub struct Output(Arc<dyn Fn(usize) -> Vec<f32> + Send + Sync>);

impl Output {
    /// `columns` gives of a query head the part of the matrix that it is multiplied with: `[hidden][head_dim]`.
    pub fn new(columns: impl Fn(usize) -> Vec<f32> + Send + Sync + 'static) -> Output {
        Output(Arc::new(columns))
    }

    /// See [`Output::new`].
    pub fn of_head(&self, head: usize) -> Vec<f32> {
        (self.0)(head)
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Output")
    }
}

impl LayerGeometry {
    /// Channels of a head as pages hold them: rounded up to a vector.
    pub fn width(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Query heads per KV head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// What a [`crate::KvCache`] is built from.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// One per layer of the model.
    pub layers: Vec<LayerGeometry>,
    /// Most bytes that pages may take together.
    pub budget_bytes: u64,
    /// How the lanes of a sequence are written, where it has no plan of its own.
    pub plan: Arc<CachePlan>,
    /// Tokens of a page; 64 is what the kernels are built for.
    pub page_tokens: usize,
}

impl CacheConfig {
    /// A configuration with everything in plain elements, in pages of 64 tokens.
    pub fn new(layers: Vec<LayerGeometry>, budget_bytes: u64, format: KvFormat) -> CacheConfig {
        let plan = Arc::new(CachePlan::exact(format, layers.iter().map(|g| g.kv_heads)));
        CacheConfig::with_plan(layers, budget_bytes, plan)
    }

    /// A configuration whose sequences follow `plan` unless they have one of their own.
    pub fn with_plan(layers: Vec<LayerGeometry>, budget_bytes: u64, plan: Arc<CachePlan>) -> CacheConfig {
        CacheConfig { layers, budget_bytes, plan, page_tokens: PAGE_TOKENS }
    }

    pub(crate) fn check(&self) -> Result<(), KvError> {
        let fail = |what: String| Err(KvError::Config(what));
        if self.page_tokens != PAGE_TOKENS {
            return fail(format!("pages of {} tokens; the kernels read pages of {PAGE_TOKENS}", self.page_tokens));
        }
        if self.layers.is_empty() || self.layers.len() > usize::from(u16::MAX) {
            return fail(format!("{} layers", self.layers.len()));
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let LayerGeometry { heads, kv_heads, head_dim, .. } = *layer;
            if kv_heads == 0 || kv_heads > usize::from(u16::MAX) || heads == 0 || !heads.is_multiple_of(kv_heads) {
                return fail(format!("layer {i} has {heads} query heads over {kv_heads} KV heads"));
            }
            if head_dim == 0 || head_dim > 4096 {
                return fail(format!("layer {i} has heads of {head_dim} channels; 1 to 4096 are possible"));
            }
            if layer.window == Some(0) {
                return fail(format!("layer {i} has a sliding window of no tokens"));
            }
            if let Some(rope) = &layer.rope
                && rope.rotated() > head_dim
            {
                return fail(format!("layer {i} rotates {} of {head_dim} channels", rope.rotated()));
            }
        }
        self.plan.check(&self.layers)
    }
}
