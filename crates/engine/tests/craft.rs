//! Chunks by what stood before them, moved rows that are computed again while an answer is generated, and what is said of both
//! beforehand, over the embedded model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use cachalot_engine::blend::Wish;
use cachalot_engine::reuse::Moved;
use cachalot_engine::{Blend, Engine, EngineConfig, Event, Request, Sampling, Scope, Usage};
use cachalot_kernels::Isa;
use common::{loaded, team};

fn engine() -> Engine {
    let config = EngineConfig { kv_budget_bytes: 64 << 20, max_batch_tokens: 100, ..EngineConfig::default() };
    let cache = config.cache(loaded().model.layer_geometry(), team(2), Isa::detect()).unwrap();
    Engine::start(loaded().model.clone(), loaded().tokenizer.clone(), cache, config)
}

/// Tokens that read like text, as many as wanted.
fn text(seed: usize, tokens: usize) -> Vec<u32> {
    let vocab = loaded().model.spec.vocab;
    (0..tokens).map(|i| 100 + ((i * i * 31 + i * seed * 17 + seed * 101) % (vocab - 200)) as u32).collect()
}

/// Marked parts behind a few tokens of their own, and a question.
fn request(lead: usize, parts: &[&[u32]], blend: &str) -> Request {
    let (mut prompt, mut chunks) = (text(lead, 9), Vec::new());
    for part in parts {
        chunks.push(prompt.len()..prompt.len() + part.len());
        prompt.extend_from_slice(part);
    }
    prompt.extend(text(6, 30));
    let blend = Some(blend.parse::<Blend>().unwrap());
    Request {
        prompt,
        max_tokens: Some(24),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        ignore_eos: true,
        wish: Wish { blend, chunks, ..Wish::default() },
        ..Request::default()
    }
}

fn answer(engine: &Engine, request: Request) -> (Vec<u32>, Usage) {
    let mut generation = engine.handle().submit(request).unwrap();
    let mut ids = Vec::new();
    while let Some(event) = generation.next_blocking() {
        match event {
            Event::Token { id, .. } => ids.push(id),
            Event::Error(error) => panic!("{error}"),
            Event::Done(usage) => return (ids, usage),
            _ => {}
        }
    }
    panic!("no end")
}

fn explain(engine: &Engine, request: &Request) -> Moved {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let scope = Scope { tenant: &request.tenant, ..Scope::default() };
    let explained = engine.handle();
    let explained = explained.explain_with(request.prompt.clone(), scope, request.wish.clone());
    runtime.block_on(explained).unwrap().moved.unwrap_or_default()
}

#[test]
fn rows_that_are_said_to_be_computed_are_and_an_exact_answer_stays_exact() {
    let [a, b, c] = [(2, 150), (3, 90), (4, 131)].map(|(seed, tokens)| text(seed, tokens));
    let engine = engine();
    answer(&engine, request(1, &[&a, &b, &c], "cache-craft"));
    let mut last = usize::MAX;
    for (lead, alpha) in [(10, 1.0), (11, 0.5), (12, 0.0)] {
        let turned = request(lead, &[&c, &a, &b], &format!("cache-craft(alpha={alpha})"));
        let said = explain(&engine, &turned);
        assert!(said.chunks.iter().all(|chunk| chunk.variants >= 1 && chunk.rows.is_some()), "{said:?}");
        let (_, usage) = answer(&engine, turned.clone());
        assert_eq!((usage.moved_tokens, usage.recomputed_tokens), (said.moved_tokens, said.recomputed_tokens));
        assert_eq!(usage.moved_tokens, a.len() + b.len() + c.len());
        assert!(usage.recomputed_tokens < last, "fewer with a smaller factor");
        last = usage.recomputed_tokens;
        let stranger = Request { tenant: "other".into(), ..turned.clone() };
        assert_eq!(explain(&engine, &stranger).moved_tokens, 0);
        // Nothing of it reaches anybody who asks for exact answers.
        let exact = request(lead, &[&c, &a, &b], "exact");
        assert_eq!(explain(&engine, &exact), Moved::default());
        let fresh = self::engine();
        assert_eq!(answer(&engine, exact.clone()).0, answer(&fresh, exact).0);
    }
    assert_eq!(last, 0);
}

#[test]
fn other_methods_say_the_most_that_they_may_compute() {
    let [a, b] = [(2, 150), (3, 90)].map(|(seed, tokens)| text(seed, tokens));
    let engine = engine();
    answer(&engine, request(1, &[&a, &b], "exact"));
    for (method, rows) in [("cacheblend(share=0.1)", 24), ("kvshare(share=0.1)", 24), ("pie", 0)] {
        let asked = request(20 + rows, &[&b, &a], method);
        let said = explain(&engine, &asked);
        assert_eq!((said.moved_tokens, said.recomputed_tokens), (240, rows), "{method}");
        assert!(said.chunks.iter().all(|chunk| chunk.rows.is_none()));
        let usage = answer(&engine, asked).1;
        assert!(usage.moved_tokens == 240 && usage.recomputed_tokens <= rows, "{method}: {usage:?}");
    }
}

#[test]
fn an_answer_computes_moved_rows_again_where_it_is_asked_to() {
    let [a, b] = [(2, 150), (3, 90)].map(|(seed, tokens)| text(seed, tokens));
    let engine = engine();
    answer(&engine, request(1, &[&a, &b], "exact"));
    let ask = |method: &str| answer(&engine, request(30, &[&b, &a], method));
    let (plain, without) = ask("kvshare(share=0.05)");
    let (_, with) = ask("kvshare(share=0.05, every=6, rows=7)");
    assert_eq!(with.moved_tokens, without.moved_tokens);
    // 24 tokens: three times, once six were generated; the last is not gone on from.
    assert_eq!(with.recomputed_tokens, without.recomputed_tokens + 3 * 7);
    assert_eq!(ask("kvshare(share=0.05, every=100, rows=7)").0, plain, "not yet");
    assert_eq!(ask("kvshare(share=0.05, every=6, rows=0)").0, plain, "switched off");
    // The same with company, and twice.
    let twice = [0, 1].map(|_| ask("kvshare(share=0.05, every=6, rows=7)").0);
    assert_eq!(twice[0], twice[1]);
    // Recipes that encode what leaves the window go without.
    for recipe in ["int8(window=64)", "snapkv(budget=0.5, window=8)"] {
        let encoded = |lead: usize, method: &str| {
            let own = Request { kv: Some(recipe.into()), ..request(lead, &[&b, &a], method) };
            answer(&engine, own).1
        };
        encoded(40, "exact");
        let usage = encoded(41, "kvshare(share=0.05, every=6, rows=7)");
        assert!(usage.moved_tokens == 240 && usage.recomputed_tokens <= 12, "{recipe}: {usage:?}");
    }
    // Choices share their pages: none of them is written.
    let several = Request { n: 3, ..request(50, &[&b, &a], "kvshare(share=0.05, every=6, rows=7)") };
    let usage = answer(&engine, several).1;
    assert!(usage.moved_tokens == 240 && usage.completion_tokens == 72);
}

#[test]
fn an_edit_has_no_chunks_for_this_method() {
    let engine = engine();
    let mut edited = request(1, &[], "cache-craft");
    edited.wish.before = Some(cachalot_engine::blend::Before { tokens: text(2, 50), edit: None });
    let refused = engine.handle().submit(edited).err().unwrap();
    assert!(refused.to_string().contains("kv.reuse"), "{refused}");
}
