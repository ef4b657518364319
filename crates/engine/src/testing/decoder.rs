//! A model of hashes: two layers of real attention over a real cache, with weights that are hashes of their indices.
//!
//! Its logits depend on every token before them, through the cache alone: a lost, doubled or foreign token changes them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use cachalot_kernels::{Isa, Team};
use cachalot_kv::{CacheConfig, KvCache, KvFormat, LayerGeometry, Rope, Segment};
use cachalot_model::{Decoder, ModelError, ModelSpec};

pub(crate) const VOCAB: usize = 260;
const WIDTH: usize = 16;

type Before = Box<dyn Fn(&[u32]) -> Result<(), ModelError> + Send + Sync>;
type After = Box<dyn Fn(&mut [f32]) + Send + Sync>;

pub(crate) struct HashDecoder {
    spec: ModelSpec,
    /// Called before each step with its tokens; may fail or panic in its place.
    pub before: Before,
    /// Called with the logits of each step.
    pub after: After,
}

impl HashDecoder {
    pub fn new(context: usize) -> HashDecoder {
        HashDecoder { spec: spec(context), before: Box::new(|_| Ok(())), after: Box::new(|_| {}) }
    }
}

fn spec(context: usize) -> ModelSpec {
    ModelSpec {
        architecture: "hash".into(),
        vocab: VOCAB,
        hidden: WIDTH,
        intermediate: 0,
        heads: 2,
        kv_heads: 1,
        head_dim: WIDTH / 2,
        context,
        norm_eps: 0.0,
        norm_plus_one: false,
        tied_embeddings: false,
        embedding_scale: None,
        logit_softcap: None,
        ropes: Vec::new(),
        layers: Vec::new(),
    }
}

/// A cache for [`HashDecoder`] of so many pages (of 64 tokens, for each of its two layers, of which the second has a window).
pub(crate) fn cache(pages: u64) -> KvCache {
    cache_with(pages, Some(40))
}

/// The same with another window, or none.
pub(crate) fn cache_with(pages: u64, window: Option<usize>) -> KvCache {
    let rope = Arc::new(Rope::new(vec![1.0, 0.3, 0.1, 0.03], 1.0));
    let layer = |window| LayerGeometry {
        heads: 2,
        kv_heads: 1,
        head_dim: WIDTH / 2,
        scale: 0.6,
        softcap: None,
        window,
        rope: Some(rope.clone()),
        output: None,
    };
    let layers = vec![layer(None), layer(window)];
    let team = Arc::new(Team::new(NonZeroUsize::MIN));
    let make = |budget| {
        KvCache::new(CacheConfig::new(layers.clone(), budget, KvFormat::default()), team.clone(), Isa::detect())
    };
    let page = make(0).unwrap().bytes_for_tokens(1) / 2;
    make(page * pages).unwrap()
}

/// In `[-1, 1)`.
fn weight(a: usize, b: usize, salt: usize) -> f32 {
    let mut z = (a as u64) << 32 ^ (b as u64) << 8 ^ salt as u64;
    z = (z ^ z >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 32).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ z >> 31) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn project(x: &[f32], out: usize, salt: usize) -> Vec<f32> {
    x.chunks(WIDTH)
        .flat_map(|row| (0..out).map(move |o| row.iter().enumerate().map(|(i, x)| x * weight(o, i, salt)).sum()))
        .collect()
}

impl Decoder for HashDecoder {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn forward(
        &self,
        cache: &KvCache,
        segments: &mut [Segment<'_>],
        tokens: &[u32],
        logits_rows: &[usize],
    ) -> Result<Vec<f32>, ModelError> {
        (self.before)(tokens)?;
        let fail = |error: cachalot_kv::KvError| ModelError::Forward { reason: error.to_string() };
        let mut x: Vec<f32> = tokens.iter().flat_map(|&t| (0..WIDTH).map(move |i| weight(t as usize, i, 1))).collect();
        for layer in 0..2 {
            let salt = 10 * (layer + 1);
            let (q, k, v) = (project(&x, 16, salt), project(&x, 8, salt + 1), project(&x, 8, salt + 2));
            let mut out = vec![0.0; q.len()];
            cache.attend(layer, segments, &q, &k, &v, &mut out).map_err(fail)?;
            x.iter_mut().zip(&out).for_each(|(x, o)| *x = 0.5 * *x + o);
        }
        cache.advance(segments);
        let mut logits = Vec::with_capacity(logits_rows.len() * VOCAB);
        for &row in logits_rows {
            let mut of_row = project(&x[row * WIDTH..][..WIDTH], VOCAB, 99);
            // Letters mostly, so that stop texts occur.
            of_row[97..123].iter_mut().for_each(|logit| *logit += 4.0);
            of_row[super::ByteVocabulary::PANICS as usize] = -50.0;
            logits.extend(of_row);
        }
        (self.after)(&mut logits);
        Ok(logits)
    }
}
