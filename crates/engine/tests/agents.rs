//! Messages in the prompts of several agents (KVCOMM), over the embedded model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use cachalot_engine::blend::Wish;
use cachalot_engine::{Blend, Engine, EngineConfig, Event, Request, Sampling, Usage};
use cachalot_kernels::Isa;
use common::{loaded, team};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

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

/// An agent's prompt with these messages.
fn prompt(agent: usize, messages: &[&[u32]], blend: &str) -> Request {
    let (mut prompt, mut chunks) = (text(60 + agent, 50), Vec::new());
    for (i, message) in messages.iter().enumerate() {
        chunks.push(prompt.len()..prompt.len() + message.len());
        prompt.extend_from_slice(message);
        prompt.extend(text(70 + agent + i, 40));
    }
    Request {
        prompt,
        max_tokens: Some(30),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        ignore_eos: true,
        wish: Wish { blend: Some(blend.parse::<Blend>().unwrap()), chunks, ..Wish::default() },
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

fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
        std::thread::yield_now();
    }
}

/// Bytes of the budget, when nothing is under way.
fn used(engine: &Engine) -> u64 {
    engine.handle().cache().ledger().used()
}

#[test]
fn messages_are_computed_until_anchors_foretell_them() {
    let engine = engine();
    let lengths = [120, 110, 100, 90];
    let messages: Vec<Vec<u32>> = lengths.iter().enumerate().map(|(i, &tokens)| text(2 + i, tokens)).collect();
    let mut found = Vec::new();
    for message in &messages {
        // The first agent has every message first.
        assert_eq!(answer(&engine, prompt(1, &[message], "kvcomm")).1.moved_tokens, 0);
        let (exact, _) = answer(&self::engine(), prompt(2, &[message], "exact"));
        let (ids, usage) = answer(&engine, prompt(2, &[message], "kvcomm"));
        if usage.moved_tokens == 0 {
            assert_eq!(ids, exact);
        }
        found.push(usage.moved_tokens);
    }
    // Two anchors are the fewest that foretell anything; then message and the text behind it are moved, but for the last token.
    assert_eq!(found, [0, 0, 100 + 39, 90 + 39]);
    // A longer message is nobody's to foretell, and becomes an anchor.
    let long = text(30, 150);
    answer(&engine, prompt(1, &[&long], "kvcomm"));
    assert_eq!(answer(&engine, prompt(2, &[&long], "kvcomm")).1.moved_tokens, 0);
    // None of it is another tenant's, or another agent's.
    let other = text(31, 95);
    answer(&engine, prompt(1, &[&other], "kvcomm"));
    assert_eq!(answer(&engine, prompt(3, &[&other], "kvcomm")).1.moved_tokens, 0);
    let foreign = Request { tenant: "other".into(), ..prompt(2, &[&other], "kvcomm") };
    assert_eq!(answer(&engine, foreign).1.moved_tokens, 0);
    assert_eq!(answer(&engine, prompt(2, &[&other], "kvcomm")).1.moved_tokens, 95 + 39);
    // What was moved is nobody's prefix.
    let (exact, usage) = answer(&engine, prompt(2, &[&other], "exact"));
    assert!(usage.cached_tokens <= 64, "{usage:?}");
    assert_eq!(exact, answer(&self::engine(), prompt(2, &[&other], "exact")).0);
}

#[test]
fn several_messages_are_moved_together_or_not_at_all() {
    let engine = engine();
    let message = |seed| text(seed, 80);
    let pairs: Vec<[Vec<u32>; 2]> = (0..4).map(|i| [message(2 + i), message(40 + i)]).collect();
    let mut moved = Vec::new();
    for [a, b] in &pairs {
        answer(&engine, prompt(1, &[a, b], "kvcomm"));
        moved.push(answer(&engine, prompt(2, &[a, b], "kvcomm")).1.moved_tokens);
    }
    assert_eq!(moved, [0, 0, 239, 239]);
    // One that nobody has read: all is computed, the other not moved for itself.
    let new = message(90);
    assert_eq!(answer(&engine, prompt(2, &[&pairs[0][1], &new], "kvcomm")).1.moved_tokens, 0);
    // A share of the largest entropy that nothing is above.
    let gamma = "kvcomm(gamma=1)";
    assert_eq!(answer(&engine, prompt(2, &[&pairs[1][1], &pairs[0][0]], gamma)).1.moved_tokens, 239);
}

