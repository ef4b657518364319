//! Prompts whose marked parts are read side by side (APE), over the embedded model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use cachalot_engine::blend::Wish;
use cachalot_engine::{Blend, Engine, EngineConfig, Event, Request, Sampling, Usage};
use cachalot_kernels::Isa;
use common::{loaded, team};
use std::ops::Range;

fn engine(budget: u64) -> Engine {
    let config = EngineConfig { kv_budget_bytes: budget, max_batch_tokens: 100, ..EngineConfig::default() };
    let cache = config.cache(loaded().model.layer_geometry(), team(2), Isa::detect()).unwrap();
    Engine::start(loaded().model.clone(), loaded().tokenizer.clone(), cache, config)
}

/// Tokens that read like text, as many as wanted.
fn text(seed: usize, tokens: usize) -> Vec<u32> {
    let vocab = loaded().model.spec.vocab;
    (0..tokens).map(|i| 100 + ((i * i * 31 + i * seed * 17 + seed * 101) % (vocab - 200)) as u32).collect()
}

/// A prompt of a system text, documents behind a word each, and a question.
fn prompt(documents: &[&[u32]], question: &[u32]) -> (Vec<u32>, Vec<Range<usize>>) {
    let word = text(50, 3);
    let (mut tokens, mut chunks) = (text(1, 40), Vec::new());
    for document in documents {
        tokens.extend_from_slice(&word);
        chunks.push(tokens.len()..tokens.len() + document.len());
        tokens.extend_from_slice(document);
    }
    tokens.extend_from_slice(question);
    (tokens, chunks)
}

fn request((prompt, chunks): (Vec<u32>, Vec<Range<usize>>), blend: &str) -> Request {
    let blend = Some(blend.parse::<Blend>().unwrap());
    Request {
        prompt,
        max_tokens: Some(12),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        ignore_eos: true,
        wish: Wish { blend, chunks, ..Wish::default() },
        ..Request::default()
    }
}

fn answers(engine: &Engine, requests: Vec<Request>) -> Vec<(Vec<Vec<u32>>, Usage)> {
    let submit = |request: Request| (request.n.max(1), engine.handle().submit(request).unwrap());
    let generations: Vec<_> = requests.into_iter().map(submit).collect();
    let answer = |(n, mut generation): (usize, cachalot_engine::Generation)| {
        let mut ids = vec![Vec::new(); n];
        while let Some(event) = generation.next_blocking() {
            match event {
                Event::Token { choice, id, .. } => ids[choice].push(id),
                Event::Error(error) => panic!("{error}"),
                Event::Done(usage) => return (ids, usage),
                _ => {}
            }
        }
        panic!("no end")
    };
    generations.into_iter().map(answer).collect()
}

fn answer(engine: &Engine, request: Request) -> (Vec<u32>, Usage) {
    let (ids, usage) = answers(engine, vec![request]).remove(0);
    (ids.into_iter().next().unwrap(), usage)
}

#[test]
fn one_document_answers_as_a_prompt_computed_whole() {
    let (document, question) = (text(2, 150), text(6, 30));
    let engine = engine(64 << 20);
    let of = |blend| request(prompt(&[&document], &question), blend);
    let (ids, usage) = answer(&engine, of("ape(temperature=1, scale=1)"));
    assert_eq!(usage.moved_tokens, document.len());
    // It is known from the start as the prompt that it is.
    let (exact, usage) = answer(&engine, of("exact"));
    assert_eq!((exact, usage.moved_tokens), (ids, 0));
    assert_eq!(usage.cached_tokens, 40 + 3 + document.len());
}

