use std::sync::atomic::AtomicUsize;

use super::*;
use crate::testing::{ByteVocabulary, HashDecoder, VOCAB, cache, expected};
use crate::{ConstraintSpec, Event, FinishReason, Sampling};

fn config() -> EngineConfig {
    EngineConfig { max_batch: 4, max_batch_tokens: 64, queue: 8, ..EngineConfig::default() }
}

fn engine(decoder: HashDecoder, config: EngineConfig) -> Engine {
    Engine::start(Arc::new(decoder), Arc::new(ByteVocabulary::new(&[])), cache(200), config)
}

fn request(text: &str, max_tokens: usize) -> Request {
    Request {
        prompt: text.bytes().map(u32::from).collect(),
        max_tokens: Some(max_tokens),
        sampling: Sampling { seed: Some(9), ..Sampling::default() },
        ignore_eos: true,
        ..Request::default()
    }
}

fn collect(generation: &mut Generation) -> (Vec<u32>, String, Vec<Event>) {
    let (mut ids, mut all, mut rest) = (Vec::new(), String::new(), Vec::new());
    while let Some(event) = generation.next_blocking() {
        match event {
            Event::Token { id, text, .. } => {
                ids.push(id);
                all += &text;
            }
            Event::PromptProgress { .. } => {}
            other => rest.push(other),
        }
    }
    (ids, all, rest)
}

#[test]
fn answers_come_through_the_channel() {
    let engine = engine(HashDecoder::new(300), config());
    let handle = engine.handle();
    let requests: Vec<Request> = (0..6).map(|i| request(&"hello".repeat(i + 1), 20)).collect();
    let mut generations: Vec<Generation> = requests.iter().map(|r| handle.submit(r.clone()).unwrap()).collect();
    for (generation, request) in generations.iter_mut().zip(&requests) {
        let (ids, text, rest) = collect(generation);
        let whole = expected(&HashDecoder::new(300), request, 0, 300);
        assert_eq!((ids, text), (whole.ids, whole.text));
        assert!(matches!(rest[..], [Event::Finished { reason: FinishReason::Length, .. }, Event::Done(_)]), "{rest:?}");
    }
    engine.shutdown();
    let stats = handle.stats();
    assert_eq!((stats.queued, stats.running, stats.kv_bytes, stats.generated_tokens), (0, 0, 0, 120));
    assert_eq!(handle.submit(request("x", 1)).err(), Some(EngineError::ShuttingDown));
}

#[test]
fn bad_requests_are_refused_at_the_door() {
    let engine = engine(HashDecoder::new(100), config());
    let handle = engine.handle();
    assert_eq!(handle.submit(request("", 1)).err(), Some(EngineError::EmptyPrompt));
    let long = handle.submit(request(&"x".repeat(100), 1)).err();
    assert_eq!(long, Some(EngineError::PromptTooLong { prompt: 100, context: 100 }));
    let constraint = Some(ConstraintSpec::Regex("(".into()));
    let bad = handle.submit(Request { constraint, ..request("x", 1) }).err().unwrap();
    assert_eq!(bad.kind(), crate::ErrorKind::Request);
    assert_eq!(handle.stats().queued, 0, "no place is lost");
    engine.shutdown();
}