#[test]
fn messages_near_the_end_become_anchors_too() {
    let engine = engine();
    let mut moved = Vec::new();
    for message in [text(2, 100), text(3, 100), text(4, 100)] {
        // The block that the message ends in is never full.
        let short = |agent| Request { max_tokens: Some(1), ..prompt(agent, &[&message], "kvcomm(gamma=1)") };
        assert_eq!(answer(&engine, short(1)).1.moved_tokens, 0);
        moved.push(answer(&engine, short(2)).1.moved_tokens);
    }
    assert_eq!(moved, [0, 0, 100 + 39]);
}

/// Many prompts at once, some given up, of tenants and methods, with memory for few: all end, and nothing is left when the
/// tenants are gone.
#[test]
fn nothing_is_left_of_a_crowd() {
    let config = EngineConfig { kv_budget_bytes: 0, max_batch_tokens: 100, ..EngineConfig::default() };
    let geometry = loaded().model.layer_geometry();
    let bytes = self::engine().handle().cache().bytes_for_tokens(1100);
    let config = EngineConfig { kv_budget_bytes: bytes, ..config };
    let cache = config.cache(geometry, team(2), Isa::detect()).unwrap();
    let engine = Engine::start(loaded().model.clone(), loaded().tokenizer.clone(), cache, config);
    let mut seed = 7u64;
    let mut below = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    let methods = ["ape", "kvcomm", "kvcomm(anchors=2)", "exact", "cacheblend", "ape(temperature=0.5, scale=1)"];
    let recipes = ["f16", "int8(window=64)", "f32"];
    let mut generations = Vec::new();
    for _ in 0..90 {
        let messages = [text(below(6), 100 - below(3) * 8), text(6 + below(4), 90)];
        let parts: Vec<&[u32]> = messages[..1 + below(2)].iter().map(Vec::as_slice).collect();
        let request = Request {
            tenant: ["one", "two"][below(2)].into(),
            kv: Some(recipes[below(3)].into()),
            n: 1 + below(8) / 7,
            max_tokens: Some(5),
            ..prompt(below(3), &parts, methods[below(6)])
        };
        generations.push((below(6) == 0, engine.handle().submit(request).unwrap()));
        if generations.len() < 8 {
            continue;
        }
        let (given_up, mut generation) = generations.remove(below(8));
        if given_up {
            drop(generation);
            continue;
        }
        loop {
            match generation.next_blocking().expect("an end") {
                Event::Error(error) => panic!("{error}"),
                Event::Done(usage) => break assert!(usage.completion_tokens >= 5),
                _ => {}
            }
        }
    }
    drop(generations);
    let ledger = engine.handle().cache().ledger().clone();
    assert!(ledger.peak() <= ledger.budget());
    for tenant in ["one", "two"] {
        wait(engine.handle().delete_tenant(tenant)).unwrap();
    }
    assert_eq!(used(&engine), 0);
}

#[test]
fn anchors_go_with_their_tenant_and_are_in_the_account() {
    let engine = engine();
    let of = |tenant: &str, agent, message: &[u32]| Request {
        tenant: tenant.into(),
        ..prompt(agent, &[message], "kvcomm(anchors=2)")
    };
    let (a, b) = (text(2, 100), text(3, 90));
    for message in [&a, &b] {
        answer(&engine, of("one", 1, message));
        answer(&engine, of("one", 2, message));
    }
    let channels: usize = loaded().model.layer_geometry().iter().skip(1).map(|g| 2 * g.kv_heads * g.head_dim).sum();
    // Base and difference of both messages, differences of what follows them, in half floats.
    let anchors = (2 * channels * (2 * 190 + 2 * 40)) as u64;
    // As much again without anchors: the same prompts.
    let plain = self::engine();
    for message in [&a, &b] {
        for agent in [1, 2] {
            answer(&plain, Request { wish: Wish::default(), ..of("one", agent, message) });
        }
    }
    assert_eq!(used(&engine), used(&plain) + anchors);
    let bytes = used(&engine);
    let deletion = wait(engine.handle().delete_tenant("one")).unwrap();
    assert_eq!((deletion.pool.bytes, used(&engine)), (bytes, 0));
}
