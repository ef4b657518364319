//! A model with everything that belongs to it, from one path: the one that is shipped.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;

use cachalot_kernels::Isa;
use cachalot_model::tokenizer::Specials;
use cachalot_model::{Model, geometry, read_spec};
use common::{Rig, options};

fn calf() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/calf")
}

#[test]
fn the_shipped_model_loads_and_predicts_text_better_than_chance() {
    let loaded = Model::load(&calf(), &options()).unwrap();
    assert_eq!(loaded.model.spec, read_spec(&calf()).unwrap());
    assert_eq!(loaded.name, "calf");
    assert!(loaded.model.non_finite().is_empty());
    assert!(loaded.tokenizer.vocab_size() <= loaded.model.spec.vocab);
    let text = "The King of England was the head of the government, and he was the first of the two countries.";
    let tokens = loaded.tokenizer.encode(text, Specials::Plain).unwrap();
    let vocab = loaded.model.spec.vocab;
    let logits = Rig::new(loaded.model, 2, Isa::detect()).chunked(&tokens, tokens.len());
    let surprise = |(logits, next): (&[f32], &u32)| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logits.iter().map(|l| (l - largest).exp()).sum();
        largest + sum.ln() - logits[*next as usize]
    };
    let all: Vec<f32> = logits.chunks_exact(vocab).zip(&tokens[1..]).map(surprise).collect();
    let mean = all.iter().sum::<f32>() / all.len() as f32;
    // Guessing evenly would cost ln(vocab), more than 8.
    assert!(mean < 0.7 * (vocab as f32).ln(), "{mean} nats per token");
}

#[test]
fn layers_with_the_same_rope_share_its_tables() {
    let gemma = read_spec(&common::fixtures().join("gemma3")).unwrap();
    let layers = geometry(&gemma);
    let rope = |i: usize| layers[i].rope.as_ref().unwrap();
    assert!(std::sync::Arc::ptr_eq(rope(0), rope(2)) && std::sync::Arc::ptr_eq(rope(1), rope(3)));
    assert!(!std::sync::Arc::ptr_eq(rope(0), rope(1)));
    assert_eq!(layers.iter().map(|l| l.window).collect::<Vec<_>>(), [Some(17), None, Some(17), None]);
}
