//! Contexts put together from stretches that were computed elsewhere, and mended.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use cachalot_kv::mend::{Deviation, Filter, Piece, Select};
use cachalot_kv::recipe::{Recipe, expression::Files};
use cachalot_kv::{KvError, Segment, SequenceKv, SharedBlock};
use cachalot_model::Decoder;
use cachalot_model::passes::finish_context;
use common::{FOLDERS, Rig, assert_same_bits, largest_difference};
use std::ops::Range;
use std::sync::Arc;

fn create(rig: &Rig, recipe: &str) -> SequenceKv {
    let plan = Recipe::parse(recipe, Files::Refused).unwrap().plan(&rig.model.layer_geometry(), None).unwrap();
    rig.cache.create_with(&Arc::new(plan)).unwrap()
}

/// Blocks of a context of its own.
fn blocks(rig: &Rig, recipe: &str, tokens: &[u32]) -> Vec<SharedBlock> {
    let mut seq = create(rig, recipe);
    rig.step(&mut [(&mut seq, tokens)]);
    rig.cache.retire(seq, 0)
}

fn kept(blocks: &[SharedBlock], span: Range<usize>) -> Piece<'_> {
    Piece::Kept { blocks, first: 0, span }
}

fn tokens(name: &str, count: usize, seed: usize) -> Vec<u32> {
    let known = common::reference(name).tokens;
    (0..count).map(|i| known[(i * 7 + seed * 13 + i * i * seed) % known.len()]).collect()
}

fn deviating(after: usize, share: f64) -> Select {
    Select::Deviating { of: Deviation::Values, filters: vec![Filter { after, share }], least: 0.0 }
}

/// Mends, in steps of at most `step` rows.
fn mend(rig: &Rig, seq: &mut SequenceKv, context: &[u32], step: usize) {
    let none = finish_context(&*rig.model, &rig.cache, seq, context, step).unwrap();
    assert!(none.is_none() && seq.pass_rows() == 0);
}

fn has_windows(rig: &Rig) -> bool {
    rig.model.layer_geometry().iter().any(|g| g.window.is_some())
}

/// Rows that are all computed again leave nothing of where they came from, bit for bit, however they are cut into steps.
#[test]
fn all_rows_computed_again_are_a_context_computed_whole() {
    for name in FOLDERS {
        let rig = Rig::load(name);
        if has_windows(&rig) {
            continue;
        }
        let (a, b, new) = (tokens(name, 90, 1), tokens(name, 70, 2), tokens(name, 9, 3));
        let apart = [blocks(&rig, "f32", &a), blocks(&rig, "f32", &[&new[..], &b].concat())];
        let context = [&b[..], &new, &a].concat();
        let question = tokens(name, 11, 4);
        let mut whole = create(&rig, "f32");
        rig.step(&mut [(&mut whole, &context)]);
        let expected = rig.step(&mut [(&mut whole, &question)]);
        for (share, step) in [(1.0, 1000), (1.0, 37)] {
            let mut seq = create(&rig, "f32");
            let pieces = [kept(&apart[1], 9..79), Piece::New(9), kept(&apart[0], 0..90)];
            rig.cache.assemble(&mut seq, &pieces, &deviating(0, share)).unwrap();
            assert_eq!((seq.len(), seq.moved(), seq.is_shareable()), (169, 160, false));
            mend(&rig, &mut seq, &context, step);
            assert_same_bits(&rig.step(&mut [(&mut seq, &question)]), &expected, name);
        }
        // Without that it is something else.
        let mut seq = create(&rig, "f32");
        let pieces = [kept(&apart[1], 9..79), Piece::New(9), kept(&apart[0], 0..90)];
        rig.cache.assemble(&mut seq, &pieces, &Select::Rows(Vec::new())).unwrap();
        assert_eq!(seq.pass_tokens(&context), new, "what nobody has computed is computed in any case");
        mend(&rig, &mut seq, &context, 1000);
        let moved = rig.step(&mut [(&mut seq, &question)]);
        assert!(largest_difference(&moved, &expected) > 1e-4, "{name}");
    }
}

/// A stretch that stood where it stands is what it was, whatever is computed again of it.
#[test]
fn a_stretch_in_its_place_deviates_in_nothing() {
    let rig = Rig::load("llama");
    let (context, question) = (tokens("llama", 130, 1), tokens("llama", 20, 2));
    for recipe in ["f32", "f16"] {
        let there = blocks(&rig, recipe, &context);
        let mut whole = create(&rig, recipe);
        let expected = rig.step(&mut [(&mut whole, &[&context[..], &question].concat())]);
        let expected = &expected[context.len() * rig.model.spec().vocab..];
        for select in [Select::Rows(vec![]), Select::Rows(vec![0, 5, 64, 129]), deviating(0, 0.3)] {
            let mut seq = create(&rig, recipe);
            rig.cache.assemble(&mut seq, &[kept(&there, 0..130)], &select).unwrap();
            mend(&rig, &mut seq, &context, 50);
            assert_same_bits(&rig.step(&mut [(&mut seq, &question)]), expected, recipe);
        }
    }
}

