//! Every method of choosing what to keep, from one list: alone, with formats, while the sequence grows, beside neighbours, and
//! in branches; and what papers say must be exact.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use cachalot_kernels::{Isa, Team};
use cachalot_kv::recipe::calibrate::synthetic;
use cachalot_kv::recipe::{Needs, Recipe, expression::Files};
use cachalot_kv::reduce::merge::registry::MERGES;
use cachalot_kv::score::Place;
use cachalot_kv::score::registry::METHODS;
use cachalot_kv::{CacheConfig, KvCache, LayerGeometry, SequenceKv};
use common::{BUDGET, Rows, plain};
use std::num::NonZeroUsize;
use std::sync::Arc;

fn cache_with(layers: &[LayerGeometry], recipe: &str, threads: usize) -> KvCache {
    let recipe = Recipe::parse(recipe, Files::Refused).unwrap_or_else(|e| panic!("{e}"));
    let plan = match recipe.needs {
        Needs::Profile => synthetic(&recipe, layers),
        Needs::Nothing => recipe.plan(layers, None),
    };
    let config = CacheConfig::with_plan(layers.to_vec(), BUDGET, Arc::new(plan.unwrap_or_else(|e| panic!("{e}"))));
    KvCache::new(config, Arc::new(Team::new(NonZeroUsize::new(threads).unwrap())), Isa::detect()).unwrap()
}

/// As [`common::walk`], as bits.
fn walk(cache: &KvCache, seq: &mut SequenceKv, rows: &Rows, n: usize, chunk: usize) -> Vec<u32> {
    common::walk(cache, seq, rows, n, chunk).into_iter().map(f32::to_bits).collect()
}

fn begin(cache: &KvCache, context: usize) -> SequenceKv {
    let mut seq = cache.create();
    cache.expect(&mut seq, context).unwrap();
    seq
}

/// All methods, and all ways of merging over one of them.
fn everything() -> Vec<String> {
    let methods = METHODS.iter().map(|entry| entry.name.to_owned());
    let merges = MERGES.iter().map(|entry| format!("h2o(merge={})", entry.name));
    let over = ["h2o", "tova", "keydiff", "expectedattention", "rkv", "mpcache"].map(|of| format!("adakv({of})"));
    let probes = ["observedattention(probes=0.1)".to_owned()];
    methods.chain(merges).chain(over).chain(probes).collect()
}

/// `method(args)` with more arguments.
fn with(method: &str, more: &str) -> String {
    match method.strip_suffix(')') {
        Some(open) => format!("{open}, {more})"),
        None => format!("{method}({more})"),
    }
}

const CONTEXT: usize = 210;
const AFTER: usize = 130;

/// Neither cuts into steps, nor threads, nor a neighbour, nor a branch taken half-way changes a bit or a kept token.
#[test]
fn nothing_beside_a_sequence_changes_it() {
    let g = plain(4, 2, 32);
    let layers = [g.clone(), LayerGeometry { window: Some(100), ..g.clone() }, g.clone()];
    let rows = Rows::random(&g, CONTEXT + AFTER, 11);
    let other = Rows::random(&g, CONTEXT + AFTER, 12);
    let formats = ["", " + int8", " + k=[before-rope, uniform(bits=4)],v=q4_0"];
    for (i, method) in everything().iter().enumerate() {
        for (mode, when) in ["prompt", "both", "decode"].into_iter().enumerate() {
            // Every method meets every format in one of its modes.
            let recipe = with(method, &format!("budget=0.5, when={when}, every=32")) + formats[(i + mode) % 3];
            let plain = cache_with(&layers, &recipe, 2);
            let mut seq = begin(&plain, CONTEXT);
            let mut out = walk(&plain, &mut seq, &rows, CONTEXT, CONTEXT);
            out.extend(walk(&plain, &mut seq, &rows, AFTER, AFTER));
            plain.verify(&seq).unwrap();

            let cut = cache_with(&layers, &recipe, 1);
            let (mut neighbour, mut branch) = (begin(&cut, CONTEXT), begin(&cut, CONTEXT));
            let mut again = walk(&cut, &mut branch, &rows, 90, 37);
            let mut seq2 = cut.fork(&branch).unwrap();
            walk(&cut, &mut branch, &other, 50, 50);
            drop(branch);
            while seq2.len() < CONTEXT + AFTER {
                let next = 25.min(CONTEXT + AFTER - seq2.len());
                again.extend(walk(&cut, &mut seq2, &rows, next, 7));
                let more = 30.min(CONTEXT + AFTER - neighbour.len());
                walk(&cut, &mut neighbour, &other, more, 30);
            }
            assert!(out == again, "{recipe}: other bits");
            for (layer, head) in [(0, 0), (0, 1), (1, 0), (2, 1)] {
                assert_eq!(seq.positions(layer, head), seq2.positions(layer, head), "{recipe}, {layer}, {head}");
            }
            drop((seq, neighbour, seq2));
            assert_eq!((plain.ledger().used(), cut.ledger().used()), (0, 0), "{recipe}");
        }
    }
}

