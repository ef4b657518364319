//! What the cache did to an answer, asked for over HTTP and told by `/metrics`, with the embedded model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cachalot_engine::{Engine, EngineConfig, ReplayConfig};
use cachalot_kernels::{Isa, Team};
use cachalot_kv::{Element, KvFormat};
use cachalot_model::{LoadOptions, Loaded, Model};
use cachalot_server::{AppState, EngineBackend, ServerConfig, router};
use serde_json::{Value, json};
use support::{Client, Fake, client, merged};

fn team() -> Arc<Team> {
    Arc::new(Team::new(NonZeroUsize::new(2).unwrap()))
}

fn calf() -> &'static Arc<Loaded> {
    static CALF: LazyLock<Arc<Loaded>> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf");
        Arc::new(Model::load(&path, &LoadOptions::new(team())).unwrap())
    });
    &CALF
}

/// A server of the embedded model; it ends with the engine.
fn serve(config: EngineConfig) -> (Client, Engine) {
    let cache = config.cache(calf().model.layer_geometry(), team(), Isa::detect()).unwrap();
    let engine = Engine::start(calf().model.clone(), calf().tokenizer.clone(), cache, config);
    let config = ServerConfig::default();
    let backend = EngineBackend::new(&config, engine.handle(), calf().clone());
    (Client { fake: Arc::new(Fake::default()), router: router(AppState::new(config, Arc::new(backend))) }, engine)
}

/// Long enough that recipes have something to encode and to drop.
fn prompt() -> String {
    let filler = "The weather was fine that day, and everybody was out in the garden. ".repeat(12);
    format!("The secret code of Vienna is 48213. {filler}The secret code of Vienna is")
}

fn asked(kv: Value) -> Value {
    json!({"prompt": prompt(), "max_tokens": 24, "temperature": 0, "ignore_eos": true, "seed": 4, "kv": kv})
}

/// The `kv` of a completion with this recipe, all steps compared.
async fn report(c: &Client, recipe: &str) -> Value {
    let answer = c.complete(asked(json!({"recipe": recipe, "report": {"share": 1}}))).await.json();
    assert_eq!(answer["kv"]["recipe"], recipe, "{answer}");
    let report = answer["kv"]["report"].clone();
    assert_eq!((&report["steps"], &report["of"]), (&json!(24), &json!(24)), "{recipe}: {report}");
    report
}

fn number(report: &Value, field: &str) -> f64 {
    report[field].as_f64().unwrap_or_else(|| panic!("{field}: {report}"))
}

