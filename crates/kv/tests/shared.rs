//! Pages that several sequences hold are read once for all of them: no bit changes, in no format, and what is spared is what
//! the tree of branches says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use cachalot_kernels::{Isa, Team};
use cachalot_kv::recipe::{Recipe, Registry, calibrate::synthetic, expression::Files};
use cachalot_kv::{CacheConfig, CachePlan, KvCache, LayerGeometry, Segment, SequenceKv};
use common::{BUDGET, Rows, plain, walk};
use std::num::NonZeroUsize;
use std::sync::Arc;

fn plan(layers: &[LayerGeometry], recipe: &str) -> Arc<CachePlan> {
    let recipe = Recipe::parse(recipe, Files::Refused).unwrap_or_else(|e| panic!("{e}"));
    Arc::new(synthetic(&recipe, layers).unwrap_or_else(|e| panic!("{e}")))
}

fn cache(layers: &[LayerGeometry], recipe: &str, threads: usize, sharing: bool) -> KvCache {
    let config = CacheConfig::with_plan(layers.to_vec(), BUDGET, plan(layers, recipe));
    let team = Arc::new(Team::new(NonZeroUsize::new(threads).unwrap()));
    KvCache::new(config, team, Isa::detect()).unwrap().with_sharing(sharing)
}

/// One step of several sequences, each with rows of its own; the results, as bits.
fn step(cache: &KvCache, seqs: &mut [SequenceKv], rows: &[usize], seed: u64) -> Vec<u32> {
    let g = &cache.config().layers[0];
    let mut inputs = [Vec::new(), Vec::new(), Vec::new()];
    for (i, (seq, &n)) in seqs.iter_mut().zip(rows).enumerate() {
        cache.reserve(seq, n).unwrap();
        let Rows { q, k, v, .. } = Rows::random(g, n, seed + 100 * i as u64);
        inputs.iter_mut().zip([q, k, v]).for_each(|(to, x)| to.extend(x));
    }
    let [q, k, v] = inputs;
    let mut bits = Vec::new();
    let mut segments: Vec<_> = seqs.iter_mut().zip(rows).map(|(seq, &rows)| Segment { seq, rows }).collect();
    for layer in 0..cache.config().layers.len() {
        let mut out = vec![0.0; q.len()];
        cache.attend(layer, &mut segments, &q, &k, &v, &mut out).unwrap();
        bits.extend(out.iter().map(|x| x.to_bits()));
    }
    cache.advance(&mut segments);
    seqs.iter_mut().for_each(|seq| cache.settle(seq));
    bits
}

/// A root of `context` tokens, three branches of different lengths, forks of these.
fn tree(cache: &KvCache, plan: &Arc<CachePlan>, context: usize, ends: [usize; 3], forks: usize) -> Vec<SequenceKv> {
    let g = &cache.config().layers[0];
    let mut root = cache.create_with(plan).unwrap();
    cache.expect(&mut root, context).unwrap();
    walk(cache, &mut root, &Rows::random(g, context + 50, 1), context, 300);
    let mut leaves = Vec::new();
    for (i, more) in ends.into_iter().enumerate() {
        let rows = Rows::random(g, context + 700, 2 + i as u64);
        let mut branch = cache.fork(&root).unwrap();
        walk(cache, &mut branch, &rows, more, 100);
        for fork in 0..forks {
            let mut leaf = cache.fork(&branch).unwrap();
            walk(cache, &mut leaf, &Rows::random(g, context + 1000, 7), 33 * fork, 50);
            leaves.push(leaf);
        }
        leaves.push(branch);
    }
    leaves
}