#[test]
fn documents_serve_any_subset_and_order_whoever_asks_for_them() {
    let (a, b, c, question) = (text(2, 150), text(3, 90), text(4, 131), text(6, 30));
    for recipe in ["f16", "int8(window=64)"] {
        let engine = engine(64 << 20);
        let of = |documents: &[&[u32]], blend| Request {
            kv: Some(recipe.to_owned()),
            ..request(prompt(documents, &question), blend)
        };
        let (first, usage) = answer(&engine, of(&[&a, &b, &c], "ape"));
        let all = a.len() + b.len() + c.len() + 2 * 3;
        assert_eq!((usage.moved_tokens, usage.completion_tokens), (all, 12));
        // The same prompt again has the same bits, alone, in company, or with several choices.
        let requests = vec![
            of(&[&c, &a], "ape"),
            Request { n: 2, ..of(&[&a, &b, &c], "ape") },
            of(&[&a, &b, &c], "ape"),
            of(&[&b], "exact"),
        ];
        let found = answers(&engine, requests);
        assert!(found[1].0.iter().chain(&found[2].0).all(|ids| *ids == first), "{recipe}");
        assert_eq!(found[0].1.moved_tokens, a.len() + c.len() + 3);
        assert_eq!(found[3].1.moved_tokens, 0);
        // Nobody computed anything but the questions, the first of a step in whole blocks.
        assert!(found[3].1.cached_tokens >= (43 + b.len()) / 64 * 64, "{recipe}: {:?}", found[3].1);
        // Temperatures are of the question alone.
        let (other, usage) = answer(&engine, of(&[&a, &b, &c], "ape(temperature=0.3, scale=2)"));
        assert_eq!(usage.moved_tokens, all);
        assert_ne!(other, first);
        // What was read side by side is nobody's prefix, and nothing of it is another tenant's.
        let exact = answer(&engine, of(&[&a, &b, &c], "exact"));
        let alone = answer(&self::engine(64 << 20), of(&[&a, &b, &c], "exact"));
        assert_eq!(exact.0, alone.0, "{recipe}");
        let other = Request { tenant: "other".into(), ..of(&[&a, &b, &c], "ape") };
        let (ids, usage) = answer(&engine, other);
        assert_eq!(ids, first);
        // Begun with what it has just computed itself, where a query there reads it as it is kept.
        assert_eq!(usage.cached_tokens, if recipe == "f16" { 43 } else { 0 });
    }
}

#[test]
fn what_cannot_be_read_side_by_side_is_computed_whole() {
    let (a, b, question) = (text(2, 150), text(3, 90), text(6, 30));
    let engine = engine(64 << 20);
    let parts = || prompt(&[&a, &b], &question);
    let whole = answer(&engine, request(parts(), "exact")).0;
    // Nothing follows the documents, or a recipe reduces what was read.
    let nothing = prompt(&[&a, &b], &[]);
    assert_eq!(answer(&engine, request(nothing, "ape")).1.moved_tokens, 0);
    let reduced = Request { kv: Some("snapkv(budget=0.5, window=8)".into()), ..request(parts(), "ape") };
    assert_eq!(answer(&engine, reduced).1.moved_tokens, 0);
    let unmarked = (parts().0, Vec::new());
    assert_eq!(answer(&engine, request(unmarked, "ape")).0, whole);
}

#[test]
fn little_memory_costs_time_and_nothing_else() {
    let documents: Vec<Vec<u32>> = (0..6).map(|i| text(20 + i, 100 + 10 * i)).collect();
    let question = text(6, 30);
    let parts = |order: &[usize]| {
        let documents: Vec<&[u32]> = order.iter().map(|&i| &documents[i][..]).collect();
        request(prompt(&documents, &question), "ape")
    };
    let orders = [[0, 1, 2], [3, 4, 5], [2, 1, 0], [5, 0, 3]];
    let large = engine(64 << 20);
    let expected: Vec<_> = orders.iter().map(|order| answer(&large, parts(order)).0).collect();
    let tokens = parts(&orders[1]).prompt.len() + 13;
    let small = engine(large.handle().cache().bytes_for_tokens(2 * tokens + 128));
    let found = answers(&small, orders.iter().map(|order| parts(order)).collect());
    for ((ids, usage), (expected, order)) in found.iter().zip(expected.iter().zip(orders)) {
        if usage.moved_tokens > 0 {
            assert_eq!(ids[0], *expected, "{order:?}");
        }
        assert_eq!(usage.completion_tokens, 12);
    }
}