/// No lane holds more than the recipe says, at any time, and the pages are what the plan predicts.
#[test]
fn lanes_hold_what_the_budget_says() {
    let g = plain(4, 2, 32);
    let layers = vec![g.clone(); 3];
    let rows = Rows::random(&g, 900, 5);
    for method in everything() {
        for (budget, tokens) in [("0.25", 600), ("96", 600), ("0.25", 900)] {
            let recipe = with(&method, &format!("budget={budget}, every=48"));
            let cache = cache_with(&layers, &recipe, 2);
            let keep = cache.config().plan.keep.clone().unwrap();
            let mut seq = begin(&cache, 600);
            walk(&cache, &mut seq, &rows, tokens, 600);
            let held: Vec<usize> =
                (0..3).flat_map(|l| (0..2).map(move |h| (l, h))).map(|(l, h)| seq.positions(l, h).len()).collect();
            let place = |i: usize| Place { layer: i / 2, layers: 3, head: i % 2 };
            let most: usize = (0..6).map(|i| keep.held(600, tokens, place(i))).sum();
            // Chunks and windows of tokens do not divide every budget.
            assert!(held.iter().sum::<usize>() <= most + 6 * 20, "{recipe} {tokens}: {held:?} of {most}");
            let weights: f32 = seq.weights(0, 0).iter().sum();
            assert!(weights <= tokens as f32 * 1.001, "{recipe}: {weights}");
        }
    }
}

/// A model of one head whose attention is what a table says: keys are unit vectors, queries logarithms.
fn table(rows: &[Vec<f32>]) -> (LayerGeometry, Rows) {
    let (tokens, dim) = (rows.len(), 16);
    let g = LayerGeometry {
        heads: 1,
        kv_heads: 1,
        head_dim: dim,
        scale: 1.0,
        softcap: None,
        window: None,
        rope: None,
        output: None,
    };
    let mut all = Rows { tokens, q: vec![0.0; tokens * dim], k: vec![0.0; tokens * dim], v: vec![1.0; tokens * dim] };
    for (i, row) in rows.iter().enumerate() {
        all.k[i * dim + i] = 1.0;
        row.iter().enumerate().for_each(|(j, a)| all.q[i * dim + j] = a.ln());
    }
    (g, all)
}

fn kept(recipe: &str, rows: &[Vec<f32>]) -> Vec<usize> {
    let (g, rows) = table(rows);
    let cache = cache_with(&[g], &format!("{recipe} + f32"), 1);
    let mut seq = begin(&cache, rows.tokens);
    walk(&cache, &mut seq, &rows, rows.tokens, 2);
    seq.positions(0, 0)
}

