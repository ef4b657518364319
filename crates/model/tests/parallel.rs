//! Contexts that share their positions, over every family without sliding windows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use cachalot_kv::mend::Piece;
use cachalot_kv::parallel::Temper;
use cachalot_kv::recipe::{Recipe, expression::Files};
use cachalot_kv::{KvError, SequenceKv, SharedBlock};
use cachalot_model::Decoder;
use common::{FOLDERS, Rig, assert_same_bits, largest_difference};
use std::sync::Arc;

const PLAIN: Temper = Temper { temperature: 1.0, scale: 1.0 };
const APE: Temper = Temper { temperature: 0.9, scale: 0.9 };

fn create(rig: &Rig, recipe: &str) -> SequenceKv {
    let plan = Recipe::parse(recipe, Files::Refused).unwrap().plan(&rig.model.layer_geometry(), None).unwrap();
    rig.cache.create_with(&Arc::new(plan)).unwrap()
}

fn tokens(name: &str, count: usize, seed: usize) -> Vec<u32> {
    let known = common::reference(name).tokens;
    (0..count).map(|i| known[(i * 7 + seed * 13 + i * i * seed) % known.len()]).collect()
}

fn has_windows(rig: &Rig) -> bool {
    rig.model.layer_geometry().iter().any(|g| g.window.is_some())
}

/// A prefix, and contexts that were computed behind it.
struct Held {
    prefix: Vec<u32>,
    contexts: Vec<(Vec<u32>, Vec<SharedBlock>)>,
}

impl Held {
    fn new(rig: &Rig, recipe: &str, prefix: &[u32], contexts: &[Vec<u32>]) -> Held {
        let compute = |context: &Vec<u32>| {
            let mut seq = create(rig, recipe);
            rig.step(&mut [(&mut seq, &[prefix, context].concat())]);
            (context.clone(), rig.cache.retire(seq, 0))
        };
        Held { prefix: prefix.to_vec(), contexts: contexts.iter().map(compute).collect() }
    }

    /// A sequence with these contexts in this order.
    fn assemble(
        &self,
        rig: &Rig,
        recipe: &str,
        order: &[usize],
        silent: usize,
        temper: Temper,
    ) -> Result<SequenceKv, KvError> {
        let mut seq = create(rig, recipe);
        let p = self.prefix.len();
        let kept = |(tokens, blocks): &'_ (Vec<u32>, Vec<SharedBlock>)| (p..p + tokens.len(), blocks.clone());
        let kept: Vec<_> = order.iter().map(|&i| kept(&self.contexts[i])).collect();
        let pieces: Vec<Piece<'_>> =
            kept.iter().map(|(span, blocks)| Piece::Kept { blocks, first: 0, span: span.clone() }).collect();
        let prefix = Piece::Kept { blocks: &self.contexts[0].1, first: 0, span: 0..p };
        let prefix = if p == 0 { vec![] } else { vec![prefix] };
        rig.cache.assemble_parallel(&mut seq, &prefix, &pieces, silent, temper)?;
        Ok(seq)
    }
}

/// One context at its own temperature is a prompt computed as ever: the same sums in another order.
#[test]
fn one_context_is_a_prompt_computed_as_ever() {
    for name in FOLDERS {
        let rig = Rig::load(name);
        if has_windows(&rig) {
            continue;
        }
        for (prefix, context, silent) in [(20, 90, 0), (64, 64, 7), (0, 70, 0), (5, 9, 3), (130, 300, 0)] {
            let (prefix, context) = (tokens(name, prefix, 1), tokens(name, context, 2));
            let question = tokens(name, 30, 3);
            let held = Held::new(&rig, "f32", &prefix, std::slice::from_ref(&context));
            let mut seq = held.assemble(&rig, "f32", &[0], silent, PLAIN).unwrap();
            assert_eq!(seq.len(), prefix.len() + context.len() + silent);
            assert_eq!((seq.moved(), seq.is_shareable()), (context.len() + silent, false));
            let found = rig.step(&mut [(&mut seq, &question)]);
            let mut whole = create(&rig, "f32");
            rig.step(&mut [(&mut whole, &[&prefix[..], &context].concat())]);
            let expected = rig.step(&mut [(&mut whole, &question)]);
            let difference = largest_difference(&found, &expected);
            assert!(difference < 2e-4, "{name}: {difference}");
            // Which at another temperature, or weight, it is not.
            for temper in [APE, Temper { scale: 0.5, ..PLAIN }, Temper { temperature: 0.5, scale: 2.0 }] {
                let mut seq = held.assemble(&rig, "f32", &[0], silent, temper).unwrap();
                assert!(largest_difference(&rig.step(&mut [(&mut seq, &question)]), &expected) > 1e-3, "{name}");
            }
        }
    }
}

/// The order of contexts is nowhere in what is computed but in the order of sums.
#[test]
fn contexts_in_another_order_give_the_same() {
    for name in ["llama", "qwen3", "phi3-partial", "llama-yarn", "llama-mqa-bias"] {
        let rig = Rig::load(name);
        let prefix = tokens(name, 21, 1);
        let contexts = [tokens(name, 90, 2), tokens(name, 64, 3), tokens(name, 131, 4)];
        let (question, more) = (tokens(name, 17, 5), tokens(name, 1, 6));
        for (recipe, bound) in [("f32", 2e-4), ("f16", 2e-3)] {
            let held = Held::new(&rig, recipe, &prefix, &contexts);
            let answers = |order: &[usize]| {
                let mut seq = held.assemble(&rig, recipe, order, 4, APE).unwrap();
                let mut found = rig.step(&mut [(&mut seq, &question)]);
                found.extend(rig.step(&mut [(&mut seq, &more)]));
                found
            };
            let first = answers(&[0, 1, 2]);
            for order in [[2, 0, 1], [1, 2, 0], [2, 1, 0]] {
                let difference = largest_difference(&answers(&order), &first);
                assert!(difference < bound, "{name} {recipe}: {difference}");
            }
            // One less is something else.
            assert!(largest_difference(&answers(&[0, 1]), &first) > 10.0 * bound, "{name}");
        }
    }
}

