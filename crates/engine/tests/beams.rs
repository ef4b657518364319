//! Beam search finds the texts that transformers finds, with the same models.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use cachalot_engine::text::{TextStream, Vocabulary};
use cachalot_engine::{Beam, Engine, EngineConfig, Event, Request, Sampling, Stopping};
use cachalot_kernels::{Isa, Team};
use cachalot_kv::Recipe;
use cachalot_kv::recipe::expression::Files;
use cachalot_model::{LoadOptions, load_weights};
use serde_json::Value;

fn team(threads: usize) -> Arc<Team> {
    Arc::new(Team::new(NonZeroUsize::new(threads).unwrap()))
}

/// Tokens without text.
struct Mute;

#[derive(Clone)]
struct Silence;

impl Vocabulary for Mute {
    fn size(&self) -> usize {
        101
    }
    fn token_bytes(&self, _: u32) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[])
    }
    fn eos(&self) -> &[u32] {
        &[]
    }
    fn stream(&self, _: bool) -> Box<dyn TextStream> {
        Box::new(Silence)
    }
}

impl TextStream for Silence {
    fn push(&mut self, _: u32) -> String {
        String::new()
    }
    fn finish(&mut self) -> String {
        String::new()
    }
    fn branch(&self) -> Box<dyn TextStream> {
        Box::new(self.clone())
    }
}

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as u32).collect()
}

#[test]
fn texts_are_those_of_transformers() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let read = std::fs::read_to_string(fixtures.join("beams/beams.json")).unwrap();
    let cases: Value = serde_json::from_str(&read).unwrap();
    let mut stopped = 0;
    for case in cases["cases"].as_array().unwrap() {
        let folder = fixtures.join("models").join(case["family"].as_str().unwrap());
        let (model, _) = load_weights(&folder, &LoadOptions::new(team(1))).unwrap();
        let kv = Recipe::parse("f32", Files::Refused).unwrap();
        let config = EngineConfig { kv, kv_budget_bytes: 1 << 24, ..EngineConfig::default() };
        let cache = config.cache(model.layer_geometry(), team(1), Isa::detect()).unwrap();
        let engine = Engine::start(Arc::new(model), Arc::new(Mute), cache, config);
        let n = case["n"].as_u64().unwrap() as usize;
        let request = Request {
            prompt: numbers(&case["prompt"]),
            n,
            beam: Some(Beam {
                width: case["width"].as_u64().unwrap() as usize,
                length_penalty: case["length_penalty"].as_f64().unwrap() as f32,
                stopping: match &case["early_stopping"] {
                    Value::Bool(true) => Stopping::Early,
                    Value::Bool(false) => Stopping::Hopeless,
                    _ => Stopping::Never,
                },
            }),
            max_tokens: Some(case["max_tokens"].as_u64().unwrap() as usize),
            stop_tokens: numbers(&case["ends"]),
            sampling: Sampling::greedy(),
            ..Request::default()
        };
        let mut generation = engine.handle().submit(request).unwrap();
        let mut texts = vec![Vec::new(); n];
        while let Some(event) = generation.next_blocking() {
            match event {
                Event::Token { choice, id, .. } => texts[choice].push(id),
                Event::Error(error) => panic!("{error}"),
                _ => {}
            }
        }
        let expected: Vec<Vec<u32>> = case["texts"].as_array().unwrap().iter().map(numbers).collect();
        assert_eq!(texts, expected, "{case}");
        stopped += texts.iter().filter(|text| numbers(&case["ends"]).contains(text.last().unwrap())).count();
    }
    assert!(stopped > 5);
}