/// Keys and values of the first layer know nothing of their context: moved, they are what they would be, but for rounding.
#[test]
fn the_first_layer_moves_exactly() {
    for name in ["llama", "llama-llama3", "llama-yarn", "phi3-partial", "qwen3"] {
        let rig = Rig::load(name);
        let (before, chunk) = (tokens(name, 33, 1), tokens(name, 80, 2));
        let there = blocks(&rig, "f32", &[&before[..], &chunk].concat());
        let mut whole = create(&rig, "f32");
        rig.step(&mut [(&mut whole, &chunk)]);
        let mut seq = create(&rig, "f32");
        rig.cache.assemble(&mut seq, &[kept(&there, 33..113)], &Select::Rows(vec![])).unwrap();
        let difference = |layer: usize| {
            let keys = |seq: &SequenceKv| rig.cache.keys(seq, layer, 0);
            (
                largest_difference(&keys(&seq), &keys(&whole)),
                largest_difference(&seq.values(layer, 0), &whole.values(layer, 0)),
            )
        };
        let (keys, values) = difference(0);
        assert!(keys < 2e-4 && values == 0.0, "{name}: {keys} {values}");
        let (keys, values) = difference(1);
        assert!(keys > 1e-3 && values > 1e-3, "{name}: {keys} {values}");
    }
}

/// Of what deviates, the most goes on; what nobody has computed goes on beside it.
#[test]
fn the_rows_that_deviate_most_are_chosen() {
    let rig = Rig::load("llama");
    let context = tokens("llama", 100, 1);
    let mut other = context.clone();
    other[5] = context[6];
    let there = blocks(&rig, "f32", &other);
    let new = tokens("llama", 4, 2);
    let all = [&context[..], &new].concat();
    for (of, least, chosen) in
        [(Deviation::Values, 0.0, 1), (Deviation::Keys, 0.0, 1), (Deviation::Both, 0.0, 1), (Deviation::Both, 1e9, 0)]
    {
        let mut seq = create(&rig, "f32");
        let select = Select::Deviating { of, filters: vec![Filter { after: 0, share: 0.01 }], least };
        rig.cache.assemble(&mut seq, &[kept(&there, 0..100), Piece::New(4)], &select).unwrap();
        for rows in [50, 54] {
            let first = seq.pass_tokens(&all)[..rows].to_vec();
            rig.model.forward(&rig.cache, &mut [Segment { seq: &mut seq, rows }], &first, &[]).unwrap();
            rig.cache.settle(&mut seq);
        }
        assert_eq!(seq.layers(), 1..rig.model.layer_geometry().len());
        assert_eq!(seq.pass_tokens(&all), [&context[5..5 + chosen], &new].concat(), "{of:?}");
    }
}

/// Recipes that encode what the window has passed do so when all is mended; what they read of it is near what they would.
#[test]
fn encoded_contexts_are_mended_exactly_and_encoded_then() {
    let rig = Rig::load("llama");
    let (a, b) = (tokens("llama", 200, 1), tokens("llama", 150, 2));
    let recipe = "kivi-4";
    let mut whole = create(&rig, recipe);
    let context = [&b[..], &a].concat();
    rig.step(&mut [(&mut whole, &context)]);
    let question = tokens("llama", 30, 3);
    let expected = rig.step(&mut [(&mut whole, &question)]);
    let apart = [blocks(&rig, recipe, &a), blocks(&rig, recipe, &b)];
    let mut seq = create(&rig, recipe);
    let pieces = [kept(&apart[1], 0..150), kept(&apart[0], 0..200)];
    rig.cache.assemble(&mut seq, &pieces, &deviating(0, 1.0)).unwrap();
    let held = seq.bytes();
    mend(&rig, &mut seq, &context, 100);
    let found = rig.step(&mut [(&mut seq, &question)]);
    assert!(seq.bytes() < held && seq.bytes() == whole.bytes(), "{} {held} {}", seq.bytes(), whole.bytes());
    let mut other = create(&rig, "f32");
    rig.step(&mut [(&mut other, &context)]);
    let exact = rig.step(&mut [(&mut other, &question)]);
    // Exact while it was mended, so no further from the exact cache than one that was encoded on the way.
    assert!(largest_difference(&found, &exact) < 1.5 * largest_difference(&expected, &exact));
    drop((seq, whole, other, apart));
    assert_eq!(rig.cache.ledger().used(), 0);
}

/// What cannot be put together is refused, and nothing is lost.
#[test]
fn what_is_not_there_is_refused() {
    let rig = Rig::load("llama");
    let (a, more) = (tokens("llama", 100, 1), tokens("llama", 10, 2));
    let there = blocks(&rig, "f32", &a);
    let mut seq = create(&rig, "f32");
    let before = rig.step(&mut [(&mut seq, &more)]);
    for span in [90..101, 128..130] {
        let refused = rig.cache.assemble(&mut seq, &[kept(&there, span)], &Select::Rows(vec![]));
        assert!(matches!(refused, Err(KvError::Misuse(_))), "{refused:?}");
    }
    let foreign = blocks(&rig, "f16", &a);
    assert!(rig.cache.assemble(&mut seq, &[kept(&foreign, 0..50)], &Select::Rows(vec![])).is_err());
    let mut again = create(&rig, "f32");
    assert_same_bits(&rig.step(&mut [(&mut again, &more)]), &before, "as it was");
    assert_same_bits(&rig.step(&mut [(&mut seq, &a)]), &rig.step(&mut [(&mut again, &a)]), "as it was");
    // Recipes that look at their whole context.
    let mut seq = create(&rig, "h2o(budget=0.5) + f32");
    rig.cache.expect(&mut seq, 200).unwrap();
    assert!(rig.cache.assemble(&mut seq, &[kept(&there, 0..100)], &Select::Rows(vec![])).is_err());
}

/// Sliding windows: as long as nothing was let go, a stretch can be moved, and mended whole it is exact.
#[test]
fn windows_are_mended_where_nothing_was_let_go() {
    let name = "gemma3";
    let rig = Rig::load(name);
    assert!(has_windows(&rig));
    let context = tokens(name, 300, 1);
    let gone = blocks(&rig, "f32", &context);
    let seq = create(&rig, "f32");
    assert!(!rig.cache.can_assemble(&seq, &[kept(&gone, 0..300)]));
}
