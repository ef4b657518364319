//! What stretches of a context attend to, and moved rows that are computed again while an answer is generated.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use cachalot_kv::mend::{Deviation, Filter, Piece, Refresh, Select};
use cachalot_kv::observe::ChunkMass;
use cachalot_kv::recipe::{Recipe, expression::Files};
use cachalot_kv::{Segment, SequenceKv, SharedBlock};
use cachalot_model::Decoder;
use cachalot_model::passes::finish_context;
use common::{Rig, assert_same_bits, largest_difference};
use std::ops::Range;
use std::sync::Arc;

fn create(rig: &Rig, recipe: &str) -> SequenceKv {
    let plan = Recipe::parse(recipe, Files::Refused).unwrap().plan(&rig.model.layer_geometry(), None).unwrap();
    rig.cache.create_with(&Arc::new(plan)).unwrap()
}

fn tokens(name: &str, count: usize, seed: usize) -> Vec<u32> {
    let known = common::reference(name).tokens;
    (0..count).map(|i| known[(i * 7 + seed * 13 + i * i * seed) % known.len()]).collect()
}

/// What the stretches of a context attend to, computed in steps of so many rows.
fn masses(rig: &Rig, recipe: &str, context: &[u32], spans: &[Range<usize>], step: usize) -> Vec<ChunkMass> {
    let mut seq = create(rig, recipe);
    rig.cache.watch_chunks(&mut seq, spans, |_| true).unwrap();
    for part in context.chunks(step) {
        rig.step(&mut [(&mut seq, part)]);
    }
    seq.take_chunk_masses()
}

#[test]
fn attention_to_stretches_adds_up_and_does_not_depend_on_steps() {
    let rig = Rig::load("llama");
    let context = tokens("llama", 200, 1);
    for recipe in ["f32", "f16", "int8(window=32)"] {
        // All of the context is in some stretch, so all of the attention is.
        let spans = [0..30, 30..101, 101..128, 128..200];
        let whole = masses(&rig, recipe, &context, &spans, 1000);
        assert_eq!(whole.len(), 4);
        for (i, mass) in whole.iter().enumerate() {
            assert_eq!((mass.span.clone(), mass.inter.len()), (spans[i].clone(), i));
            let all = mass.inter.iter().sum::<f64>() + mass.intra;
            assert!((all - mass.span.len() as f64).abs() < 1e-3, "{recipe}: {all} of {:?}", mass.span);
            let outside: f64 = mass.outside.iter().sum();
            assert!((outside - mass.inter.iter().sum::<f64>()).abs() < 1e-9);
            assert!(mass.outside.iter().all(|&share| (0.0..1.0001).contains(&share)));
        }
        assert!(whole[0].outside.iter().all(|&share| share == 0.0));
        for step in [1, 37] {
            assert_eq!(masses(&rig, recipe, &context, &spans, step), whole, "{recipe}, {step}");
        }
        // Cut finer, the parts of a stretch give what it gives.
        let fine = masses(&rig, recipe, &context, &[0..10, 10..30, 128..150, 150..200], 64);
        let sum = |i: usize| fine[i].inter[0] + fine[i].inter[1];
        assert!((sum(2) + sum(3) - whole[3].inter[0]).abs() < 1e-9, "{recipe}");
        // The tokens of a stretch that is cut off in front look at as much before them.
        let first = &whole[3].outside[..22];
        let spread: f64 = first.iter().sum::<f64>() - fine[2].outside.iter().sum::<f64>();
        assert!(spread > 0.0, "what stands between is not counted any more");
    }
}

#[test]
fn looking_changes_no_bit_and_costs_no_byte_afterwards() {
    let rig = Rig::load("llama");
    let context = tokens("llama", 150, 1);
    let (mut plain, mut watched) = (create(&rig, "f16"), create(&rig, "f16"));
    let expected = rig.step(&mut [(&mut plain, &context)]);
    let scratch = || rig.cache.ledger().by_purpose()[1].1;
    let used = scratch();
    let spans = [3..70, 70..150];
    rig.cache.watch_chunks(&mut watched, &spans, |span| span.start == 70).unwrap();
    assert_eq!(scratch(), used + 8 * (80 + 1));
    assert_same_bits(&rig.step(&mut [(&mut watched, &context)]), &expected, "watched");
    let masses = watched.take_chunk_masses();
    let seen: Vec<&Range<usize>> = masses.iter().map(|mass| &mass.span).collect();
    assert_eq!(seen, [&(70..150)], "the one that was asked for");
    // One that is not seen from its first row on is not known.
    let mut late = create(&rig, "f16");
    rig.step(&mut [(&mut late, &context[..100])]);
    rig.cache.watch_chunks(&mut late, &spans, |_| true).unwrap();
    rig.step(&mut [(&mut late, &context[100..])]);
    assert_eq!(late.take_chunk_masses(), []);
    drop((plain, watched, late));
    let [(_, pages), _] = rig.cache.ledger().by_purpose();
    assert_eq!(pages, 0);
}

fn blocks(rig: &Rig, tokens: &[u32]) -> Vec<SharedBlock> {
    let mut seq = create(rig, "f32");
    rig.step(&mut [(&mut seq, tokens)]);
    rig.cache.retire(seq, 0)
}

