//! The engine over the embedded model: real weights, real vocabulary, real cache.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use cachalot_engine::{
    ConstraintSpec, Engine, EngineConfig, ErrorKind, Event, FinishReason, Generation, Request, Sampling,
};
use cachalot_kernels::Isa;
use cachalot_model::tokenizer::Specials;
use common::{loaded, team};

/// An engine whose cache holds `tokens` tokens.
fn engine(tokens: usize, config: EngineConfig) -> Engine {
    let layers = || loaded().model.layer_geometry();
    let measure = EngineConfig { kv_budget_bytes: 0, ..config.clone() };
    let budget = measure.cache(layers(), team(1), Isa::detect()).unwrap().bytes_for_tokens(tokens);
    let config = EngineConfig { kv_budget_bytes: budget, ..config };
    let cache = config.cache(layers(), team(2), Isa::detect()).unwrap();
    Engine::start(loaded().model.clone(), loaded().tokenizer.clone(), cache, config)
}

fn request(text: &str) -> Request {
    Request {
        prompt: loaded().tokenizer.encode(text, Specials::Plain).unwrap(),
        max_tokens: Some(90),
        sampling: Sampling { seed: Some(7), temperature: 0.8, top_p: 0.95, ..Sampling::default() },
        ignore_eos: true,
        ..Request::default()
    }
}

#[derive(Debug, Default, PartialEq)]
struct Answer {
    ids: Vec<u32>,
    text: String,
    reason: Option<FinishReason>,
}

fn answer(mut generation: Generation) -> Answer {
    let mut answer = Answer::default();
    while let Some(event) = generation.next_blocking() {
        match event {
            Event::Token { id, text, .. } => {
                answer.ids.push(id);
                answer.text += &text;
            }
            Event::Finished { reason, .. } => answer.reason = Some(reason),
            Event::Error(error) => panic!("{error}"),
            _ => {}
        }
    }
    answer
}

#[test]
fn company_chunks_and_memory_change_no_bit() {
    let prompts = [
        "Once upon a time",
        "The secret code of Vienna is 48213. The weather was fine that day, and everybody was out. Question: What is \
         the secret code of Vienna?\nAnswer:",
        "def main():\n    print(",
        "Grüße aus Österreich, 你好",
        "x",
    ];
    let requests: Vec<Request> = prompts
        .iter()
        .map(|text| request(text))
        .flat_map(|sampled| [Request { sampling: Sampling::greedy(), ..sampled.clone() }, sampled])
        .collect();
    let roomy = engine(4000, EngineConfig::default());
    let alone: Vec<Answer> = requests.iter().map(|r| answer(roomy.handle().submit(r.clone()).unwrap())).collect();
    assert!(alone.iter().all(|a| a.ids.len() == 90));

    // Chunks of odd sizes, batches that change all the time, and memory for a few sequences: some are set aside and
    // computed again, their own tokens then as a prompt.
    let config = EngineConfig { max_batch: 7, max_batch_tokens: 17, ..EngineConfig::default() };
    let tight = engine(512, config);
    let handle = tight.handle();
    let generations: Vec<Generation> = requests.iter().map(|r| handle.submit(r.clone()).unwrap()).collect();
    let together: Vec<Answer> = generations.into_iter().map(answer).collect();
    for (one, other) in alone.iter().zip(&together) {
        assert_eq!(one, other);
        assert_eq!(one.text, loaded().tokenizer.decode(&one.ids), "the pieces are the whole");
    }
    tight.shutdown();
    assert!(handle.stats().preemptions > 0, "{:?}", handle.stats());
    assert_eq!(handle.stats().kv_bytes, 0);
}

