//! Warm equals cold, bit for bit: a sequence that begins with blocks of others, for every recipe and every method.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use cachalot_kernels::{Isa, Team};
use cachalot_kv::recipe::calibrate::synthetic;
use cachalot_kv::recipe::{Needs, Recipe, expression::Files};
use cachalot_kv::score::registry::METHODS;
use cachalot_kv::{CacheConfig, KvCache, KvError, LayerGeometry, Registry, SequenceKv, SharedBlock};
use common::{BUDGET, Rows, plain, step_with, walk};
use std::num::NonZeroUsize;
use std::sync::Arc;

fn layers() -> Vec<LayerGeometry> {
    let g = plain(4, 2, 64);
    vec![g.clone(), LayerGeometry { window: Some(100), ..g.clone() }, g]
}

fn cache_of(recipe: &Recipe, threads: usize) -> KvCache {
    let layers = layers();
    let plan = match recipe.needs {
        Needs::Profile => synthetic(recipe, &layers),
        Needs::Nothing => recipe.plan(&layers, None),
    };
    let plan = Arc::new(plan.unwrap_or_else(|e| panic!("{}: {e}", recipe.name)));
    let config = CacheConfig::with_plan(layers, BUDGET, plan);
    KvCache::new(config, Arc::new(Team::new(NonZeroUsize::new(threads).unwrap())), Isa::detect()).unwrap()
}

fn cache(recipe: &str, threads: usize) -> KvCache {
    cache_of(&Recipe::parse(recipe, Files::Refused).unwrap_or_else(|e| panic!("{e}")), threads)
}

fn bits(x: Vec<f32>) -> Vec<u32> {
    x.into_iter().map(f32::to_bits).collect()
}

fn begin(cache: &KvCache, context: usize) -> SequenceKv {
    let mut seq = cache.create();
    cache.expect(&mut seq, context).unwrap();
    seq
}

/// Takes `tokens` in steps of `chunk` and gathers blocks as it goes; a continuation is provided for at `at`, and at the end.
fn donor(cache: &KvCache, rows: &Rows, tokens: usize, context: usize, chunk: usize, at: usize) -> Vec<SharedBlock> {
    let mut seq = begin(cache, context);
    let mut blocks: Vec<SharedBlock> = Vec::new();
    while seq.len() < tokens {
        let cut = if seq.len() < at { at } else { tokens };
        let n = chunk.min(cut - seq.len()).min(seq.rows_to_reduction());
        let shareable = seq.is_shareable();
        let absorb = |blocks: &mut Vec<SharedBlock>, new: Vec<SharedBlock>| {
            blocks.resize_with(blocks.len().max(new.len()), SharedBlock::default);
            blocks.iter_mut().zip(new).for_each(|(old, new)| old.absorb(new));
        };
        step_with(cache, &mut seq, rows, n, |seq| {
            if shareable {
                let here = (seq.len() == at).then_some(at);
                let new = cache.share(seq, 0..seq.len() / 64, here);
                absorb(&mut blocks, new);
            }
        });
        if cache.reduce(&mut seq).unwrap().is_some() || seq.pass_rows() > 0 {
            return blocks;
        }
        if seq.len() == tokens {
            absorb(&mut blocks, cache.retire(seq, 0));
            return blocks;
        }
    }
    blocks
}

/// The largest position at most `most` from which a sequence can go on.
fn largest(cache: &KvCache, seq: &SequenceKv, blocks: &[&SharedBlock], most: usize) -> usize {
    (1..=most).rev().find(|&at| cache.can_begin(seq, blocks, at)).unwrap_or(0)
}

#[test]
fn every_recipe_goes_on_from_blocks_of_others_with_the_same_bits() {
    const TOKENS: usize = 400;
    const AT: usize = 192;
    let rows = Rows::random(&layers()[0], TOKENS, 21);
    for recipe in Registry::all() {
        let (cold, warm) = (cache_of(recipe, 2), cache_of(recipe, 1));
        let whole = bits(walk(&cold, &mut begin(&cold, TOKENS), &rows, TOKENS, 200));
        let blocks = donor(&warm, &rows, 330, TOKENS, 150, AT);
        let blocks: Vec<&SharedBlock> = blocks.iter().collect();
        let wide = layers()[0].heads * layers()[0].head_dim;
        let mut reused = Vec::new();
        // The end of the donor, and positions at and before the one provided for.
        for most in [TOKENS - 1, 250, AT - 1] {
            let mut seq = begin(&warm, TOKENS);
            let at = largest(&warm, &seq, &blocks, most.min(seq.unobserved()));
            if at == 0 {
                continue;
            }
            reused.push(at);
            warm.begin(&mut seq, &blocks, at).unwrap_or_else(|e| panic!("{}: {e}", recipe.name));
            assert_eq!(seq.len(), at);
            let after = bits(walk(&warm, &mut seq, &rows, TOKENS - at, 90));
            let differs = after.iter().zip(&whole[at * wide..]).position(|(a, b)| a != b).map(|i| at + i / wide);
            assert_eq!((after.len(), differs), (whole.len() - at * wide, None), "{} behind {at}", recipe.name);
            warm.verify(&seq).unwrap();
        }
        let plain = warm.config().plan.keep.is_none();
        assert!(
            !plain || reused.contains(&330) && reused.iter().any(|at| (AT - 64..330).contains(at)),
            "{}: reused {reused:?}",
            recipe.name
        );
        assert_eq!(warm.ledger().used(), blocks.iter().map(|block| block.bytes()).sum::<u64>(), "{}", recipe.name);
    }
}

