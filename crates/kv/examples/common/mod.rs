//! The cache of a SmolLM2-shaped model (30 layers, 9 query and 3 KV heads of 64), and a step of attention over it.

#![allow(dead_code)]

use cachalot_kernels::{Isa, Team};
use cachalot_kv::profile::Profile;
use cachalot_kv::recipe::{Recipe, expression::Files};
use cachalot_kv::{CacheConfig, KvCache, LayerGeometry, Rope, Segment, SequenceKv};
use std::sync::Arc;
use std::time::Instant;

const LAYERS: usize = 30;

/// Tokens of a step that reads a prompt.
pub const CHUNK: usize = 512;

pub type Failure = Box<dyn std::error::Error>;

pub fn cache(recipe: &str, budget: u64, isa: Isa) -> Result<KvCache, Failure> {
    let rope = Arc::new(Rope::new((0..32).map(|i| 1e5f32.powf(-i as f32 / 32.0)).collect(), 1.0));
    let layer = LayerGeometry {
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        scale: 0.125,
        softcap: None,
        window: None,
        rope: Some(rope),
        output: None,
    };
    let layers = vec![layer; LAYERS];
    // What calibration learned, for recipes that need it: the file that the environment names.
    let profile = std::env::var_os("PROFILE").map(|path| Profile::read(path.as_ref())).transpose()?;
    let plan = Arc::new(Recipe::parse(recipe, Files::Allowed)?.plan(&layers, profile.as_ref())?);
    let config = CacheConfig::with_plan(layers, budget, plan);
    Ok(KvCache::new(config, Arc::new(Team::of_all_cores()), isa)?)
}

/// Seconds of a step.
pub struct Took {
    pub attention: f64,
    /// With what comes behind it: pages are sealed, and encoded.
    pub whole: f64,
}

/// A step of `rows` tokens of each sequence.
pub fn step(cache: &KvCache, seqs: &mut [SequenceKv], rows: usize) -> Result<Took, Failure> {
    let all = seqs.len() * rows;
    seqs.iter_mut().try_for_each(|seq| cache.reserve(seq, rows))?;
    let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect() };
    let (q, k, v) = (numbers(all * 576), numbers(all * 192), numbers(all * 192));
    let mut out = vec![0.0; all * 576];
    let mut segments: Vec<Segment<'_>> = seqs.iter_mut().map(|seq| Segment { seq, rows }).collect();
    let start = Instant::now();
    for layer in 0..LAYERS {
        cache.attend(layer, &mut segments, &q, &k, &v, &mut out)?;
    }
    let attention = start.elapsed().as_secs_f64();
    cache.advance(&mut segments);
    seqs.iter_mut().for_each(|seq| cache.settle(seq));
    Ok(Took { attention, whole: start.elapsed().as_secs_f64() })
}
