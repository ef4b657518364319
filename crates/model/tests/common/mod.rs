//! What the tests of models share: the committed fixtures, and ways to run a model over a list of tokens.
#![allow(dead_code, clippy::unwrap_used)]

pub mod gguf_file;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use cachalot_kernels::{Isa, Team};
use cachalot_kv::{CacheConfig, KvCache, KvFormat, Segment, SequenceKv};
use cachalot_model::{Decoder, LoadOptions, Model, WeightMode, load_weights};

/// Every Hugging Face folder among the fixtures.
pub const FOLDERS: [&str; 16] = [
    "llama",
    "llama-linear",
    "llama-llama3",
    "llama-yarn",
    "llama-yarn-all",
    "llama-tied-mha",
    "llama-mqa-bias",
    "mistral",
    "qwen2",
    "qwen2-window",
    "qwen3",
    "phi3",
    "phi3-partial",
    "gemma3",
    "gemma3-softcap",
    "gemma3-nested",
];

/// Those that are also there as GGUF.
pub const GGUFS: [&str; 10] = [
    "llama",
    "llama-linear",
    "llama-llama3",
    "llama-yarn",
    "llama-mqa-bias",
    "qwen2",
    "qwen3",
    "phi3",
    "phi3-partial",
    "gemma3",
];

pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models")
}

pub fn team(threads: usize) -> Arc<Team> {
    Arc::new(Team::new(NonZeroUsize::new(threads).unwrap()))
}

pub fn options() -> LoadOptions {
    LoadOptions::new(team(2))
}

/// Token ids and the logits that transformers computed for every position, `[tokens][vocab]`.
pub struct Reference {
    pub tokens: Vec<u32>,
    pub logits: Vec<f32>,
}

pub fn reference(name: &str) -> Reference {
    let bytes = std::fs::read(fixtures().join(name).join("reference.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> { file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec() };
    Reference {
        tokens: words("input").into_iter().map(u32::from_le_bytes).collect(),
        logits: words("logits").into_iter().map(f32::from_le_bytes).collect(),
    }
}

/// A model with a cache of its own, of pages as wide as asked.
pub struct Rig {
    pub model: Arc<Model>,
    pub cache: KvCache,
}

impl Rig {
    pub fn new(model: impl Into<Arc<Model>>, threads: usize, isa: Isa) -> Rig {
        let model = model.into();
        let config = CacheConfig::new(model.layer_geometry(), 64 << 20, "f32".parse::<KvFormat>().unwrap());
        Rig { cache: KvCache::new(config, team(threads), isa).unwrap(), model }
    }

    pub fn load(path: &str) -> Rig {
        let (model, _) = load_weights(&fixtures().join(path), &options()).unwrap();
        Rig::new(model, 2, Isa::detect())
    }

    /// Logits of every token, fed in chunks of `chunk`.
    pub fn chunked(&self, tokens: &[u32], chunk: usize) -> Vec<f32> {
        self.continued(self.cache.create(), tokens, chunk)
    }

    /// As [`Rig::chunked`], of a sequence of its own plan.
    pub fn continued(&self, mut seq: SequenceKv, tokens: &[u32], chunk: usize) -> Vec<f32> {
        tokens.chunks(chunk).flat_map(|part| self.step(&mut [(&mut seq, part)])).collect()
    }

    /// One step over several sequences: logits of all rows.
    pub fn step(&self, parts: &mut [(&mut SequenceKv, &[u32])]) -> Vec<f32> {
        let tokens: Vec<u32> = parts.iter().flat_map(|(_, t)| t.iter().copied()).collect();
        for (seq, tokens) in parts.iter_mut() {
            self.cache.reserve(seq, tokens.len()).unwrap();
        }
        let mut segments: Vec<Segment<'_>> =
            parts.iter_mut().map(|(seq, tokens)| Segment { seq, rows: tokens.len() }).collect();
        let rows: Vec<usize> = (0..tokens.len()).collect();
        let logits = self.model.forward(&self.cache, &mut segments, &tokens, &rows).unwrap();
        drop(segments);
        for (seq, _) in parts.iter_mut() {
            self.cache.settle(seq);
        }
        logits
    }
}

pub fn load_with(path: &str, threads: usize, isa: Isa, weights: WeightMode) -> Rig {
    let options = LoadOptions { isa, team: team(threads), progress: None, weights };
    let (model, _) = load_weights(&fixtures().join(path), &options).unwrap();
    Rig::new(model, threads, isa)
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

/// Bit for bit, not merely equal: zeros of different sign differ.
pub fn assert_same_bits(a: &[f32], b: &[f32], what: &str) {
    let differ = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert!(a.len() == b.len() && differ == 0, "{what}: {differ} of {} numbers differ", a.len());
}