/// Steps of trees of two recipes and of a stranger, with single rows and with chunks of prompts; and pages spared.
fn batches(layers: &[LayerGeometry], recipe: &str, threads: usize, sharing: bool) -> (Vec<u32>, u64) {
    let cache = cache(layers, recipe, threads, sharing);
    let other = plan(layers, "int8");
    let mut seqs = tree(&cache, &cache.config().plan, 670, [10, 110, 290], 2);
    seqs.push(cache.create());
    seqs.extend(tree(&cache, &other, 600, [1, 30, 64], 1));
    let mut bits = Vec::new();
    let rows: [&[usize]; 4] = [
        &[1; 16],
        &[1, 1, 2, 1, 5, 1, 16, 1, 40, 7, 1, 3, 1, 1, 2, 1],
        &[1; 16],
        &[70, 1, 1, 3, 1, 64, 1, 1, 1, 9, 1, 1, 1, 1, 1, 1],
    ];
    for (i, rows) in rows.into_iter().enumerate() {
        bits.extend(step(&cache, &mut seqs, rows, 1000 * (i as u64 + 1)));
    }
    seqs.iter().for_each(|seq| cache.verify(seq).unwrap());
    (bits, cache.pages_spared())
}

fn layers() -> [LayerGeometry; 3] {
    let g = plain(6, 2, 64);
    [g.clone(), LayerGeometry { window: Some(330), ..g.clone() }, LayerGeometry { softcap: Some(20.0), ..g }]
}

fn nothing_changes(recipes: &[&str]) {
    for recipe in recipes {
        let (alone, none) = batches(&layers(), recipe, 1, false);
        let (together, spared) = batches(&layers(), recipe, 2, true);
        assert!(none == 0 && spared > 100, "{recipe}: {none} and {spared} pages spared");
        assert!(alone == together, "{recipe}");
    }
}

#[test]
fn no_bit_changes_in_exact_formats() {
    nothing_changes(&["f32", "f16", "bf16", "fp8-e4m3"]);
}

#[test]
fn no_bit_changes_in_encoded_formats() {
    nothing_changes(&["int4", "kivi-4", "turboquant-3", "cachalot-4", "saw-int4", "mxfp8", "gear-4"]);
    nothing_changes(&["k=[before-rope, uniform(bits=4)],v=q4_0", "int4(sinks=4, window=100)"]);
}

#[test]
fn no_bit_changes_where_lanes_were_reduced() {
    nothing_changes(&["snapkv(budget=0.6, when=prompt)", "h2o(budget=0.6, merge=d2o, when=prompt) + int4"]);
    nothing_changes(&["adakv(tova, budget=0.6, when=prompt) + int8"]);
}

/// Eight pages of a first split, and the body of the second, of every recipe there is.
#[test]
fn no_bit_changes_in_any_recipe() {
    let layers = [plain(4, 2, 64)];
    let run = |recipe: &Recipe, sharing: bool| {
        let plan = Arc::new(synthetic(recipe, &layers).unwrap());
        let config = CacheConfig::with_plan(layers.to_vec(), BUDGET, plan.clone());
        let team = Arc::new(Team::new(NonZeroUsize::MIN));
        let cache = KvCache::new(config, team, Isa::detect()).unwrap().with_sharing(sharing);
        let mut root = cache.create();
        walk(&cache, &mut root, &Rows::random(&layers[0], 900, 5), 900, 900);
        let mut seqs: Vec<_> = (0..5).map(|_| cache.fork(&root).unwrap()).collect();
        let bits = [1, 2].map(|i| step(&cache, &mut seqs, &[1, 1, 1, 3, 1], i));
        (bits, cache.pages_spared())
    };
    // What is kept of a context is another test's concern.
    for recipe in Registry::all().iter().filter(|recipe| synthetic(recipe, &layers).unwrap().keep.is_none()) {
        let ((alone, _), (together, spared)) = (run(recipe, false), run(recipe, true));
        assert!(alone == together && spared >= 2 * 2 * 4 * 8, "{}: {spared} pages spared", recipe.name);
    }
}

fn spared(layers: &[LayerGeometry], recipe: &str, seqs: impl Fn(&KvCache) -> Vec<SequenceKv>) -> u64 {
    let cache = cache(layers, recipe, 2, true);
    let mut seqs = seqs(&cache);
    let before = cache.pages_spared();
    let rows = vec![1; seqs.len()];
    step(&cache, &mut seqs, &rows, 9);
    cache.pages_spared() - before
}