#[test]
fn requests_with_recipes_of_their_own_share_the_steps_and_change_nobodys_bits() {
    let text = "The secret code of Vienna is 48213. ".repeat(9);
    let recipes = [
        None,
        Some("q8_0"),
        Some("kivi-2(window=64)"),
        Some("k=q8_0,v=f16"),
        Some("rotatekv-4(window=0)"),
        Some("snapkv(window=16, budget=0.4)"),
        Some("adakv(of=keydiff, budget=0.3) + rotatekv-4"),
        Some("streamingllm(budget=80) + q8_0"),
    ];
    let requests: Vec<Request> =
        recipes.iter().map(|kv| Request { kv: kv.map(str::to_owned), ..request(&text) }).collect();
    let roomy = engine(8000, EngineConfig::default());
    let alone: Vec<Answer> = requests.iter().map(|r| answer(roomy.handle().submit(r.clone()).unwrap())).collect();
    let bits = |kv: Option<&str>| {
        let plan = roomy.handle().recipes().plan(kv).unwrap();
        plan.lanes.iter().flatten().filter(|lane| lane.body.is_some()).count()
    };
    assert!(bits(None) == 0 && bits(Some("q8_0")) > 0);
    // Two bits are heard; that they are not heard alike shows that each had its own.
    assert_ne!(alone[0], alone[2]);

    let config = EngineConfig { max_batch: 4, max_batch_tokens: 33, ..EngineConfig::default() };
    let tight = engine(520, config);
    let generations: Vec<Generation> = requests.iter().map(|r| tight.handle().submit(r.clone()).unwrap()).collect();
    let together: Vec<Answer> = generations.into_iter().map(answer).collect();
    for ((one, other), kv) in alone.iter().zip(&together).zip(recipes) {
        assert_eq!(one, other, "{kv:?}");
    }
    let handle = tight.handle();
    tight.shutdown();
    assert!(handle.stats().preemptions > 0, "{:?}", handle.stats());
    assert_eq!(handle.stats().kv_bytes, 0);
}

#[test]
fn choices_of_a_reduced_prompt_share_it_and_differ_from_the_whole() {
    let text = "The secret code of Vienna is 48213. ".repeat(9);
    let engine = engine(4000, EngineConfig::default());
    let submit = |kv: Option<&str>, n| {
        let spec = Request { kv: kv.map(str::to_owned), n, ..request(&text) };
        engine.handle().submit(spec).unwrap()
    };
    let alone = answer(submit(Some("knorm(budget=0.2)"), 1));
    assert_ne!(alone, answer(submit(None, 1)));
    let mut generation = submit(Some("knorm(budget=0.2)"), 3);
    let mut first = Vec::new();
    while let Some(event) = generation.next_blocking() {
        if let Event::Token { choice: 0, id, .. } = event {
            first.push(id);
        }
    }
    assert_eq!(first, alone.ids);
}

#[test]
fn recipes_that_cannot_be_are_refused_before_anything_is_computed() {
    let engine = engine(1000, EngineConfig::default());
    let refused = |kv: &str| {
        let error = engine.handle().submit(Request { kv: Some(kv.to_owned()), ..request("x") }).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Request, "{error}");
        error.to_string()
    };
    assert!(refused("kivi3").contains("did you mean `kivi-"));
    assert!(refused("kvquant-3").contains("needs a profile of this model"));
    assert!(refused("k=[pca(keep=8), f16],v=f16").contains("needs a profile of this model"));
    assert!(refused("k=[uniform(group=7)],v=f16").contains("keys of layer 0, head 0"));
    assert!(refused("models/calf/config.toml").contains("unknown recipe"));
}

#[test]
fn a_smaller_recipe_makes_room_for_a_longer_prompt() {
    // 256 tokens of half floats: three bits hold more, in steps that need little room themselves.
    let engine = engine(256, EngineConfig { max_batch_tokens: 64, ..EngineConfig::default() });
    let prompt = request(&"a b c d e f g ".repeat(60)).prompt;
    assert!(prompt.len() > 300, "{}", prompt.len());
    let request = Request { max_tokens: Some(3), ..Request { prompt, ..request("x") } };
    let error = engine.handle().submit(request.clone()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    let smaller = Request { kv: Some("kivi-2(window=0)".to_owned()), ..request };
    assert_eq!(answer(engine.handle().submit(smaller).unwrap()).ids.len(), 3);
}

#[test]
fn a_schema_gives_json_whatever_the_model_would_say() {
    let schema = serde_json::json!({"type": "object", "properties": {
        "city": {"enum": ["Vienna", "Graz"]}, "year": {"type": "integer", "minimum": 1000, "maximum": 2999},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 3}},
        "required": ["city", "year", "tags"], "additionalProperties": false});
    let engine = engine(4000, EngineConfig::default());
    for seed in 0..8 {
        let sampling = Sampling { seed: Some(seed), ..Sampling::default() };
        let constraint = Some(ConstraintSpec::JsonSchema(schema.clone()));
        let spec = Request { sampling, constraint, max_tokens: Some(1000), ignore_eos: false, ..request("A city:") };
        let got = answer(engine.handle().submit(spec).unwrap());
        assert_eq!(got.reason, Some(FinishReason::Stop), "{got:?}");
        let value: serde_json::Value = serde_json::from_str(&got.text).unwrap();
        assert!(["Vienna", "Graz"].contains(&value["city"].as_str().unwrap()));
        assert!((1000..3000).contains(&value["year"].as_u64().unwrap()));
        assert!(value["tags"].as_array().unwrap().len() <= 3);
    }
}