/// Stretches put together, none computed again, with or without a refresh every few tokens; then an answer of given tokens. The
/// logits of each of its tokens, and the rows that were computed again before it.
fn answer(rig: &Rig, refresh: Option<Refresh>, least: f32, answer: &[u32]) -> (Vec<f32>, Vec<Vec<u32>>, SequenceKv) {
    let (a, b) = (tokens("llama", 90, 1), tokens("llama", 70, 2));
    let apart = [blocks(rig, &a), blocks(rig, &b)];
    let piece = |i: usize, span: Range<usize>| Piece::Kept { blocks: &apart[i], first: 0, span };
    let context = [&b[..], &a].concat();
    let mut seq = create(rig, "f32");
    let select = Select::Deviating { of: Deviation::Both, filters: vec![Filter { after: 0, share: 0.0 }], least };
    rig.cache.assemble(&mut seq, &[piece(1, 0..70), piece(0, 0..90)], &select).unwrap();
    if let Some(refresh) = refresh {
        rig.cache.watch_stale(&mut seq, refresh).unwrap();
    }
    finish_context(&*rig.model, &rig.cache, &mut seq, &context, 1000).unwrap();
    let (mut logits, mut again) = (Vec::new(), Vec::new());
    for &token in answer {
        let mut rows = Vec::new();
        if rig.cache.refresh(&mut seq) {
            let tokens = seq.pass_tokens(&context);
            rows.extend_from_slice(&tokens);
            for part in tokens.chunks(3) {
                rig.model.forward(&rig.cache, &mut [Segment { seq: &mut seq, rows: part.len() }], part, &[]).unwrap();
                rig.cache.settle(&mut seq);
            }
        }
        again.push(rows);
        logits.extend(rig.step(&mut [(&mut seq, &[token])]));
        rig.cache.settle(&mut seq);
    }
    (logits, again, seq)
}

#[test]
fn rows_that_receive_most_of_what_is_wrong_are_computed_again() {
    let rig = Rig::load("llama");
    let (a, b) = (tokens("llama", 90, 1), tokens("llama", 70, 2));
    let said = tokens("llama", 14, 3);
    let mut whole = create(&rig, "f32");
    rig.step(&mut [(&mut whole, &[&b[..], &a].concat())]);
    let exact: Vec<f32> = said.iter().flat_map(|&token| rig.step(&mut [(&mut whole, &[token])])).collect();
    let (without, none, seq) = answer(&rig, None, 0.0, &said);
    assert!(none.iter().all(Vec::is_empty) && seq.recomputed() == 0);
    drop(seq);
    let (with, again, seq) = answer(&rig, Some(Refresh { every: 4, rows: 10 }), 0.0, &said);
    let times: Vec<usize> = (0..again.len()).filter(|&i| !again[i].is_empty()).collect();
    assert_eq!(times, [4, 8, 12], "every four tokens of the answer");
    assert!(again.iter().all(|rows| rows.len() <= 10));
    assert_eq!(seq.recomputed(), again.iter().map(Vec::len).sum::<usize>());
    rig.cache.verify(&seq).unwrap();
    let vocab = rig.model.spec().vocab;
    assert_same_bits(&with[..4 * vocab], &without[..4 * vocab], "until then nothing is different");
    let end = 12 * vocab;
    let (before, after) =
        (largest_difference(&without[end..], &exact[end..]), largest_difference(&with[end..], &exact[end..]));
    assert!(after < before, "{after} {before}");
    drop(seq);
    // All rows at once, again and again: what is left is what rows before them said when they were computed.
    let (all, again, seq) = answer(&rig, Some(Refresh { every: 2, rows: 200 }), 0.0, &said);
    let rows = again.iter().map(Vec::len).max().unwrap();
    assert!(rows > 80 && seq.len() == 174, "{rows}");
    let end = 13 * vocab;
    let left = largest_difference(&all[end..], &exact[end..]);
    assert!(left < 1e-4, "{left}: all that stood elsewhere is what it would be here");
    drop(seq);
    // Rows that hardly deviate are never touched.
    let (quiet, again, _) = answer(&rig, Some(Refresh { every: 2, rows: 5 }), 1e9, &said);
    assert!(again.iter().all(Vec::is_empty));
    assert_same_bits(&quiet, &without, "nothing deviates that much");
}

#[test]
fn the_ledger_is_exact_and_pages_that_others_have_stay_theirs() {
    let rig = Rig::load("llama");
    let said = tokens("llama", 5, 3);
    let (_, _, seq) = answer(&rig, Some(Refresh { every: 100, rows: 10 }), 0.0, &said);
    let before = rig.cache.ledger().used();
    let mut seq = seq;
    // A branch has the same pages: they are not written while it is there.
    let branch = rig.cache.fork(&seq).unwrap();
    let keys = rig.cache.keys(&branch, 1, 0);
    for token in tokens("llama", 110, 4) {
        assert!(!rig.cache.refresh(&mut seq) || seq.pass_rows() > 0);
        if seq.pass_rows() > 0 {
            let context = [tokens("llama", 70, 2), tokens("llama", 90, 1)].concat();
            finish_context(&*rig.model, &rig.cache, &mut seq, &context, 100).unwrap();
        }
        rig.step(&mut [(&mut seq, &[token])]);
        rig.cache.settle(&mut seq);
    }
    let now = rig.cache.keys(&branch, 1, 0);
    assert_same_bits(&now[..128 * 16], &keys[..128 * 16], "the branch");
    rig.cache.verify(&branch).unwrap();
    assert!(rig.cache.ledger().used() > before);
    drop((seq, branch));
    let [(_, pages), _] = rig.cache.ledger().by_purpose();
    assert_eq!(pages, 0);
}
