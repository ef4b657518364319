//! Lanes with a body: the same bits however the tokens were cut into steps, memory as predicted, plain pages let go.

#![allow(clippy::unwrap_used)]

mod common;

use cachalot_kernels::{Isa, Team};
use cachalot_kv::encode::codec::{Hints, Item, Part, Shape, Side, Transform};
use cachalot_kv::encode::pipeline::Pipeline;
use cachalot_kv::{Body, CacheConfig, CachePlan, KvCache, KvError, LanePlan, LayerGeometry};
use common::*;
use proptest::prelude::*;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Rows as `f32`, rounded to multiples of `step` where it is not zero.
#[derive(Debug)]
struct Grid {
    shape: Shape,
    step: f32,
}

impl Part for Grid {
    fn shape(&self) -> Shape {
        self.shape
    }
    fn breakdown(&self) -> Vec<Item> {
        vec![Item::new("values", 4 * self.shape.elements())]
    }
    fn describe(&self) -> String {
        format!("multiples of {}", self.step)
    }
    fn encode(&self, x: &[f32], _: Hints<'_>, to: &mut [u8]) {
        for (x, to) in x.iter().zip(to.chunks_exact_mut(4)) {
            let x = if self.step > 0.0 { (x / self.step).round() * self.step } else { *x };
            to.copy_from_slice(&x.to_le_bytes());
        }
    }
    fn decode(&self, page: &[u8], x: &mut [f32]) {
        for (x, from) in x.iter_mut().zip(page.chunks_exact(4)) {
            *x += f32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        }
    }
}

/// Swaps neighbours: a transform whose inverse is exact.
#[derive(Debug)]
struct Swap(usize);

impl Transform for Swap {
    fn inputs(&self) -> usize {
        self.0
    }
    fn outputs(&self) -> usize {
        self.0
    }
    fn forward(&self, x: &[f32], y: &mut [f32]) {
        (0..self.0).for_each(|c| y[c] = x[c ^ 1]);
    }
    fn query(&self, q: &[f32], y: &mut [f32]) -> f32 {
        self.forward(q, y);
        0.0
    }
    fn inverse(&self, y: &[f32], x: &mut [f32]) {
        self.forward(y, x);
    }
    fn output(&self, y: &[f32], _: f32, x: &mut [f32]) {
        self.forward(y, x);
    }
    fn describe(&self) -> String {
        "swap".into()
    }
}

#[derive(Clone, Debug)]
struct Setting {
    sinks: usize,
    window: usize,
    step: f32,
    swap: bool,
    before_rope: bool,
}

fn plan(g: &LayerGeometry, layers: usize, s: &Setting) -> Arc<CachePlan> {
    let side = |side: Side| {
        let shape = Shape { side, tokens: 64, channels: g.head_dim };
        let swap = s.swap.then(|| Arc::new(Swap(g.head_dim)) as Arc<dyn Transform>);
        let part: Arc<dyn Part> = Arc::new(Grid { shape, step: s.step });
        Arc::new(Pipeline::new(shape, s.before_rope && side == Side::Keys, swap.into_iter().collect(), vec![part]))
    };
    let body = Body::new(side(Side::Keys), side(Side::Values));
    let exact = "f32".parse().unwrap();
    let lane = LanePlan { sinks: s.sinks, window: s.window, exact, body: Some(body), importance: false };
    Arc::new(CachePlan { name: "grid".into(), lanes: vec![vec![lane; g.kv_heads]; layers], keep: None, profile: None })
}

fn body_cache(g: &LayerGeometry, layers: usize, s: &Setting, threads: usize, isa: Isa) -> KvCache {
    let config = CacheConfig::with_plan(vec![g.clone(); layers], BUDGET, plan(g, layers, s));
    KvCache::new(config, Arc::new(Team::new(NonZeroUsize::new(threads).unwrap())), isa).unwrap()
}

fn setting() -> impl Strategy<Value = Setting> {
    let sizes = (prop_oneof![Just(0usize), Just(4), Just(65)], prop_oneof![Just(0usize), Just(1), Just(64), Just(100)]);
    (sizes, prop_oneof![Just(0.0f32), Just(0.25)], any::<bool>(), any::<bool>())
        .prop_map(|((sinks, window), step, swap, before_rope)| Setting { sinks, window, step, swap, before_rope })
}

