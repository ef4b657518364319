//! What a recipe keeps of a context: the tokens that kvpress keeps, attention over exactly those, and their memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use cachalot_kernels::{Isa, Team};
use cachalot_kv::recipe::{Recipe, expression::Files};
use cachalot_kv::reduce::Words;
use cachalot_kv::{CacheConfig, KvCache, KvError, LayerGeometry, Segment, SequenceKv};
use common::{BUDGET, Rows, cache, plain, step, walk};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

fn cache_of(layers: &[LayerGeometry], recipe: &str) -> KvCache {
    let plan = Recipe::parse(recipe, Files::Refused).unwrap().plan(layers, None).unwrap();
    let config = CacheConfig::with_plan(layers.to_vec(), BUDGET, Arc::new(plan));
    KvCache::new(config, Arc::new(Team::new(NonZeroUsize::new(2).unwrap())), Isa::detect()).unwrap()
}

/// The first `context` tokens in chunks, reduced.
fn context(cache: &KvCache, rows: &Rows, context: usize, chunk: usize) -> SequenceKv {
    let mut seq = cache.create();
    cache.expect(&mut seq, context).unwrap();
    walk(cache, &mut seq, rows, context, chunk);
    seq
}

fn floats(view: &safetensors::tensor::TensorView<'_>) -> Vec<f32> {
    view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Kept sets are those of kvpress 0.5.5 on a tiny random model, for every method it has in common with us.
#[test]
fn the_same_tokens_stay_as_in_kvpress() {
    let bytes = std::fs::read("../../fixtures/kvpress/inputs.safetensors").unwrap();
    let inputs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let [q, k, v] = ["q", "k", "v"].map(|name| floats(&inputs.tensor(name).unwrap()));
    let shape = inputs.tensor("k").unwrap().shape().to_vec();
    let (layers, tokens, wide) = (shape[0], shape[1], inputs.tensor("q").unwrap().shape()[2]);
    let geometry = vec![plain(4, 2, 8); layers];
    let kept = std::fs::read("../../fixtures/kvpress/kept.json").unwrap();
    let kept: BTreeMap<String, Vec<Vec<Vec<usize>>>> = serde_json::from_slice(&kept).unwrap();
    assert_eq!(kept.len(), 30);
    for (name, expected) in kept {
        let (method, ratio) = name.split_once(' ').unwrap();
        let call = match method.strip_suffix(')') {
            Some(open) => format!("{open}, ratio={ratio})"),
            None => format!("{method}(ratio={ratio})"),
        };
        let cache = cache_of(&geometry, &format!("{call} + f32"));
        let mut seq = cache.create();
        cache.expect(&mut seq, tokens).unwrap();
        cache.reserve(&mut seq, tokens).unwrap();
        let mut segments = [Segment { seq: &mut seq, rows: tokens }];
        for layer in 0..layers {
            // Only the last queries are in the fixture; nobody asks for the others.
            let last = &q[layer * q.len() / layers..(layer + 1) * q.len() / layers];
            let mut queries = vec![0.0; tokens * wide];
            queries[tokens * wide - last.len()..].copy_from_slice(last);
            let part = |x: &[f32]| x[layer * x.len() / layers..(layer + 1) * x.len() / layers].to_vec();
            let mut out = vec![0.0; tokens * wide];
            cache.attend(layer, &mut segments, &queries, &part(&k), &part(&v), &mut out).unwrap();
        }
        cache.advance(&mut segments);
        cache.settle(&mut seq);
        cache.reduce(&mut seq).unwrap();
        for (layer, heads) in expected.iter().enumerate() {
            for (head, expected) in heads.iter().enumerate() {
                assert_eq!(&seq.positions(layer, head), expected, "{name}, layer {layer}, head {head}");
            }
        }
    }
}

#[test]
fn streaming_keeps_the_first_and_the_last() {
    // The dossier's: of ten tokens half, four of them sinks.
    let g = plain(2, 1, 16);
    let cache = cache_of(std::slice::from_ref(&g), "streamingllm(budget=0.5)");
    let seq = context(&cache, &Rows::random(&g, 10, 1), 10, 10);
    assert_eq!(seq.positions(0, 0), [0, 1, 2, 3, 9]);
}

/// Attention of the tokens after the context over what is left of it, in f64.
fn expected(g: &LayerGeometry, rows: &Rows, seq: &SequenceKv, from: usize) -> Vec<f64> {
    let (d, group) = (g.head_dim, g.heads / g.kv_heads);
    let rotated = |x: &[f32], position: usize| {
        let mut x = x.to_vec();
        g.rope.as_ref().unwrap().turn(position, &mut x);
        x
    };
    let mut out = Vec::new();
    for t in from..rows.tokens {
        for h in 0..g.heads {
            let q = rotated(&rows.q[(t * g.heads + h) * d..][..d], t);
            let seen: Vec<usize> = seq.positions(0, h / group).into_iter().filter(|&p| p <= t).collect();
            let row = |x: &[f32], p: usize| x[(p * g.kv_heads + h / group) * d..][..d].to_vec();
            let score = |p: usize| {
                let k = rotated(&row(&rows.k, p), p);
                q.iter().zip(k).map(|(a, b)| f64::from(a * b)).sum::<f64>() * f64::from(g.scale)
            };
            let scores: Vec<f64> = seen.iter().map(|&p| score(p)).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            for c in 0..d {
                let weighted = |(s, &p): (&f64, &usize)| (s - max).exp() / total * f64::from(row(&rows.v, p)[c]);
                out.push(scores.iter().zip(&seen).map(weighted).sum());
            }
        }
    }
    out
}

/// Later tokens see what stayed and nothing else, whatever the method, the budget, the shape and the cuts into steps.
fn check_attention(recipe: &str, g: &LayerGeometry, tokens: usize, chunk: usize, bound: f64) {
    let cache = cache_of(std::slice::from_ref(g), recipe);
    let rows = Rows::random(g, tokens + 150, 3);
    let mut seq = context(&cache, &rows, tokens, chunk);
    let out = walk(&cache, &mut seq, &rows, 150, chunk / 3 + 1);
    cache.verify(&seq).unwrap();
    let expected = expected(g, &rows, &seq, tokens);
    let worst = out.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(worst < bound, "{recipe} {g:?} {tokens}: {worst}");
}

#[test]
fn later_tokens_see_what_stayed() {
    for method in ["streamingllm", "knorm", "keydiff", "tova", "snapkv", "pyramidkv", "adakv", "chunkkv"] {
        for (budget, tokens, chunk) in [("0.5", 300, 300), ("0.25", 640, 97), ("100", 331, 64)] {
            check_attention(
                &format!("{method}(budget={budget}, when=prompt) + f32"),
                &plain(6, 2, 32),
                tokens,
                chunk,
                2e-5,
            );
        }
    }
    // Encoded, rotated on reading, and heads that are no multiple of a vector.
    check_attention("adakv(budget=0.5) + q8_0", &plain(6, 2, 32), 500, 128, 0.02);
    check_attention("snapkv(budget=0.5) + k=[before-rope, f16],v=f16", &plain(4, 2, 24), 500, 128, 2e-3);
    check_attention("knorm(budget=0.3) + int8", &plain(8, 1, 80), 400, 100, 0.03);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// How a context is cut into steps changes no bit of what follows, reduced and encoded as it is.
    #[test]
    fn cuts_change_nothing(tokens in 70usize..400, chunk in 1usize..200, share in 0.1f64..1.0, which in 0usize..4) {
        let recipe = ["adakv", "tova", "keydiff", "chunkkv"][which];
        let g = plain(4, 2, 32);
        let cache = cache_of(&[g.clone(), g.clone()], &format!("{recipe}(budget={share:.3}) + turboquant-4"));
        let rows = Rows::random(&g, tokens + 90, 9);
        let finish = |chunk: usize, later: usize| {
            let mut seq = context(&cache, &rows, tokens, chunk);
            let out = walk(&cache, &mut seq, &rows, 90, later);
            out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        prop_assert!(finish(tokens, 90) == finish(chunk, 1 + chunk / 4));
    }
}

/// A budget of everything is no method at all.
#[test]
fn everything_kept_is_bit_for_bit_no_method() {
    let g = plain(4, 2, 32);
    let rows = Rows::random(&g, 400, 5);
    let after = |cache: &KvCache| {
        let mut seq = context(cache, &rows, 300, 300);
        walk(cache, &mut seq, &rows, 100, 100).into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let all = after(&cache(std::slice::from_ref(&g), "f16", 2, Isa::detect()));
    for method in ["streamingllm", "snapkv", "adakv", "chunkkv", "keydiff"] {
        assert!(after(&cache_of(std::slice::from_ref(&g), &format!("{method}(budget=1.0)"))) == all, "{method}");
    }
}

/// Memory is given back: what is left is the pages of what stayed and their positions, and other sequences get the rest.
#[test]
fn a_quarter_of_the_tokens_takes_a_quarter_of_the_memory() {
    let g = plain(4, 2, 64);
    let layers = vec![g.clone(); 3];
    for recipe in ["snapkv(budget=0.25)", "adakv(budget=0.25)", "snapkv(budget=0.25) + int4"] {
        let cache = cache_of(&layers, recipe);
        let rows = Rows::random(&g, 4097, 2);
        let mut seq = context(&cache, &rows, 4096, 512);
        let peak = cache.ledger().peak();
        step(&cache, &mut seq, &rows, 1);
        let (used, predicted) = (cache.ledger().used(), cache.bytes_for_tokens(4096));
        assert!((used as f64 / predicted as f64 - 1.0).abs() < 0.1, "{recipe}: {used} of {predicted}");
        let full = cache_of(&layers, "f16").bytes_for_tokens(4096);
        assert!(used * 100 < full * 30, "{recipe}: {used} of {full}");
        // No second copy on the way: a page a thread and what was observed.
        assert!(peak < full + full / 20, "{recipe}: {peak} of {full}");
        drop(seq);
        assert_eq!(cache.ledger().used(), 0, "{recipe}");
    }
}

#[test]
fn branches_share_what_stayed_and_go_back_no_further() {
    let g = plain(4, 2, 32);
    let cache = cache_of(std::slice::from_ref(&g), "snapkv(budget=0.5)");
    let rows = Rows::random(&g, 400, 4);
    let mut seq = context(&cache, &rows, 300, 100);
    let mut branch = cache.fork(&seq).unwrap();
    let (a, b) = (step(&cache, &mut seq, &rows, 60), step(&cache, &mut branch, &rows, 60));
    assert_eq!(a, b);
    assert_eq!(seq.positions(0, 1), branch.positions(0, 1));
    cache.truncate(&mut seq, 310).unwrap();
    assert!(step(&cache, &mut seq, &rows, 50) == a[10 * a.len() / 60..]);
    assert_eq!(cache.truncate(&mut seq, 299), Err(KvError::Forgotten { tokens: 299, first: 300 }));
}

/// A branch taken before the end of the context is reduced there as the sequence itself is.
#[test]
fn branches_within_the_context_are_reduced_too() {
    let g = plain(4, 2, 32);
    let cache = cache_of(std::slice::from_ref(&g), "snapkv(budget=0.5) + q8_0");
    let rows = Rows::random(&g, 400, 4);
    for before in [0, 250] {
        let mut seq = cache.create();
        cache.expect(&mut seq, 300).unwrap();
        if before > 0 {
            step(&cache, &mut seq, &rows, before);
        }
        let mut branch = cache.fork(&seq).unwrap();
        let finish = |seq: &mut SequenceKv| {
            step(&cache, seq, &rows, 300 - before);
            cache.reduce(seq).unwrap();
            (step(&cache, seq, &rows, 60), seq.positions(0, 1))
        };
        let (a, b) = (finish(&mut seq), finish(&mut branch));
        assert_eq!(a, b);
        assert_eq!(a.1.len(), 150 + 60);
    }
}

#[test]
fn short_contexts_and_sliding_windows_keep_everything() {
    let g = plain(4, 2, 32);
    let rows = Rows::random(&g, 200, 4);
    let cache = cache_of(std::slice::from_ref(&g), "snapkv(budget=0.1)");
    assert_eq!(context(&cache, &rows, 64, 64).positions(0, 0).len(), 64);
    // A budget below the window is raised to it.
    assert_eq!(context(&cache, &rows, 200, 64).positions(0, 0), (136..200).collect::<Vec<_>>());
    let sliding = LayerGeometry { window: Some(500), ..g.clone() };
    let cache = cache_of(&[g, sliding], "snapkv(budget=0.5)");
    let seq = context(&cache, &rows, 200, 50);
    // Half of one layer and all of the other.
    let mut again = cache.create();
    cache.expect(&mut again, 200).unwrap();
    step(&cache, &mut again, &rows, 200);
    assert_eq!((cache.reduce(&mut again), cache.reduce(&mut again)), (Ok(Some(0.75)), Ok(None)));
    assert_eq!([0, 1].map(|layer| seq.positions(layer, 0).len()), [100, 200]);
}

#[test]
fn a_step_beyond_the_end_of_the_context_is_refused() {
    let g = plain(4, 2, 32);
    let cache = cache_of(std::slice::from_ref(&g), "knorm");
    let mut seq = cache.create();
    cache.expect(&mut seq, 100).unwrap();
    assert_eq!(seq.rows_to_reduction(), 100);
    cache.reserve(&mut seq, 101).unwrap();
    let wide = vec![0.0; 101 * 128];
    let narrow = vec![0.0; 101 * 64];
    let mut out = wide.clone();
    let refused = cache.attend(0, &mut [Segment { seq: &mut seq, rows: 101 }], &wide, &narrow, &narrow, &mut out);
    assert!(matches!(refused, Err(KvError::Misuse(what)) if what.contains("end of the context")));
}

#[test]
fn impossible_choices_say_what_and_how_to_mend_it() {
    for (text, mend) in [
        ("snapkv(budget=0)", "share above 0"),
        ("snapkv(budget=1.5)", "share above 0"),
        ("snapkv(ratio=1)", "below 1"),
        ("snapkv(windw=3)", "did you mean `window`"),
        ("snapkv(kernel=4)", "odd"),
        ("adakv(of=snapkw)", "did you mean `snapkv`"),
        ("snapkv + knorm", "choice of what stays"),
        ("snapkv(budget=0.3) + kivi-2 + q4_0", "format of the keys"),
        ("snapkw(budget=0.3)", "did you mean `snapkv`"),
    ] {
        let error = Recipe::parse(text, Files::Refused).unwrap_err().to_string();
        assert!(error.contains(mend), "{text}: {error}");
    }
}

/// As [`the_same_tokens_stay_as_in_kvpress`], for methods that look at all queries or at the output projection, and on a text.
#[test]
fn the_same_tokens_stay_where_all_queries_count() {
    let bytes = std::fs::read("../../fixtures/kvpress/more.safetensors").unwrap();
    let inputs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kept: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&std::fs::read("../../fixtures/kvpress/more.json").unwrap()).unwrap();
    let (layers, dim) = (2, 8);
    let output = floats(&inputs.tensor("o").unwrap());
    let geometry: Vec<LayerGeometry> = (0..layers)
        .map(|layer| {
            let matrix = output[layer * output.len() / layers..(layer + 1) * output.len() / layers].to_vec();
            let columns = move |head: usize| -> Vec<f32> {
                matrix.chunks_exact(4 * dim).flat_map(|row| row[head * dim..][..dim].to_vec()).collect()
            };
            LayerGeometry { output: Some(cachalot_kv::Output::new(columns)), ..plain(4, 2, dim) }
        })
        .collect();
    let duo = &kept["duoattention"];
    let scores: Vec<f32> = serde_json::from_value::<Vec<Vec<f32>>>(duo["scores"].clone()).unwrap().concat();
    let bytes = |text: &str| text.bytes().map(u32::from).collect();
    let words = Words {
        first: bytes("\n\nRepeat the previous context exactly."),
        further: bytes("\n\nRepeat the part of the previous context exactly, starting with"),
        suffix: bytes("\n"),
    };
    let (mut compared, mut merges) = (0, 0);
    for (name, expected) in kept.iter().filter(|(name, _)| name.contains(' ')) {
        let (prompt, rest) = name.split_once(' ').unwrap();
        let (method, ratio) = rest.rsplit_once(' ').unwrap();
        let expected: Vec<Vec<Vec<usize>>> = serde_json::from_value(expected.clone()).unwrap();
        let ratio_text = match method {
            "duoattention" => format!(
                "sinks={}, recent={}, heads={}",
                duo["sinks"],
                duo["recent"],
                1.0 - ratio.parse::<f64>().unwrap()
            ),
            "merging(of=snapkv)" => format!("merge=merging, ratio={ratio}"),
            _ => format!("ratio={ratio}"),
        };
        // `a(of=b, c=d)` has the argument of `b`.
        let base = match method.split_once(", ") {
            Some((of, rest)) if of.contains("of=") => format!("{of}({rest})"),
            _ => method.replace("merging(of=snapkv)", "snapkv"),
        };
        let call = match base.strip_suffix(')') {
            Some(open) => format!("{open}, {ratio_text}, when=prompt)"),
            None => format!("{base}({ratio_text}, when=prompt)"),
        };
        let recipe = Recipe::parse(&format!("{call} + f32"), Files::Refused).unwrap();
        let profile = (method == "duoattention").then(|| heads_profile(&recipe, &scores));
        let plan = recipe.plan(&geometry, profile.as_ref()).unwrap();
        let config = CacheConfig::with_plan(geometry.clone(), BUDGET, Arc::new(plan));
        let cache = KvCache::new(config, Arc::new(Team::new(NonZeroUsize::new(2).unwrap())), Isa::detect()).unwrap();
        let cache = cache.with_words(words.clone());
        let [q, k, v] = ["q", "k", "v"].map(|part| floats(&inputs.tensor(&format!("{prompt}.{part}")).unwrap()));
        let tokens = k.len() / layers / (2 * dim);
        let mut seq = cache.create();
        cache.expect(&mut seq, tokens).unwrap();
        // In two steps, to see that it makes no difference.
        for range in [0..170, 170..tokens] {
            take(&cache, &mut seq, [&q, &k, &v], range);
        }
        cache.reduce(&mut seq).unwrap();
        for pass in 0.. {
            if seq.pass_rows() == 0 {
                break;
            }
            let named = |part: &str| inputs.tensor(&format!("{prompt}.kvzip.{pass}.{part}")).unwrap();
            let ids: Vec<u32> =
                named("ids").data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
            let context: Vec<u32> = (0..2).flat_map(|pass| chunk_of(&inputs, pass)).collect();
            assert_eq!(seq.pass_tokens(&context), ids);
            let [q, k, v] = ["q", "k", "v"].map(|part| floats(&named(part)));
            for range in [0..70, 70..ids.len()] {
                take(&cache, &mut seq, [&q, &k, &v], range);
            }
            cache.reduce(&mut seq).unwrap();
        }
        for (layer, heads) in expected.iter().enumerate() {
            for (head, expected) in heads.iter().enumerate() {
                assert_eq!(&seq.positions(layer, head), expected, "{name}, layer {layer}, head {head}");
            }
        }
        if method == "merging(of=snapkv)" && ratio == "0.5" {
            // What the values have become, in the last layer.
            let merged = floats(&inputs.tensor(&format!("{prompt}.merging.v")).unwrap());
            let found: Vec<f32> = (0..2).flat_map(|head| seq.values(layers - 1, head)).collect();
            assert_eq!(found.len(), merged.len());
            let worst = found.iter().zip(&merged).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{name}: {worst}");
            merges += 1;
        }
        compared += 1;
    }
    assert!(compared > 60 && merges == 1, "{compared} {merges}");
}

/// The tokens that a pass of KVzip repeats: the last 150.
fn chunk_of(inputs: &safetensors::SafeTensors<'_>, pass: usize) -> Vec<u32> {
    let ids = inputs.tensor(&format!("text.kvzip.{pass}.ids")).unwrap();
    let ids: Vec<u32> = ids.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    ids[ids.len() - 150..].to_vec()
}

/// A step with these rows of projections, each `[layer][row][..]`, of a model with four heads of 8 and two KV heads.
fn take(cache: &KvCache, seq: &mut SequenceKv, qkv: [&[f32]; 3], rows: std::ops::Range<usize>) {
    let layers = cache.config().layers.len();
    let all = qkv[1].len() / layers / 16;
    cache.reserve(seq, rows.len()).unwrap();
    let mut segments = [Segment { seq, rows: rows.len() }];
    for layer in 0..layers {
        let [q, k, v] = qkv.map(|x| {
            let (own, each) = (&x[layer * x.len() / layers..(layer + 1) * x.len() / layers], x.len() / layers / all);
            own[rows.start * each..rows.end * each].to_vec()
        });
        let mut out = vec![0.0; q.len()];
        cache.attend(layer, &mut segments, &q, &k, &v, &mut out).unwrap();
    }
    cache.advance(&mut segments);
    cache.settle(segments[0].seq);
}

fn heads_profile(recipe: &Recipe, scores: &[f32]) -> cachalot_kv::Profile {
    use cachalot_kv::encode::codec::Side;
    let origin = cachalot_kv::profile::Origin {
        model: String::new(),
        model_name: String::new(),
        recipe: recipe.name.clone(),
        keys: recipe.encode.digest(Side::Keys),
        values: recipe.encode.digest(Side::Values),
        heads: Some("area".to_owned()),
        seed: 0,
        text: String::new(),
        tokens: 0,
    };
    let data = scores.to_vec();
    let tensor = cachalot_kv::encode::stage::NamedTensor { name: "heads".to_owned(), shape: vec![data.len()], data };
    cachalot_kv::Profile::new(origin, [tensor])
}
