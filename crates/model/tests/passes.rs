//! Contexts that are computed in stages or read again before they are reduced.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use cachalot_kv::recipe::{Recipe, expression::Files};
use cachalot_kv::reduce::Words;
use cachalot_kv::{Segment, SequenceKv};
use cachalot_model::Decoder;
use cachalot_model::passes::finish_context;
use common::{FOLDERS, Rig, assert_same_bits, largest_difference};
use std::sync::Arc;

fn create(rig: &Rig, recipe: &str) -> SequenceKv {
    let plan = Recipe::parse(recipe, Files::Refused).unwrap().plan(&rig.model.layer_geometry(), None).unwrap();
    rig.cache.create_with(&Arc::new(plan)).unwrap()
}

/// Reads a context in steps of `chunk`, reduced at its end; the logits after it.
fn read(rig: &Rig, seq: &mut SequenceKv, context: &[u32], chunk: usize) -> Vec<f32> {
    rig.cache.expect(seq, context.len()).unwrap();
    let mut logits = Vec::new();
    for (i, tokens) in context.chunks(chunk).enumerate() {
        rig.cache.reserve(seq, tokens.len()).unwrap();
        let last = i * chunk + tokens.len() == context.len() && seq.answers(tokens.len());
        let wanted: &[usize] = if last { &[tokens.len() - 1] } else { &[] };
        let segments = &mut [Segment { seq, rows: tokens.len() }];
        logits = rig.model.forward(&rig.cache, segments, tokens, wanted).unwrap();
        rig.cache.settle(seq);
        rig.cache.reduce(seq).unwrap();
    }
    let further = finish_context(&*rig.model, &rig.cache, seq, context, chunk).unwrap();
    assert_eq!(seq.len(), context.len());
    further.unwrap_or(logits)
}