/// A row's bits do not depend on who else is in the step, or on how its prompt is cut.
#[test]
fn rows_depend_on_no_company() {
    let (name, recipe) = ("llama", "int8(window=64)");
    let rig = Rig::load(name);
    let contexts = [tokens(name, 200, 2), tokens(name, 150, 3)];
    let question = tokens(name, 90, 5);
    for recipe in ["f16", recipe] {
        let held = Held::new(&rig, recipe, &tokens(name, 33, 1), &contexts);
        let made = || held.assemble(&rig, recipe, &[1, 0], 0, APE).unwrap();
        let mut alone = made();
        let expected = rig.step(&mut [(&mut alone, &question)]);
        let vocab = rig.model.spec().vocab;
        let (mut seq, mut other, mut plain) = (made(), made(), create(&rig, recipe));
        let mut found = Vec::new();
        for part in question.chunks(13) {
            let step = rig.step(&mut [(&mut plain, &question[..7]), (&mut seq, part), (&mut other, &question[1..2])]);
            found.extend_from_slice(&step[7 * vocab..(7 + part.len()) * vocab]);
        }
        assert_same_bits(&found, &expected, recipe);
        let mut fork = rig.cache.fork(&seq).unwrap();
        let more = tokens(name, 1, 8);
        let expected = rig.step(&mut [(&mut seq, &more)]);
        assert_same_bits(&rig.step(&mut [(&mut fork, &more)]), &expected, recipe);
    }
}

/// Every kind of page that attention reads: plain, encoded, and encoded before rotary position.
#[test]
fn encoded_contexts_are_near_exact_ones() {
    let name = "llama";
    let rig = Rig::load(name);
    let contexts = [tokens(name, 200, 2), tokens(name, 150, 3), tokens(name, 90, 4)];
    let (prefix, question) = (tokens(name, 33, 1), tokens(name, 120, 5));
    let finish = |mut seq: SequenceKv| {
        let mut found = rig.step(&mut [(&mut seq, &question)]);
        found.extend(rig.step(&mut [(&mut seq, &question[..1])]));
        found
    };
    let answer = |recipe: &str| {
        let held = Held::new(&rig, recipe, &prefix, &contexts);
        finish(held.assemble(&rig, recipe, &[0, 1, 2], 5, APE).unwrap())
    };
    let whole = |recipe: &str| {
        let mut seq = create(&rig, recipe);
        rig.step(&mut [(&mut seq, &[&prefix[..], &contexts.concat()].concat())]);
        finish(seq)
    };
    let (exact, exact_whole) = (answer("f32"), whole("f32"));
    for recipe in ["f16", "int8(window=64)", "kivi-4", "rotatekv-4"] {
        let difference = largest_difference(&answer(recipe), &exact);
        // Contexts are read, and written again, in what they were written in.
        let bound = 3.0 * largest_difference(&whole(recipe), &exact_whole);
        assert!(difference > 0.0 && difference < bound, "{recipe}: {difference} of {bound}");
    }
    assert_eq!(rig.cache.ledger().used(), 0);
}

/// What cannot be is refused, and the sequence is as it was.
#[test]
fn what_cannot_be_is_refused() {
    let rig = Rig::load("llama");
    let (prefix, contexts) = (tokens("llama", 20, 1), [tokens("llama", 50, 2), tokens("llama", 40, 3)]);
    let held = Held::new(&rig, "f32", &prefix, &contexts);
    assert!(held.assemble(&rig, "f32", &[], 0, APE).is_err());
    for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(held.assemble(&rig, "f32", &[0], 0, Temper { temperature, ..APE }).is_err());
    }
    // Of a context that stood elsewhere.
    let mut seq = create(&rig, "f32");
    let blocks = &held.contexts[0].1;
    let piece = |span| Piece::Kept { blocks, first: 0, span };
    let refused = rig.cache.assemble_parallel(&mut seq, &[piece(0..20)], &[piece(21..60)], 0, APE);
    assert!(matches!(refused, Err(KvError::Misuse(_))));
    assert!(seq.is_empty() && seq.is_shareable());
    // Of one that was reduced, and going back into contexts.
    rig.cache.expect(&mut seq, 100).unwrap();
    let mut seq = held.assemble(&rig, "f32", &[0, 1], 0, APE).unwrap();
    let more = tokens("llama", 3, 4);
    let expected = rig.step(&mut [(&mut seq, &more)]);
    assert!(matches!(rig.cache.truncate(&mut seq, 109), Err(KvError::Forgotten { .. })));
    rig.cache.truncate(&mut seq, 110).unwrap();
    assert_same_bits(&rig.step(&mut [(&mut seq, &more)]), &expected, "as it was");
    assert!(rig.cache.assemble_parallel(&mut seq, &[], &[piece(20..70)], 0, APE).is_err());
    let gemma = Rig::load("gemma3");
    let held = Held::new(&gemma, "f32", &tokens("gemma3", 9, 1), &[tokens("gemma3", 20, 2)]);
    assert!(matches!(held.assemble(&gemma, "f32", &[0], 0, APE), Err(KvError::Misuse(_))));
}