#[test]
fn what_is_spared_is_what_the_tree_says() {
    let g = plain(9, 3, 64);
    let forks = |tokens: usize, n: usize| {
        let g = g.clone();
        move |cache: &KvCache| {
            let mut root = cache.create();
            walk(cache, &mut root, &Rows::random(&g, tokens, 1), tokens, 512);
            (0..n).map(|_| cache.fork(&root).unwrap()).collect::<Vec<_>>()
        }
    };
    let all = std::slice::from_ref(&g);
    // Ten full pages, of which every sequence but the first is spared the reading, in each of three heads.
    assert_eq!(spared(all, "f16", forks(640, 4)), 3 * 3 * 10);
    assert_eq!(spared(all, "f16", forks(660, 4)), 3 * 3 * 10);
    assert_eq!(spared(all, "f16", forks(660, 1)), 0);
    // Three pages of two sequences are not worth the company.
    assert_eq!(spared(all, "f16", forks(200, 2)), 0);
    assert_eq!(spared(all, "f16", forks(200, 3)), 3 * 2 * 3);
    // A row at 640 sees 513.. through a window of 128, half of page 8; with one more it sees 8 and 9 wholly.
    let window = |window| [LayerGeometry { window: Some(window), ..g.clone() }];
    assert_eq!(spared(&window(128), "f16", forks(640, 4)), 0);
    assert_eq!(spared(&window(129), "f16", forks(640, 4)), 3 * 3 * 2);
    // The last row before read eight pages encoded; the ninth is encoded by the step, each fork's own copy of it.
    assert_eq!(spared(all, "int4(sinks=0, window=64)", forks(640, 4)), 3 * 3 * 8);
    // Ten pages, two branches of two more, two leaves each: the first split is read once for four; in the second two pairs
    // are spared four pages each, more than the two pages that all have in common give.
    let pairs = |cache: &KvCache| {
        let root = forks(640, 1)(cache).remove(0);
        let mut leaves = Vec::new();
        for seed in 2..4 {
            let mut branch = cache.fork(&root).unwrap();
            walk(cache, &mut branch, &Rows::random(&g, 768, seed), 128, 64);
            leaves.extend([cache.fork(&branch).unwrap(), branch]);
        }
        leaves
    };
    assert_eq!(spared(all, "f16", pairs), 3 * (3 * 8 + 2 * 4));
    // Sequences of the same tokens that were not forked hold pages of their own.
    let strangers = |cache: &KvCache| (0..4).flat_map(|_| forks(640, 1)(cache)).collect::<Vec<_>>();
    assert_eq!(spared(all, "f16", strangers), 0);
}

/// More rows than one task takes: companies are divided, and the order of sequences does not matter.
#[test]
fn large_companies_and_any_order() {
    let layers = [plain(8, 2, 32)];
    let run = |sharing: bool, reversed: bool| {
        let cache = cache(&layers, "int4(sinks=4, window=64)", 2, sharing);
        let mut root = cache.create();
        walk(&cache, &mut root, &Rows::random(&layers[0], 1100, 5), 1100, 512);
        let mut seqs: Vec<_> = (0..70).map(|_| cache.fork(&root).unwrap()).collect();
        let mut bits = step(&cache, &mut seqs, &[1; 70], 3);
        if reversed {
            seqs.reverse();
        }
        bits.extend(step(&cache, &mut seqs, &[1; 70], 4));
        (bits, cache.pages_spared())
    };
    let (alone, together) = (run(false, false), run(true, false));
    assert!(alone.0 == together.0);
    assert!(run(false, true).0 == run(true, true).0);
    // 280 query vectors of a head are two companies at least: each spares what its members but one would have read, the page of
    // sinks and 15 encoded ones, in two heads and two steps. The second step's sixteenth page is each fork's own.
    let most = 2 * 2 * 16 * (70 - 2);
    assert!(together.1 <= most && together.1 > most / 2, "{} of {most}", together.1);
}