fn geometry() -> impl Strategy<Value = LayerGeometry> {
    let heads = prop_oneof![Just((1, 1)), Just((3, 1)), Just((4, 2))];
    let window = prop_oneof![Just(None), Just(None), Just(Some(7)), Just(Some(100))];
    (heads, prop_oneof![Just(16usize), Just(20), Just(64)], window)
        .prop_map(|((heads, kv_heads), dim, window)| LayerGeometry { window, ..plain(heads, kv_heads, dim) })
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn rows_do_not_depend_on_chunks_threads_neighbours_or_isa(
        g in geometry(), s in setting(), tokens in 1usize..700, chunk in 1usize..200, seed in 0u64..1000,
    ) {
        let rows = Rows::random(&g, tokens, seed);
        let whole = bits(&run(&body_cache(&g, 1, &s, 1, Isa::Portable), &rows, &[tokens]));
        for (isa, threads) in Isa::available().into_iter().zip([2, 3, 1, 2]) {
            let cache = body_cache(&g, 1, &s, threads, isa);
            prop_assert_eq!(&bits(&run(&cache, &rows, &[tokens])), &whole, "{}", isa);
            let mut chunks = vec![tokens - tokens.min(80)];
            chunks.extend(vec![1; tokens.min(80)]);
            prop_assert_eq!(&bits(&run(&cache, &rows, &chunks)), &whole, "decode on {}", isa);
            let chunks: Vec<usize> = (0..tokens).step_by(chunk).map(|at| chunk.min(tokens - at)).collect();
            prop_assert_eq!(&bits(&run(&cache, &rows, &chunks)), &whole, "chunks of {} on {}", chunk, isa);
            let other = Rows::random(&g, 1 + tokens / 3, seed + 1);
            let (batched, neighbour) = run_two(&cache, &rows, &other, chunk);
            prop_assert_eq!(&bits(&batched), &whole, "batch on {}", isa);
            prop_assert_eq!(bits(&neighbour), bits(&run(&cache, &other, &[other.tokens])));
            prop_assert_eq!(cache.ledger().used(), 0);
        }
    }

    #[test]
    fn an_exact_body_changes_nothing_but_the_order_of_the_sinks(
        g in geometry(), s in setting(), tokens in 1usize..500, seed in 0u64..1000,
    ) {
        let rows = Rows::random(&g, tokens, seed);
        let exact = run(&cache(std::slice::from_ref(&g), "f32", 1, Isa::detect()), &rows, &[tokens]);
        let got = run(&body_cache(&g, 1, &Setting { step: 0.0, ..s.clone() }, 1, Isa::detect()), &rows, &[tokens]);
        for (got, want) in got.iter().zip(&exact) {
            prop_assert!((got - want).abs() < 2e-5, "{got} against {want}");
        }
        let in_order = Setting { step: 0.0, sinks: 0, swap: false, before_rope: false, window: s.window };
        let same = run(&body_cache(&g, 1, &in_order, 1, Isa::detect()), &rows, &[tokens]);
        prop_assert_eq!(bits(&same), bits(&exact));
    }
}

#[test]
fn memory_is_as_predicted_and_plain_pages_are_let_go() {
    let g = plain(4, 2, 64);
    let s = Setting { sinks: 4, window: 100, step: 0.5, swap: false, before_rope: false };
    let cache = body_cache(&g, 3, &s, 2, Isa::detect());
    let rows = Rows::random(&g, 1000, 1);
    let mut seq = cache.create();
    for tokens in [1, 62, 1, 1, 500, 1, 1, 70, 300] {
        let before = cache.ledger().used();
        let predicted = cache.bytes_to_extend(&seq, tokens);
        cache.reserve(&mut seq, tokens).unwrap();
        assert_eq!(cache.ledger().used() - before, predicted);
        step(&cache, &mut seq, &rows, tokens);
        assert_eq!(cache.ledger().used(), seq.bytes());
        assert_eq!(cache.ledger().used(), cache.bytes_for_tokens(seq.len()), "{}", seq.len());
    }
    assert_eq!(seq.len(), 937);
    // Page 0 has sinks; the query at 936 reads exactly what ends after 836, so pages 13 and 14 beside it.
    let page = 64 + 64 * 64 * 2 * 4;
    assert_eq!(seq.bytes(), 3 * 2 * 15 * page);
    cache.verify(&seq).unwrap();
}