#[test]
fn the_fixtures_of_the_dossier() {
    // T2.
    let rows: Vec<Vec<f32>> = vec![
        vec![1.0],
        vec![0.6, 0.4],
        vec![0.5, 0.1, 0.4],
        vec![0.3, 0.05, 0.45, 0.2],
        vec![0.2, 0.05, 0.4, 0.25, 0.1],
    ];
    assert_eq!(kept("h2o(budget=3, recent=0.34)", &rows), [0, 2, 4]);
    assert_eq!(kept("observedattention(budget=3)", &rows), [0, 2, 3]);
    // The last row alone: what it gave.
    assert_eq!(kept("observedattention(budget=2, probes=0.01)", &rows), [2, 3]);
    assert_eq!(kept("observedattention(budget=2)", &rows), [0, 2]);
    assert_eq!(kept("scissorhands(budget=4, recent=0)", &rows), [0, 2, 3, 4]);
    assert_eq!(kept("tova(budget=3)", &rows), [2, 3, 4]);
    // With nothing but recent tokens, heavy hitters are a stream without sinks.
    assert_eq!(kept("h2o(budget=3, recent=1)", &rows), kept("streamingllm(budget=3, sinks=0)", &rows));
    // With one budget for all, layers alike get it.
    assert_eq!(kept("prefixkv(budget=3)", &rows), [0, 2, 4]);
    assert_eq!(kept("kvcrush(of=knorm, budget=3, share=0)", &rows), kept("knorm(budget=3)", &rows));
    assert_eq!(kept("snapkv(window=1, kernel=1, budget=3)", &rows), [2, 3, 4]);
}

/// Attention over what is left, of tokens that stand for others with their weight, is attention over all, where those that
/// became one were alike.
#[test]
fn merging_the_same_with_exact_weights_loses_nothing() {
    let mut g = plain(4, 2, 32);
    g.rope = None;
    let mut rows = Rows::random(&g, 400, 8);
    // Pairs of neighbours are the same, and the middle is one token over and over.
    let wide = 2 * 32;
    for token in 0..300 {
        let from = if (100..200).contains(&token) { 100 } else { token / 2 * 2 };
        rows.k.copy_within(from * wide..(from + 1) * wide, token * wide);
        rows.v.copy_within(from * wide..(from + 1) * wide, token * wide);
    }
    let after = |recipe: &str| -> Vec<f32> {
        let cache = cache_with(std::slice::from_ref(&g), recipe, 2);
        let mut seq = begin(&cache, 300);
        walk(&cache, &mut seq, &rows, 300, 128);
        if recipe.contains('(') {
            assert!(seq.positions(0, 0).len() < 300, "{recipe}");
            let weights: f32 = seq.weights(0, 0).iter().sum();
            let whole = (weights - 300.0).abs() < 0.1;
            assert!(whole || recipe.contains("paper"), "{recipe}: {weights}");
        }
        walk(&cache, &mut seq, &rows, 100, 100).into_iter().map(f32::from_bits).collect()
    };
    let all = after("f32");
    let check = |recipe: &str| {
        let worst = after(recipe).iter().zip(&all).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-5, "{recipe}: {worst}");
    };
    // Of each pair one, of the middle ten.
    check("chelsea(budget=150, merge=chelsea(sinks=0, window=0)) + f32");
    check("streamingllm(budget=202, sinks=100, when=prompt, merge=compensation) + f32");
    // What is dropped weighs on others where nothing makes up for it.
    let lost = after("streamingllm(budget=202, sinks=100, when=prompt, merge=compensation(weight=paper)) + f32");
    assert!(lost.iter().zip(&all).any(|(a, b)| (a - b).abs() > 1e-3));
}