fn fixture(name: &str) -> ([Vec<u32>; 2], Vec<f32>) {
    let bytes = std::fs::read(common::fixtures().join("../stages/stages.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let words = |part: &str| file.tensor(&format!("{name}.{part}")).unwrap().data().as_chunks::<4>().0.to_vec();
    let ids = |part| words(part).into_iter().map(u32::from_le_bytes).collect();
    ([ids("tokens"), ids("rows")], words("logits").into_iter().map(f32::from_le_bytes).collect())
}

/// The second layer reads the rows that the first puts first, and nothing else, as computed with transformers' layers.
#[test]
fn upper_layers_read_the_chosen_rows() {
    for name in ["llama", "qwen3"] {
        let rig = Rig::load(name);
        let ([tokens, rows], logits) = fixture(name);
        // What stays has no part in it.
        for budget in ["1.0", "0.2"] {
            let recipe = format!("fastkv(layer=0, rows=0.5, budget={budget}) + f32");
            let mut seq = create(&rig, &recipe);
            let found = read(&rig, &mut seq, &tokens, 64);
            assert!(largest_difference(&found, &logits) < 1e-4, "{name} {budget}: {found:?} {logits:?}");
            let held: Vec<u32> = seq.positions(1, 0).into_iter().map(|position| position as u32).collect();
            match budget {
                "1.0" => assert_eq!(held, rows, "{name}"),
                _ => {
                    assert!(held.len() == 36 && held.iter().all(|position| rows.contains(position)), "{name}: {held:?}")
                }
            }
            let mut again = create(&rig, &recipe);
            assert_same_bits(&read(&rig, &mut again, &tokens, 23), &found, name);
            let more = |seq: &mut SequenceKv| rig.step(&mut [(seq, &tokens[..9])]);
            assert_same_bits(&more(&mut seq), &more(&mut again), name);
        }
    }
}

/// However a context is cut, on every family; sliding windows see all rows.
#[test]
fn every_family_reads_in_stages() {
    for name in FOLDERS {
        let rig = Rig::load(name);
        let tokens: Vec<u32> = common::reference(name).tokens.iter().copied().cycle().take(150).collect();
        let run = |chunk: usize| {
            let mut seq = create(&rig, "fastkv(rows=0.4, budget=0.3)");
            let logits = read(&rig, &mut seq, &tokens, chunk);
            [logits, rig.step(&mut [(&mut seq, &tokens[..9])])].concat()
        };
        let whole = run(150);
        assert!(whole.iter().all(|x| x.is_finite()), "{name}");
        assert_same_bits(&run(31), &whole, name);
    }
}

/// Where all rows go on, nothing is left of it but its scores.
#[test]
fn all_rows_are_no_stage() {
    let rig = Rig::load("llama");
    let ([tokens, _], _) = fixture("llama");
    let after = |recipe: &str| {
        let mut seq = create(&rig, recipe);
        let logits = read(&rig, &mut seq, &tokens, 50);
        [logits, rig.step(&mut [(&mut seq, &tokens[..9])])].concat()
    };
    let snapkv = after("snapkv(window=8, kernel=7, pool=largest, budget=0.3) + f32");
    assert_same_bits(&after("fastkv(layer=0, rows=1.0, budget=0.3) + f32"), &snapkv, "all rows");
}

/// Reading a context again leaves no trace but in what stays, and shares of no row change for how its pass is cut.
#[test]
fn a_context_read_again_is_as_it_was() {
    for name in ["llama", "gemma3"] {
        let rig = Rig::load(name);
        let tokens: Vec<u32> = common::reference(name).tokens.iter().copied().cycle().take(150).collect();
        let words = Words { first: vec![3, 4], further: vec![5, 6, 7], suffix: vec![8] };
        let rig = Rig { cache: rig.cache.with_words(words), ..rig };
        let after = |recipe: &str, chunk: usize| {
            let mut seq = create(&rig, recipe);
            let logits = read(&rig, &mut seq, &tokens, chunk);
            let layers = rig.model.layer_geometry().len();
            let kept: Vec<Vec<usize>> = (0..layers).map(|layer| seq.positions(layer, 0)).collect();
            (logits, rig.step(&mut [(&mut seq, &tokens[..9])]), kept)
        };
        let all = after("kvzip(chunk=64, budget=1.0) + f32", 150);
        let plain = after("f32", 150);
        assert_same_bits(&all.0, &plain.0, name);
        assert_same_bits(&all.1, &plain.1, name);
        let half = after("kvzip(chunk=64, budget=0.5) + f32", 150);
        assert_same_bits(&half.0, &plain.0, name);
        assert!(half.2 != plain.2);
        for chunk in [1, 37] {
            let other = after("kvzip(chunk=64, budget=0.5) + f32", chunk);
            assert_eq!(other.2, half.2, "{name} {chunk}");
            assert_same_bits(&other.1, &half.1, name);
        }
    }
}

/// Hidden states of a marked stretch count, the same however the context is cut.
#[test]
fn hidden_states_of_a_span_count() {
    let rig = Rig::load("llama");
    let ([tokens, _], _) = fixture("llama");
    let kept = |recipe: &str, spans: &[std::ops::Range<usize>], chunk: usize| {
        let mut seq = create(&rig, recipe).with_spans(spans);
        read(&rig, &mut seq, &tokens, chunk);
        (0..2).map(|layer| seq.positions(layer, 0)).collect::<Vec<_>>()
    };
    let span = 40..100;
    let salient = kept("guikv(budget=0.3) + f32", std::slice::from_ref(&span), 180);
    assert_eq!(kept("guikv(budget=0.3) + f32", std::slice::from_ref(&span), 41), salient);
    let inside = |kept: &[Vec<usize>]| kept[0].iter().filter(|position| span.contains(position)).count();
    let plain = kept("guikv(budget=0.3, alpha=0) + f32", std::slice::from_ref(&span), 180);
    assert!(inside(&salient) > inside(&plain), "{salient:?} {plain:?}");
    // Without spans there is nothing to add to.
    let none = kept("guikv(budget=0.3) + f32", &[], 180);
    assert_eq!(none, kept("snapkv(window=8, kernel=5, budget=0.3) + f32", &[], 180));
}