/// A decoder whose steps wait until they are let through.
fn gated() -> (HashDecoder, Sender<()>) {
    let (open, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let mut decoder = HashDecoder::new(300);
    decoder.before = Box::new(move |_| {
        // A closed gate channel lets everything through.
        let _ = gate.lock().unwrap().recv();
        Ok(())
    });
    (decoder, open)
}

#[test]
fn the_queue_is_bounded() {
    let (decoder, open) = gated();
    let engine = engine(decoder, EngineConfig { max_batch: 1, queue: 2, ..config() });
    let handle = engine.handle();
    let mut first = handle.submit(request("first", 3)).unwrap();
    // Once it has left the queue, two places are free.
    while !handle.shared.queue.is_empty() {
        std::thread::yield_now();
    }
    let (_second, third) = (handle.submit(request("b", 1)).unwrap(), handle.submit(request("c", 1)).unwrap());
    assert_eq!(handle.submit(request("d", 1)).err(), Some(EngineError::QueueFull { queued: 2, limit: 2 }));
    drop(third);
    drop(open);
    assert_eq!(collect(&mut first).0.len(), 3);
    engine.shutdown();
    assert_eq!(handle.shared.queue.len(), 0);
}

#[test]
fn shutdown_finishes_what_was_accepted() {
    let (decoder, open) = gated();
    let engine = engine(decoder, config());
    let handle = engine.handle();
    let mut generations: Vec<Generation> = (0..6).map(|_| handle.submit(request("hello", 10)).unwrap()).collect();
    let closing = std::thread::spawn(move || engine.shutdown());
    while handle.shared.state.load(SeqCst) == OPEN {
        std::thread::yield_now();
    }
    assert_eq!(handle.submit(request("late", 1)).err(), Some(EngineError::ShuttingDown));
    drop(open);
    closing.join().unwrap();
    for generation in &mut generations {
        let (ids, _, rest) = collect(generation);
        assert_eq!(ids.len(), 10);
        assert!(matches!(rest.last(), Some(Event::Done(_))));
    }
}

#[test]
fn impatient_shutdown_and_drop_cancel() {
    for patient in [true, false] {
        let (decoder, open) = gated();
        let engine = engine(decoder, config());
        let handle = engine.handle();
        let mut generation = handle.submit(request("hello", 200)).unwrap();
        (0..3).for_each(|_| open.send(()).unwrap());
        let closing = std::thread::spawn(move || match patient {
            true => engine.shutdown_within(Duration::ZERO),
            false => drop(engine),
        });
        while handle.shared.state.load(SeqCst) != ABORTING {
            std::thread::yield_now();
        }
        drop(open);
        closing.join().unwrap();
        let (ids, _, rest) = collect(&mut generation);
        assert!(ids.len() < 200);
        assert!(
            matches!(rest[..], [Event::Finished { reason: FinishReason::Cancelled, .. }, Event::Done(_)]),
            "{rest:?}"
        );
        assert_eq!(handle.stats().kv_bytes, 0);
    }
}

#[test]
fn a_panic_in_the_model_ends_its_batch_and_nothing_else() {
    let mut decoder = HashDecoder::new(300);
    let steps = AtomicUsize::new(0);
    decoder.before = Box::new(move |tokens| {
        assert!(!tokens.contains(&u32::from(b'!')) || steps.fetch_add(1, SeqCst) > 0, "on purpose");
        Ok(())
    });
    let engine = engine(decoder, config());
    let handle = engine.handle();
    let (ids, _, rest) = collect(&mut handle.submit(request("!", 5)).unwrap());
    assert!(ids.is_empty());
    let [
        Event::Error(EngineError::Panicked(what)),
        Event::Finished { reason: FinishReason::Error, .. },
        Event::Done(_),
    ] = &rest[..]
    else {
        panic!("{rest:?}")
    };
    assert!(what.contains("on purpose"));
    assert_eq!(collect(&mut handle.submit(request("!", 5)).unwrap()).0.len(), 5, "the engine goes on");
    engine.shutdown();
    assert_eq!(handle.stats().kv_bytes, 0);
}

#[test]
fn dropping_a_generation_stops_it() {
    let engine = engine(HashDecoder::new(100_000), config());
    let handle = engine.handle();
    let mut generation = handle.submit(request("forever", 10_000)).unwrap();
    for _ in 0..5 {
        assert!(generation.next_blocking().is_some());
    }
    drop(generation);
    // Would take its ten thousand tokens otherwise.
    engine.shutdown();
    assert!(handle.stats().generated_tokens < 5_000, "{:?}", handle.stats());
}

#[test]
fn cancelling_keeps_the_events_coming_to_the_end() {
    let engine = engine(HashDecoder::new(100_000), config());
    let mut generation = engine.handle().submit(request("forever", 10_000)).unwrap();
    generation.next_blocking();
    generation.cancel();
    let (ids, _, rest) = collect(&mut generation);
    assert!(ids.len() < 5_000);
    assert!(matches!(rest[..], [Event::Finished { reason: FinishReason::Cancelled, .. }, Event::Done(_)]));
}

#[test]
fn a_constraint_shapes_the_answer() {
    let engine = engine(HashDecoder::new(1000), config());
    let schema = serde_json::json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150}}, "required": ["name", "age"],
        "additionalProperties": false});
    let handle = engine.handle();
    for seed in 0..10 {
        let sampling = Sampling { seed: Some(seed), ..Sampling::default() };
        let constraint = Some(ConstraintSpec::JsonSchema(schema.clone()));
        // The model would rather write letters; more than two blanks in a row is not likely.
        let mut generation = handle.submit(Request { constraint, sampling, n: 2, ..request("json", 400) }).unwrap();
        let mut texts = [String::new(), String::new()];
        while let Some(event) = generation.next_blocking() {
            match event {
                Event::Token { choice, text, .. } => texts[choice] += &text,
                Event::Finished { reason, .. } => assert_eq!(reason, FinishReason::Stop, "{texts:?}"),
                Event::Error(error) => panic!("{error}"),
                _ => {}
            }
        }
        for text in texts {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(value["age"].as_u64().unwrap() <= 150 && value["name"].as_str().unwrap().chars().count() <= 8);
        }
    }
    engine.shutdown();
}

#[test]
fn logprobs_are_those_of_the_model() {
    let engine = engine(HashDecoder::new(300), config());
    let spec = Request { logprobs: Some(3), sampling: Sampling::greedy(), ..request("hello", 5) };
    let mut generation = engine.handle().submit(spec).unwrap();
    let mut tokens = 0;
    while let Some(event) = generation.next_blocking() {
        if let Event::Token { id, logprob, .. } = event {
            let logprob = logprob.unwrap();
            tokens += 1;
            assert_eq!((logprob.top.len(), logprob.top[0].id, logprob.top[0].logprob), (3, id, logprob.logprob));
            assert!(logprob.logprob < 0.0 && logprob.logprob > -(VOCAB as f32).ln());
        }
    }
    assert_eq!(tokens, 5);
}

#[test]
fn without_a_seed_two_answers_differ() {
    let engine = engine(HashDecoder::new(300), config());
    let handle = engine.handle();
    let free = Request { sampling: Sampling { temperature: 2.0, ..Sampling::default() }, ..request("hello", 40) };
    let (a, b) = (collect(&mut handle.submit(free.clone()).unwrap()).0, collect(&mut handle.submit(free).unwrap()).0);
    assert_ne!(a, b);
}

#[tokio::test]
async fn asynchronous_readers_get_the_same() {
    let engine = engine(HashDecoder::new(300), config());
    let mut generation = engine.handle().submit(request("hello", 12)).unwrap();
    let mut ids = Vec::new();
    while let Some(event) = generation.next().await {
        if let Event::Token { id, .. } = event {
            ids.push(id);
        }
    }
    assert_eq!(ids, expected(&HashDecoder::new(300), &request("hello", 12), 0, 300).ids);
    assert_eq!(generation.next().await, None);
}