#[test]
fn budgets_in_bytes_and_of_what_is_free() {
    let g = plain(4, 2, 64);
    let layers = vec![g.clone(); 3];
    let rows = Rows::random(&g, 2048, 2);
    for (recipe, bytes) in [
        ("snapkv(budget=512KiB, when=prompt)", 512 << 10),
        ("snapkv(budget=512KiB) + int4", 512 << 10),
        ("streamingllm(budget=free/128, when=prompt)", BUDGET / 128),
    ] {
        let cache = cache_with(&layers, recipe, 2);
        let mut seq = begin(&cache, 2048);
        walk(&cache, &mut seq, &rows, 2048, 512);
        let used = cache.ledger().used();
        assert!(used <= bytes && used * 100 > bytes * 80, "{recipe}: {used} of {bytes}");
    }
    let error =
        Recipe::parse("snapkv(budget=4KiB)", Files::Refused).unwrap().plan(&layers, None).unwrap_err().to_string();
    assert!(error.contains("at least 64"), "{error}");
}

/// A pool that holds six whole sequences holds four times as many of a quarter beside the one that is being read, which
/// takes all of its own until its end.
#[test]
fn what_is_dropped_makes_room_for_others() {
    let g = plain(4, 2, 64);
    let layers = vec![g.clone(); 3];
    let rows = Rows::random(&g, 2048, 2);
    let fits = |recipe: &str| {
        let recipe = Recipe::parse(recipe, Files::Refused).unwrap();
        let budget = 6 * KvCache::new(
            CacheConfig::new(layers.clone(), BUDGET, "f16".parse().unwrap()),
            Arc::new(Team::new(NonZeroUsize::MIN)),
            Isa::detect(),
        )
        .unwrap()
        .bytes_for_tokens(2048);
        let config = CacheConfig::with_plan(layers.clone(), budget, Arc::new(recipe.plan(&layers, None).unwrap()));
        let cache = KvCache::new(config, Arc::new(Team::new(NonZeroUsize::new(2).unwrap())), Isa::detect()).unwrap();
        let mut held = Vec::new();
        loop {
            let mut seq = begin(&cache, 2048);
            if cache.reserve(&mut seq, 2048).is_err() {
                return held.len();
            }
            walk(&cache, &mut seq, &rows, 2048, 2048);
            held.push(seq);
        }
    };
    assert_eq!(fits("f16"), 6);
    // Positions of what stayed take their part.
    assert!((19..=21).contains(&fits("snapkv(budget=0.25)")));
}

/// Tokens that matter are written in more bits: what attention says reaches the encoder.
#[test]
fn tokens_that_got_attention_keep_their_bits() {
    let mut g = plain(1, 1, 16);
    g.rope = None;
    g.scale = 4.0;
    let mut rows = Rows::random(&g, 192, 3);
    // Every query looks at the tokens whose number ends in zero.
    let pointer: Vec<f32> = (0..16).map(|c| if c == 0 { 2.0 } else { 0.0 }).collect();
    for token in 0..192 {
        rows.q[token * 16..][..16].copy_from_slice(&pointer);
        rows.k[token * 16] = if token % 10 == 0 { 2.0 } else { -2.0 };
    }
    let error = |recipe: &str| {
        let cache = cache_with(std::slice::from_ref(&g), recipe, 1);
        let mut seq = begin(&cache, 128);
        walk(&cache, &mut seq, &rows, 128, 128);
        // Later queries look there as well; what they read is the values of these tokens.
        let out: Vec<f32> = walk(&cache, &mut seq, &rows, 64, 64).into_iter().map(f32::from_bits).collect();
        let cache = cache_with(std::slice::from_ref(&g), "f32", 1);
        let mut seq = begin(&cache, 128);
        walk(&cache, &mut seq, &rows, 128, 128);
        let exact: Vec<f32> = walk(&cache, &mut seq, &rows, 64, 64).into_iter().map(f32::from_bits).collect();
        out.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
    };
    let classes = "classes(important=16, high=8, low=1, axis=token)";
    let (told, by_norm) =
        (error(&format!("h2o(budget=1.0, when=prompt) + k=f16,v=[{classes}]")), error(&format!("k=f16,v=[{classes}]")));
    assert!(told * 4.0 < by_norm, "{told} {by_norm}");
}
