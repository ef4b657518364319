//! Stretches of prompts that were computed in other contexts, over the embedded model.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use cachalot_engine::blend::{Before, EditId, Wish};
use cachalot_engine::{Blend, Engine, EngineConfig, Event, Request, Sampling, Usage};
use cachalot_kernels::Isa;
use common::{loaded, team};
use std::ops::Range;

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

/// A prompt of parts, of which some are marked.
fn prompt(parts: &[(&[u32], bool)]) -> (Vec<u32>, Vec<Range<usize>>) {
    let (mut tokens, mut chunks) = (Vec::new(), Vec::new());
    for (part, marked) in parts {
        let start = tokens.len();
        tokens.extend_from_slice(part);
        if *marked {
            chunks.push(start..tokens.len());
        }
    }
    (tokens, chunks)
}

fn request((prompt, chunks): (Vec<u32>, Vec<Range<usize>>), blend: Option<&str>) -> Request {
    let blend = blend.map(|blend| blend.parse::<Blend>().unwrap());
    Request {
        prompt,
        max_tokens: Some(12),
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

struct Parts {
    system: Vec<u32>,
    chunks: [Vec<u32>; 4],
    question: Vec<u32>,
}

fn parts() -> Parts {
    let chunks = [(2, 150), (3, 90), (4, 131), (5, 77)].map(|(seed, tokens)| text(seed, tokens));
    Parts { system: text(1, 20), chunks, question: text(6, 70) }
}

#[test]
fn all_rows_computed_again_answer_as_a_prompt_computed_whole() {
    let Parts { system, chunks: [a, b, c, new], question } = parts();
    for recipe in ["f16", "int8(window=64)", "snapkv(budget=0.5, window=8)"] {
        let engine = engine();
        let of = |parts: &[(&[u32], bool)], blend: Option<&str>| Request {
            kv: Some(recipe.to_owned()),
            ..request(prompt(parts), blend)
        };
        let first = [(&system[..], false), (&a, true), (&b, true), (&c, true), (&question, false)];
        assert_eq!(answer(&engine, of(&first, None)).1.moved_tokens, 0);
        let second = [(&system[..], false), (&c, true), (&new, true), (&a, true), (&question, false)];
        let (mended, usage) = answer(&engine, of(&second, Some("cacheblend(share=1)")));
        assert_eq!(usage.moved_tokens, a.len() + c.len(), "{recipe}");
        assert!(usage.cached_tokens < system.len() + 64);
        // What was put together is nobody's prefix.
        let (exact, usage) = answer(&engine, of(&second, None));
        assert!(usage.moved_tokens == 0 && usage.cached_tokens <= system.len(), "{recipe}: {usage:?}");
        if recipe != "int8(window=64)" {
            assert_eq!(mended, exact, "{recipe}");
        }
    }
}

#[test]
fn stretches_are_found_wherever_they_were_computed_and_by_their_tenant_alone() {
    let Parts { system, chunks: [a, b, c, _], question } = parts();
    let engine = engine();
    let first = prompt(&[(&system, false), (&a, true), (&b, true), (&question, false)]);
    answer(&engine, request(first, None));
    let methods = ["cacheblend", "cacheblend-gradual", "kvshare", "pie", "cacheblend(share=0)"];
    for (i, method) in methods.into_iter().enumerate() {
        let lead = text(20 + i, 5);
        let second = prompt(&[(&lead, false), (&b, true), (&c, true), (&a, true), (&question, false)]);
        let (ids, usage) = answer(&engine, request(second.clone(), Some(method)));
        // The middle one was new once, and others find it since.
        let moved = if method == "cacheblend" { a.len() + b.len() } else { a.len() + b.len() + c.len() };
        assert_eq!((usage.moved_tokens, ids.len()), (moved, 12), "{method}");
        let other = Request { tenant: method.into(), ..request(second.clone(), Some(method)) };
        assert_eq!(answer(&engine, other.clone()).1.moved_tokens, 0, "{method}");
        let exact = answer(&engine, request(second, Some("exact")));
        assert_eq!(exact.1.moved_tokens, 0);
        // Nothing of it reached anybody who asked for exact answers.
        let (fresh, alone) = (answer(&engine, other), exact.0);
        assert_eq!(fresh.0, alone, "{method}");
    }
}

#[test]
fn prompts_without_marks_are_cut_by_their_content() {
    let (body, question) = (text(9, 700), text(6, 15));
    let engine = engine();
    let auto = |tokens: Vec<u32>| {
        let mut request = request((tokens, Vec::new()), Some("cacheblend"));
        request.wish.blend.as_mut().unwrap().auto = true;
        request
    };
    assert_eq!(answer(&engine, auto([&text(8, 30)[..], &body, &question].concat())).1.moved_tokens, 0);
    let moved = answer(&engine, auto([&text(7, 50)[..], &body, &question].concat())).1.moved_tokens;
    assert!(moved > 100 && moved <= body.len(), "{moved}");
}

#[test]
fn an_edited_prompt_computes_its_edit_and_what_deviates() {
    let engine = engine();
    let before = text(3, 600);
    answer(&engine, request((before.clone(), Vec::new()), None));
    let methods = [("pie", false), ("cacheblend(share=1)", true), ("cacheblend", false)];
    for (i, (method, exact)) in methods.into_iter().enumerate() {
        let after = [&before[..200], &text(30 + i, 9), &before[230..]].concat();
        let mut edited = request((after.clone(), Vec::new()), Some(method));
        edited.wish.before = Some(Before { tokens: before.clone(), edit: None });
        let (ids, usage) = answer(&engine, edited);
        // All but the last token, which is computed for what comes after it; whole blocks of the beginning are shared.
        assert_eq!(usage.cached_tokens + usage.moved_tokens, after.len() - 9 - 1, "{method}: {usage:?}");
        assert!(usage.moved_tokens >= 369, "{method}");
        // Who comes after the same edit goes on from it; nobody else does.
        let id = EditId::of(&before, None, &after, method);
        let mut edited = request((after.clone(), Vec::new()), Some(method));
        edited.wish.before = Some(Before { tokens: before.clone(), edit: None });
        edited.wish.edit = Some(id);
        assert_eq!(answer(&engine, edited).0, ids, "{method}");
        let more = [&after[..], &text(8, 20)].concat();
        let mut next = request((more.clone(), Vec::new()), None);
        next.wish.edit = Some(id);
        assert!(answer(&engine, next).1.cached_tokens >= after.len() / 64 * 64, "{method}");
        assert!(answer(&engine, request((more, Vec::new()), None)).1.cached_tokens <= 200 + 64, "{method}");
        if exact {
            let fresh = self::engine();
            assert_eq!(ids, answer(&fresh, request((after.clone(), Vec::new()), None)).0);
        }
    }
}

#[test]
fn chunks_outside_the_prompt_are_refused() {
    let engine = engine();
    for chunks in [vec![1..2, 5..50], vec![5..9, 8..10], vec![1..2, 3..3]] {
        let refused = engine.handle().submit(request((text(1, 20), chunks), Some("cacheblend"))).err();
        assert!(refused.unwrap().to_string().contains("kv.chunks"));
    }
}
