//! What the tests of the cache share.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cachalot_kernels::{Isa, Team};
use cachalot_kv::{CacheConfig, KvCache, LayerGeometry, Rope, Segment, SequenceKv};
use std::num::NonZeroUsize;
use std::sync::Arc;

pub const BUDGET: u64 = 64 << 20;

pub fn rope(dim: usize) -> Arc<Rope> {
    Arc::new(Rope::new(frequencies(dim), 1.0))
}

fn frequencies(dim: usize) -> Vec<f32> {
    (0..dim / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / dim as f32)).collect()
}

pub fn plain(heads: usize, kv_heads: usize, head_dim: usize) -> LayerGeometry {
    let scale = (head_dim as f32).powf(-0.5);
    LayerGeometry {
        heads,
        kv_heads,
        head_dim,
        scale,
        softcap: None,
        window: None,
        rope: Some(rope(head_dim)),
        output: None,
    }
}

pub fn cache(layers: &[LayerGeometry], format: &str, threads: usize, isa: Isa) -> KvCache {
    let config = CacheConfig::new(layers.to_vec(), BUDGET, format.parse().unwrap());
    KvCache::new(config, Arc::new(Team::new(NonZeroUsize::new(threads).unwrap())), isa).unwrap()
}

/// Queries, keys and values of one sequence, one layer.
pub struct Rows {
    pub tokens: usize,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

impl Rows {
    pub fn random(g: &LayerGeometry, tokens: usize, seed: u64) -> Rows {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |n: usize| -> Vec<f32> {
            (0..n)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 2.0
                })
                .collect()
        };
        let (wide, narrow) = (tokens * g.heads * g.head_dim, tokens * g.kv_heads * g.head_dim);
        Rows { tokens, q: next(wide), k: next(narrow), v: next(narrow) }
    }

    /// Those of some tokens.
    fn of(&self, g: &LayerGeometry, tokens: &[u32]) -> [Vec<f32>; 3] {
        let part = |x: &[f32], n: usize| tokens.iter().flat_map(|&t| x[t as usize * n..][..n].to_vec()).collect();
        let (wide, narrow) = (g.heads * g.head_dim, g.kv_heads * g.head_dim);
        [part(&self.q, wide), part(&self.k, narrow), part(&self.v, narrow)]
    }

    fn slice(&self, g: &LayerGeometry, from: usize, rows: usize) -> [&[f32]; 3] {
        let cut = |x: &'_ [f32], n: usize| -> std::ops::Range<usize> {
            assert_eq!(x.len(), self.tokens * n);
            from * n..(from + rows) * n
        };
        let (wide, narrow) = (g.heads * g.head_dim, g.kv_heads * g.head_dim);
        [&self.q[cut(&self.q, wide)], &self.k[cut(&self.k, narrow)], &self.v[cut(&self.v, narrow)]]
    }
}

/// Takes the next `n` tokens of `rows` into `seq`, or those that a pass over its context wants.
pub fn step(cache: &KvCache, seq: &mut SequenceKv, rows: &Rows, n: usize) -> Vec<f32> {
    step_with(cache, seq, rows, n, |_| {})
}

/// As [`step`]; `before` sees the sequence before it lets go of pages.
pub fn step_with(
    cache: &KvCache,
    seq: &mut SequenceKv,
    rows: &Rows,
    n: usize,
    before: impl FnOnce(&mut SequenceKv),
) -> Vec<f32> {
    let g = &cache.config().layers[0];
    let layers = seq.layers();
    // Tokens are their own positions.
    let all: Vec<u32> = (0..rows.tokens as u32).collect();
    let ids = if seq.pass_rows() > 0 { seq.pass_tokens(&all) } else { all[seq.len()..].to_vec() };
    cache.reserve(seq, n).unwrap();
    let [q, k, v] = rows.of(g, &ids[..n]);
    let mut out = vec![0.0; q.len()];
    // What comes out of a layer is as wide as the token.
    let through: Vec<f32> = ids[..n].iter().map(|&id| id as f32).collect();
    if layers.start > 0 {
        assert_eq!(seq.carried(n, 1), Some(&through[..]));
    }
    if layers.end < cache.config().layers.len() {
        seq.carry(&through);
    }
    let mut segments = [Segment { seq, rows: n }];
    for layer in layers {
        cache.attend(layer, &mut segments, &q, &k, &v, &mut out).unwrap();
    }
    cache.advance(&mut segments);
    before(seq);
    cache.settle(seq);
    out
}

