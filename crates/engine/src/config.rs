//! How an engine is set up, and what it says of itself.

use std::sync::Arc;

use cachalot_kernels::{Isa, Team};
use cachalot_kv::{CacheConfig, KvCache, LayerGeometry, Profile, Recipe};

use crate::EngineError;
use crate::replay::ReplayConfig;
use crate::reuse::ReuseConfig;

/// How an engine is set up.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Most sequences in a step.
    pub max_batch: usize,
    /// Tokens of a step. Every decoding sequence takes one; prompts get the others in chunks, 16 at least.
    pub max_batch_tokens: usize,
    /// Requests that may wait for a place in the batch.
    pub queue: usize,
    /// Most tokens of prompt and answer together; 0, or more than the model has positions, means the model's.
    pub max_context: usize,
    /// How keys and values are written, where a request does not say.
    pub kv: Recipe,
    /// What calibration learned about the model, for recipes that need it; each is used for the recipes it suits. They must be
    /// the model's own ([`Profile::check_model`]).
    pub kv_profiles: Vec<Arc<Profile>>,
    /// Bytes of key-value cache all sequences share.
    pub kv_budget_bytes: u64,
    /// How answers are compared with the exact cache.
    pub replay: ReplayConfig,
    /// How sequences share what they compute.
    pub reuse: ReuseConfig,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            max_batch: 32,
            max_batch_tokens: 512,
            queue: 256,
            max_context: 0,
            kv: Recipe::default(),
            kv_profiles: Vec::new(),
            kv_budget_bytes: 1 << 30,
            replay: ReplayConfig::default(),
            reuse: ReuseConfig::default(),
        }
    }
}

impl EngineConfig {
    /// The cache this configuration calls for; `layers` are [`cachalot_model::Model::layer_geometry`].
    ///
    /// # Errors
    /// [`EngineError::Recipe`] where the recipe is impossible on this model, [`EngineError::Cache`] where the geometry is.
    pub fn cache(&self, layers: Vec<LayerGeometry>, team: Arc<Team>, isa: Isa) -> Result<KvCache, EngineError> {
        let plan = Arc::new(self.kv.plan(&layers, self.kv.profile_among(&self.kv_profiles).map(|profile| &**profile))?);
        let config = CacheConfig::with_plan(layers, self.kv_budget_bytes, plan);
        KvCache::new(config, team, isa).map_err(|error| EngineError::Cache(error.to_string()))
    }
}

/// Numbers of the moment, taken between two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct EngineStats {
    /// Sequences waiting: not yet begun, or set aside for want of memory.
    pub queued: usize,
    /// Sequences in the batch.
    pub running: usize,
    /// Answers being compared with the exact cache, or waiting for it.
    pub replays: usize,
    /// Bytes of key-value cache in use.
    pub kv_bytes: u64,
    /// Bytes of key-value cache there are.
    pub kv_budget_bytes: u64,
    /// Prompt tokens computed since the start, each prompt once.
    pub prompt_tokens: u64,
    /// Tokens generated since the start.
    pub generated_tokens: u64,
    /// How often a sequence was set aside for want of memory.
    pub preemptions: u64,
    /// Blocks of tokens that are there for prompts that begin with them.
    pub shared_blocks: usize,
    /// Bytes of their pages, those that sequences use at the moment included.
    pub shared_bytes: u64,
    /// Bytes of blocks that pinned prompts hold.
    pub pinned_bytes: u64,
    /// Prompt tokens that were not computed because their cache was there, since the start.
    pub reused_tokens: u64,
    /// Shared blocks let go for want of memory, since the start.
    pub evicted_blocks: u64,
}