#[tokio::test]
async fn an_exact_recipe_is_reported_exact() {
    let (c, _engine) = serve(EngineConfig::default());
    let answer = c.complete(asked(json!({"report": true}))).await.json();
    let kv = &answer["kv"];
    assert_eq!(kv["recipe"], "f16");
    let report = &kv["report"];
    for field in ["kl_mean", "kl_max", "kl_first"] {
        assert_eq!(report[field], 0.0, "{field}: {report}");
    }
    assert_eq!((&report["top1_agreement"], &report["perplexity_ratio"]), (&json!(1.0), &json!(1.0)));
    // Greedy, and the same bits: every token is the exact cache's first.
    assert_eq!(report["chosen_top1"], 1.0);
    assert_eq!((&report["share"], &report["of"], &report["exact_recipe"]), (&json!(0.125), &json!(24), &json!("f16")));
    let steps = report["steps"].as_u64().unwrap();
    assert!((2..24).contains(&steps), "{report}");
    let tokens = report["exact_tokens"].as_u64().unwrap() - answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!((1..24).contains(&tokens) && number(report, "seconds") > 0.0, "{report}");
    assert!(kv.get("choices").is_none());

    // Sampled, with penalties, a bias and a grammar: the rows are those before all that.
    let more = json!({
        "messages": [{"role": "user", "content": prompt()}], "max_tokens": 20, "temperature": 1.1, "n": 3, "seed": 5,
        "frequency_penalty": 0.5, "logit_bias": {"5": 3}, "kv": {"recipe": "f16", "report": {"share": 1.0}},
        "response_format": {"type": "regex", "pattern": "[a-z ]{40,}"}
    });
    let kv = &c.post("/v1/chat/completions", more).await.json()["kv"];
    let choices = kv["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    for (i, choice) in choices.iter().enumerate() {
        assert_eq!((&choice["index"], &choice["report"]["kl_max"]), (&json!(i), &json!(0.0)));
    }
    let sum = |field: &str| choices.iter().map(|choice| choice["report"][field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((kv["report"]["steps"].as_u64(), kv["report"]["of"].as_u64()), (Some(sum("steps")), Some(sum("of"))));
    assert!(sum("steps") > 6 && kv["report"]["kl_max"] == 0.0 && number(&kv["report"], "chosen_top1") < 1.0, "{kv}");

    // Who does not ask is not told.
    for kv in [json!("f16"), json!({"recipe": "f16", "report": false}), Value::Null] {
        let body = json!({"prompt": "x", "max_tokens": 2, "kv": kv});
        assert!(c.complete(body).await.json().get("kv").is_none());
    }
}

#[tokio::test]
async fn coarser_formats_are_farther_away() {
    let (c, _engine) = serve(EngineConfig::default());
    let mut last = 0.0;
    for recipe in ["q8_0(window=0)", "int4(window=0)", "int2(window=0)"] {
        let report = report(&c, recipe).await;
        let mean = number(&report, "kl_mean");
        assert!(mean > last, "{recipe} {last}: {report}");
        assert!(number(&report, "kl_max") >= mean && number(&report, "kl_first") > 0.0, "{report}");
        assert!((0.0..=1.0).contains(&number(&report, "top1_agreement")), "{report}");
        assert!(number(&report, "perplexity_ratio") > 0.0, "{report}");
        last = mean;
    }
}

#[tokio::test]
async fn recipes_that_drop_repeat_or_shorten_are_reported() {
    let (c, _engine) = serve(EngineConfig::default());
    // Tokens are dropped when the prompt has been read, so the first step still comes from all of it.
    for recipe in ["snapkv(window=16, budget=0.2)", "kvzip(budget=0.2, chunk=100)", "streamingllm(budget=60)"] {
        let report = report(&c, recipe).await;
        assert_eq!(report["kl_first"], 0.0, "{recipe}: {report}");
        assert!(number(&report, "kl_max") > 0.0 && number(&report, "kl_max_step") > 0.0, "{recipe}: {report}");
    }
    // Rows that never reach the upper layers are missed at once.
    let report = report(&c, "fastkv(budget=0.3, layer=1, rows=0.2)").await;
    assert!(number(&report, "kl_first") > 0.0, "{report}");
}

#[tokio::test]
async fn streams_end_with_the_same_report() {
    let (c, _engine) = serve(EngineConfig::default());
    let kv = json!({"recipe": "int2(window=0)", "report": {"share": 0.5}});
    let timeless = |document: &Value| {
        let mut kv = document["kv"].clone();
        kv["report"]["seconds"].take();
        kv
    };
    let whole = timeless(&c.complete(asked(kv.clone())).await.json());
    assert!(number(&whole["report"], "kl_mean") > 0.0);
    for usage in [false, true] {
        let more = json!({"stream": true, "stream_options": {"include_usage": usage}});
        let (events, done) = c.complete(merged(asked(kv.clone()), more)).await.events();
        let (last, before) = events.split_last().unwrap();
        assert!(done && before.iter().all(|event| event.get("kv").is_none()));
        assert_eq!((timeless(last), &last["choices"]), (whole.clone(), &json!([])));
        assert_eq!(last.get("usage").is_some_and(Value::is_object), usage, "{last}");
        assert_eq!(before.last().unwrap()["choices"][0]["finish_reason"], "length");
    }
    let chat = json!({"stream": true, "max_tokens": 9, "kv": {"report": true}});
    let (events, done) = c.chat(chat).await.events();
    let last = events.last().unwrap();
    assert_eq!((done, &last["object"], &last["kv"]["recipe"]), (true, &json!("chat.completion.chunk"), &json!("f16")));
}

#[tokio::test]
async fn every_prompt_of_a_request_is_reported() {
    let (c, _engine) = serve(EngineConfig::default());
    let body = json!({"prompt": ["one two", "three"], "n": 2, "max_tokens": 5, "kv": {"report": true}, "seed": 1});
    let kv = &c.complete(body).await.json()["kv"];
    let indices: Vec<&Value> = kv["choices"].as_array().unwrap().iter().map(|choice| &choice["index"]).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert_eq!(kv["report"]["kl_max"], 0.0);
}

#[tokio::test]
async fn a_comparison_that_finds_no_room_says_so() {
    // Half floats fit as tightly as can be; twice as wide they do not.
    let replay = ReplayConfig { reference: KvFormat { k: Element::F32, v: Element::F32 }, ..ReplayConfig::default() };
    let layers = calf().model.layer_geometry();
    let measure = EngineConfig { kv_budget_bytes: 0, ..EngineConfig::default() };
    let cache = measure.cache(layers, team(), Isa::detect()).unwrap();
    let kv_budget_bytes = cache.bytes_for_tokens(300);
    let (c, _engine) = serve(EngineConfig { kv_budget_bytes, replay, ..EngineConfig::default() });
    let answer = c.complete(asked(json!({"report": true}))).await.json();
    let report = &answer["kv"]["report"];
    assert_eq!((&report["skipped"], &report["exact_recipe"]), (&json!("memory"), &json!("f32")), "{answer}");
    assert!(report["message"].as_str().unwrap().contains("KV budget"), "{report}");
    assert_eq!(answer["usage"]["completion_tokens"], 24);
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_by_name() {
    let c = client(Fake::default());
    for (kv, param, code) in [
        (json!({"report": 3}), "kv.report", "invalid_type"),
        (json!({"report": "yes"}), "kv.report", "invalid_type"),
        (json!({"report": [true]}), "kv.report", "invalid_type"),
        (json!({"report": {"share": "all"}}), "kv.report.share", "invalid_type"),
        (json!({"report": {"share": 1.5}}), "kv.report.share", "invalid_value"),
        (json!({"report": {"share": -0.1}}), "kv.report.share", "invalid_value"),
        (json!({"recipe": "f17", "report": true}), "kv.recipe", "invalid_value"),
        (json!({"report": null}), "kv.recipe", "missing_required_parameter"),
    ] {
        for error in [c.chat(json!({"kv": kv})).await.error(400), c.complete(json!({"kv": kv})).await.error(400)] {
            assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{kv}");
        }
    }
    for (kv, share) in [
        (json!({"report": true}), Some(0.125)),
        (json!({"report": {}}), Some(0.125)),
        (json!({"report": {"share": 0.3}}), Some(0.3)),
        (json!({"report": {"share": 0}, "recipe": "f16"}), Some(0.0)),
        (json!({"report": false, "spans": [[0, 1]]}), None),
    ] {
        let c = client(Fake::default());
        assert_eq!(c.chat(json!({"kv": kv})).await.status, 200, "{kv}");
        assert_eq!(c.fake.only().report.map(|spec| spec.share), share, "{kv}");
    }
}

/// The value of a line of `/metrics`.
fn metric(text: &str, line: &str) -> f64 {
    let found = text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or(0.0)
}

#[tokio::test]
async fn shadows_tell_the_metrics_and_nobody_else() {
    let replay = ReplayConfig { shadow: 1.0, shadow_steps: 1.0, ..ReplayConfig::default() };
    let (c, _engine) = serve(EngineConfig { replay, ..EngineConfig::default() });
    let outcome = |outcome: &str| format!("cachalot_kv_replays_total{{for=\"shadow\",outcome=\"{outcome}\"}}");
    let mut compared = 0.0;
    for recipe in ["kivi-2", "int2(window=0)", "f16"] {
        let answer = c.complete(asked(json!(recipe))).await.json();
        assert!(answer.get("kv").is_none() && answer["usage"]["completion_tokens"] == 24);
        compared += f64::from(u8::from(recipe != "f16"));
        // The answer does not wait for its shadow, so the test has to.
        let reached = async {
            while metric(&c.get("/metrics").await.text, &outcome("compared")) < compared {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("the shadow is compared");
    }
    let text = c.get("/metrics").await.text;
    // A name of the registry is its own; what a client made up is not.
    for recipe in ["kivi-2", "other"] {
        let steps = metric(&text, &format!("cachalot_kv_shadow_steps_total{{recipe=\"{recipe}\"}}"));
        let agreeing = metric(&text, &format!("cachalot_kv_shadow_agreeing_steps_total{{recipe=\"{recipe}\"}}"));
        assert!(steps == 24.0 && agreeing <= steps, "{recipe} {steps} {agreeing}");
        let sum = metric(&text, &format!("cachalot_kv_shadow_kl_sum{{recipe=\"{recipe}\"}}"));
        let count = metric(&text, &format!("cachalot_kv_shadow_kl_count{{recipe=\"{recipe}\"}}"));
        assert!(sum > 0.0 && count == 24.0, "{recipe} {sum} {count}");
        assert!(text.contains(&format!("cachalot_kv_shadow_kl_bucket{{recipe=\"{recipe}\",le=\"0.1\"}}")));
    }
    assert!(!text.contains("int2(window"));
    assert_eq!(metric(&text, &outcome("exact")), 1.0);
    let rows = metric(&text, "cachalot_kv_replay_rows_total{for=\"shadow\"}");
    let prompt = calf().tokenizer.encode(&prompt(), cachalot_model::tokenizer::Specials::Parse).unwrap().len();
    // Twice prompt and answer, but for the token that opens a text and the last one.
    assert!(rows >= 2.0 * (prompt + 23) as f64 && rows <= 2.0 * (prompt + 24) as f64, "{rows} {prompt}");
    assert_eq!(metric(&text, "cachalot_kv_replay_seconds_count{for=\"shadow\"}"), 2.0);
    assert!(metric(&text, "cachalot_kv_replay_seconds_sum{for=\"shadow\"}") > 0.0);
}