/// Takes the next `n` tokens, in steps of at most `chunk`, and reduces where the recipe wants it. What comes out of passes over
/// a context comes out too.
pub fn walk(cache: &KvCache, seq: &mut SequenceKv, rows: &Rows, n: usize, chunk: usize) -> Vec<f32> {
    let end = seq.len() + n;
    let mut out = Vec::new();
    while seq.len() < end || seq.pass_rows() > 0 {
        let left = if seq.pass_rows() > 0 { seq.pass_rows() } else { end - seq.len() };
        let rows_now = chunk.min(left).min(seq.rows_to_reduction());
        out.extend(step(cache, seq, rows, rows_now));
        cache.reduce(seq).unwrap();
    }
    out
}

/// One sequence alone, in the given chunks.
pub fn run(cache: &KvCache, rows: &Rows, chunks: &[usize]) -> Vec<f32> {
    let mut seq = cache.create();
    let out = chunks.iter().filter(|&&n| n > 0).flat_map(|&n| step(cache, &mut seq, rows, n)).collect();
    cache.verify(&seq).unwrap();
    out
}

/// Two sequences side by side in one batch, the second token by token.
pub fn run_two(cache: &KvCache, a: &Rows, b: &Rows, chunk: usize) -> (Vec<f32>, Vec<f32>) {
    let g = &cache.config().layers[0];
    let (mut sa, mut sb) = (cache.create(), cache.create());
    let (mut oa, mut ob) = (Vec::new(), Vec::new());
    while sa.len() < a.tokens || sb.len() < b.tokens {
        let na = chunk.min(a.tokens - sa.len());
        let nb = (1 + chunk / 5).min(b.tokens - sb.len());
        cache.reserve(&mut sa, na).unwrap();
        cache.reserve(&mut sb, nb).unwrap();
        let (ra, rb) = (a.slice(g, sa.len(), na), b.slice(g, sb.len(), nb));
        let [q, k, v] = [0, 1, 2].map(|i| [rb[i], ra[i]].concat());
        let mut out = vec![0.0; q.len()];
        let mut segments = [Segment { seq: &mut sb, rows: nb }, Segment { seq: &mut sa, rows: na }];
        cache.attend(0, &mut segments, &q, &k, &v, &mut out).unwrap();
        cache.advance(&mut segments);
        cache.settle(&mut sa);
        cache.settle(&mut sb);
        let (first, second) = out.split_at(rb[0].len());
        ob.extend_from_slice(first);
        oa.extend_from_slice(second);
    }
    (oa, ob)
}

/// Plain attention in f64 over the whole sequence.
pub fn reference(g: &LayerGeometry, rows: &Rows) -> Vec<f64> {
    let (d, group) = (g.head_dim, g.heads / g.kv_heads);
    let rotate = |x: &[f32], position: usize| -> Vec<f64> {
        let mut y: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        if g.rope.is_some() {
            for (i, f) in frequencies(d).into_iter().enumerate() {
                let (sin, cos) = f64::from(position as f32 * f).sin_cos();
                let (a, b) = (f64::from(x[i]), f64::from(x[i + d / 2]));
                (y[i], y[i + d / 2]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
        y
    };
    let keys: Vec<Vec<f64>> =
        (0..rows.tokens * g.kv_heads).map(|i| rotate(&rows.k[i * d..][..d], i / g.kv_heads)).collect();
    let mut out = Vec::new();
    for t in 0..rows.tokens {
        for h in 0..g.heads {
            let q = rotate(&rows.q[(t * g.heads + h) * d..][..d], t);
            let from = g.window.map_or(0, |w| (t + 1).saturating_sub(w));
            let scores: Vec<f64> = (from..=t)
                .map(|s| {
                    let k = &keys[s * g.kv_heads + h / group];
                    let x = q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() * f64::from(g.scale);
                    g.softcap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh())
                })
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            for c in 0..d {
                let v = |s: usize| f64::from(rows.v[(s * g.kv_heads + h / group) * d + c]);
                out.push(scores.iter().enumerate().map(|(i, s)| (s - max).exp() / total * v(from + i)).sum());
            }
        }
    }
    out
}