#[test]
fn going_back_stops_where_the_past_was_encoded() {
    let g = plain(2, 1, 64);
    let s = Setting { sinks: 0, window: 64, step: 0.5, swap: false, before_rope: false };
    let cache = body_cache(&g, 1, &s, 1, Isa::detect());
    let rows = Rows::random(&g, 400, 1);
    let mut seq = cache.create();
    step(&cache, &mut seq, &rows, 300);
    // Position 299 reads pages 0 to 2 encoded; a token at 256 would too, one at 255 would not.
    assert_eq!(cache.truncate(&mut seq, 255), Err(KvError::Forgotten { tokens: 255, first: 192 }));
    cache.truncate(&mut seq, 256).unwrap();
    let again = step(&cache, &mut seq, &rows, 60);
    let mut fresh = cache.create();
    step(&cache, &mut fresh, &rows, 256);
    let forked = cache.fork(&fresh).unwrap();
    drop(fresh);
    let mut forked = forked;
    assert_eq!(bits(&step(&cache, &mut forked, &rows, 60)), bits(&again));
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    let g = plain(2, 1, 64);
    let s = Setting { sinks: 0, window: 0, step: 0.5, swap: false, before_rope: false };
    let cache = body_cache(&g, 1, &s, 1, Isa::detect());
    let rows = Rows::random(&g, 400, 1);
    let (mut seq, mut other) = (cache.create(), cache.create());
    step(&cache, &mut seq, &rows, 300);
    step(&cache, &mut other, &rows, 300);
    seq.sealed_page(2).unwrap().damage(1000);
    let found: Vec<_> = (0..4).map(|_| cache.scrub(&mut seq, 2)).collect();
    let corrupt = Err(KvError::Corrupt { layer: 0, head: 0, start: 128 });
    assert_eq!(found, [Ok(()), corrupt.clone(), corrupt.clone(), corrupt]);
    assert!((0..9).all(|_| cache.scrub(&mut other, 2).is_ok()));
}

#[test]
fn odd_numbers_are_counted_and_stay_with_their_sequence() {
    let g = plain(2, 1, 64);
    let s = Setting { sinks: 0, window: 0, step: 0.5, swap: false, before_rope: false };
    let cache = body_cache(&g, 1, &s, 1, Isa::detect());
    let mut rows = Rows::random(&g, 200, 1);
    rows.v[3] = f32::NAN;
    rows.v[64] = f32::INFINITY;
    let out = run(&cache, &rows, &[200]);
    assert_eq!(cache.odd_values(), 2);
    // Position 64 and on reads the page encoded, where NaN is zero.
    assert!(out[64 * 128..].iter().all(|x| x.is_finite()));
    assert!(out[..64 * 128].iter().any(|x| x.is_nan()));
}

#[test]
fn threads_hold_a_few_pages_however_long_the_context() {
    let g = plain(3, 1, 64);
    let plan = |recipe: &str| {
        let recipe = cachalot_kv::Recipe::parse(recipe, cachalot_kv::recipe::expression::Files::Refused).unwrap();
        Arc::new(recipe.plan(std::slice::from_ref(&g), None).unwrap())
    };
    // What a block of 192 query vectors needs, and one page of keys and of values as `f32`, a few times over.
    let block = 192 * (64 + 2 + 64) * 4;
    let page = 2 * 64 * 64 * 4;
    for recipe in ["f16", "int4", "saw-int4", "kivi-2", "turboquant-3", "fp8-e4m3", "mxfp8", "rotatekv-2", "q5_1"] {
        let mut held = Vec::new();
        for tokens in [1024, 6144] {
            let config = CacheConfig::with_plan(vec![g.clone()], BUDGET, plan(recipe));
            let cache =
                KvCache::new(config, Arc::new(Team::new(NonZeroUsize::new(1).unwrap())), Isa::detect()).unwrap();
            // A thread of its own, since buffers are the thread's.
            let rows = Rows::random(&g, tokens + 3, 3);
            std::thread::scope(|scope| {
                scope.spawn(|| run(&cache, &rows, &[tokens, 1, 1, 1]));
            });
            held.push(cache.thread_scratch());
        }
        assert!(held[0] > 0 && held[1] <= held[0], "{recipe}: {held:?}");
        assert!(held[1] <= 4 * block + 4 * page, "{recipe}: {} against blocks of {block} and pages of {page}", held[1]);
    }
}
