//! What is experimented on: a model in memory and the machine that runs it.

use cachalot_kernels::{Isa, Team};
use cachalot_kv::LayerGeometry;
use cachalot_model::template::ChatTemplate;
use cachalot_model::tokenizer::Tokenizer;
use cachalot_model::{Decoder, Loaded};
use std::sync::Arc;

/// A model, as far as the laboratory needs it.
#[derive(Clone)]
pub struct Subject<'a> {
    /// Computes logits.
    pub decoder: &'a dyn Decoder,
    /// What caches for it need to know.
    pub layers: Vec<LayerGeometry>,
    /// What the model's numbers depend on; profiles belong to it.
    pub digest: [u8; 32],
    /// Text to ids and back.
    pub tokenizer: &'a Tokenizer,
    /// How questions become prompts, where the model has a template.
    pub template: Option<&'a ChatTemplate>,
    /// Threads of caches and measures.
    pub team: Arc<Team>,
    /// Instruction set of caches.
    pub isa: Isa,
}

impl<'a> Subject<'a> {
    /// A loaded model.
    pub fn new(loaded: &'a Loaded, team: Arc<Team>) -> Subject<'a> {
        Subject {
            decoder: &*loaded.model,
            layers: loaded.model.layer_geometry(),
            digest: loaded.digest,
            tokenizer: &loaded.tokenizer,
            template: loaded.template.as_ref(),
            team,
            isa: loaded.model.isa(),
        }
    }

    /// Most tokens of a sequence.
    pub fn context(&self) -> usize {
        self.decoder.spec().context
    }

    /// Keys and values, one number each, that a sequence of `tokens` holds. Layers with a sliding window let go of
    /// whole pages.
    pub fn elements(&self, tokens: usize) -> u64 {
        const PAGE: usize = cachalot_kernels::attention::PAGE_TOKENS;
        let of = |layer: &LayerGeometry| {
            let gone = layer.window.map_or(0, |window| (tokens + 1).saturating_sub(window) / PAGE * PAGE);
            (2 * layer.kv_heads * layer.head_dim * (tokens - gone)) as u64
        };
        self.layers.iter().map(of).sum()
    }
}