/// Methods that keep a part of a context: it is the same part, and what follows has the same bits.
#[test]
fn every_method_reduces_a_context_that_began_with_blocks_of_others() {
    const CONTEXT: usize = 420;
    const AFTER: usize = 70;
    let rows = Rows::random(&layers()[0], CONTEXT + AFTER, 22);
    let mut reusing = 0;
    for method in METHODS.iter().map(|entry| entry.name) {
        for (when, format) in [("prompt", " + int4"), ("both", ""), ("decode", " + int8")] {
            let recipe = format!("{method}(budget=0.5, when={when}, every=32){format}");
            let (cold, warm) = (cache(&recipe, 2), cache(&recipe, 2));
            let mut all = begin(&cold, CONTEXT);
            let mut whole = bits(walk(&cold, &mut all, &rows, CONTEXT, 130));
            whole.extend(bits(walk(&cold, &mut all, &rows, AFTER, 130)));
            // The donor's context is longer, and its own method has other plans with it.
            let blocks = donor(&warm, &rows, 440, 440, 100, 256);
            let blocks: Vec<&SharedBlock> = blocks.iter().collect();
            let mut seq = begin(&warm, CONTEXT);
            let at = largest(&warm, &seq, &blocks, (CONTEXT - 1).min(seq.unobserved()));
            if at == 0 {
                continue;
            }
            reusing += 1;
            warm.begin(&mut seq, &blocks, at).unwrap();
            let mut after = bits(walk(&warm, &mut seq, &rows, CONTEXT - at, 130));
            after.extend(bits(walk(&warm, &mut seq, &rows, AFTER, 130)));
            let wide = layers()[0].heads * layers()[0].head_dim;
            assert!(whole.ends_with(&after), "{recipe}: other bits behind {at}");
            assert!(after.len() >= (CONTEXT + AFTER - at) * wide, "{recipe}");
            for (layer, head) in [(0, 0), (0, 1), (1, 0), (2, 1)] {
                assert_eq!(seq.positions(layer, head), all.positions(layer, head), "{recipe}, {layer}, {head}");
            }
        }
    }
    assert!(reusing > 30, "{reusing} of {} methods in three modes", METHODS.len());
}

/// Whatever others keep of a context, they can begin with plain pages: and nobody with pages of another format.
#[test]
fn plans_that_write_other_bytes_are_told_apart() {
    let digest = |recipe: &str| cache(recipe, 1).config().plan.digest();
    let plain = digest("f16");
    for same in ["snapkv(budget=0.3)", "snapkv(budget=0.5) + int4", "kvzip(budget=0.5)"] {
        assert_eq!(digest(same), plain, "{same}");
    }
    // Encoded while the context is read, and reduced later.
    assert_eq!(digest("h2o(when=decode) + int4"), digest("int4"));
    let others = ["f32", "bf16", "int8", "int4", "int4(window=64)", "int4(sinks=128)", "kivi-4"];
    for (i, a) in others.iter().enumerate() {
        assert_ne!(digest(a), plain, "{a}");
        others[..i].iter().for_each(|b| assert_ne!(digest(a), digest(b), "{a}, {b}"));
    }
}

#[test]
fn a_page_of_another_format_or_place_is_refused() {
    let rows = Rows::random(&layers()[0], 200, 23);
    let (four, eight) = (cache("int4(window=0)", 1), cache("int8(window=0)", 1));
    let blocks = donor(&four, &rows, 200, 200, 64, 128);
    let blocks: Vec<&SharedBlock> = blocks.iter().collect();
    assert!(four.can_begin(&four.create(), &blocks, 128));
    assert!(!eight.can_begin(&eight.create(), &blocks, 128));
    let mut seq = eight.create();
    assert!(matches!(eight.begin(&mut seq, &blocks, 128), Err(KvError::Misuse(_))));
    assert!(seq.is_empty());
}

/// What is shared is written by nobody, and a shared page that was encoded is freed by the last who holds it.
#[test]
fn sharing_takes_no_bytes_and_changes_none() {
    let rows = Rows::random(&layers()[0], 700, 24);
    let other = Rows::random(&layers()[0], 700, 25);
    for recipe in ["f16", "int4", "kivi-2", "q8_0"] {
        let cache = cache(recipe, 2);
        let blocks = donor(&cache, &rows, 450, 450, 150, 256);
        let before = cache.ledger().used();
        let pages: Vec<Vec<u8>> =
            blocks.iter().flat_map(|b| b.pages().map(|p| p.page.bytes().to_vec()).collect::<Vec<_>>()).collect();
        let all: Vec<&SharedBlock> = blocks.iter().collect();
        let mut branches: Vec<SequenceKv> = (0..3).map(|_| cache.create()).collect();
        for seq in &mut branches {
            cache.begin(seq, &all, 256).unwrap();
        }
        assert_eq!(cache.ledger().used(), before, "{recipe}: whole blocks take nothing");
        for (i, seq) in branches.iter_mut().enumerate() {
            walk(&cache, seq, if i == 1 { &other } else { &rows }, 300, 110);
        }
        let after: Vec<Vec<u8>> =
            blocks.iter().flat_map(|b| b.pages().map(|p| p.page.bytes().to_vec()).collect::<Vec<_>>()).collect();
        assert!(pages == after, "{recipe}: a shared page changed");
        blocks.iter().for_each(|block| block.verify().unwrap());
        drop(branches);
        assert_eq!(cache.ledger().used(), before);
        let reclaimable: u64 = blocks.iter().map(SharedBlock::reclaimable).sum();
        assert_eq!(reclaimable, before, "{recipe}");
        drop(blocks);
        assert_eq!(cache.ledger().used(), 0, "{recipe}");
    }
}
