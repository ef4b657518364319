//! Random requests, budgets, batches and cancellations: nobody's answer may depend on any of it.

use super::*;
use crate::testing::{Dice, expected};

fn random_request(dice: &mut Dice) -> Request {
    let sampling = Sampling {
        temperature: [0.0, 0.7, 1.3][dice.below(3)],
        top_k: [0, 5][dice.below(2)],
        top_p: [1.0, 0.9][dice.below(2)],
        min_p: [0.0, 0.05][dice.below(2)],
        repetition_penalty: [1.0, 1.3][dice.below(2)],
        frequency_penalty: [0.0, 0.4][dice.below(2)],
        seed: Some(dice.below(1 << 40) as u64),
        ..Sampling::default()
    };
    let length = [1, 3, 64, 65, 30, 150][dice.below(6)] + dice.below(20);
    Request {
        prompt: (0..length).map(|_| dice.below(256) as u32).collect(),
        max_tokens: [Some(dice.below(150)), Some(8), Some(150)][dice.below(3)],
        stop: if dice.chance(0.3) { vec!["q".into(), "ab".into()] } else { Vec::new() },
        stop_tokens: if dice.chance(0.2) { vec![b'z'.into()] } else { Vec::new() },
        n: [1, 1, 1, 2, 4][dice.below(5)],
        ignore_eos: dice.chance(0.3),
        sampling,
        ..Request::default()
    }
}

use crate::Sampling;

struct Outcome {
    preemptions: u64,
    steps: usize,
}

fn simulate(seed: u64, cancel: f64) -> Outcome {
    let mut dice = Dice::new(seed);
    let config = EngineConfig {
        max_batch: 1 + dice.below(6),
        max_batch_tokens: [1, 3, 17, 64, 512][dice.below(5)],
        ..EngineConfig::default()
    };
    // Between what one sequence needs and what hardly anybody misses.
    let pages = 8 + dice.below(14) as u64;
    let mut bench = Bench::new(HashDecoder::new(300), pages, config);
    let mut requests: Vec<Request> = (0..10).map(|_| random_request(&mut dice)).collect();
    let mut clients: Vec<(Client, Option<Vec<Expected>>)> = Vec::new();
    let mut rows_alone = 0;
    while !requests.is_empty() || !bench.scheduler.is_idle() {
        while !requests.is_empty() && (bench.scheduler.is_idle() || dice.chance(0.5)) {
            let Some(request) = requests.pop() else { break };
            let limit = bench.check(&request);
            let all = limit.as_ref().ok().map(|&limit| {
                rows_alone += request.n * (request.prompt.len() + limit + 1);
                (0..request.n).map(|choice| expected(&bench.decoder, &request, choice, limit)).collect()
            });
            clients.push((bench.submit(request), all));
        }
        bench.step();
        if dice.chance(cancel) {
            let victim = dice.below(clients.len());
            let (client, all) = &mut clients[victim];
            if client.read().usage.is_none()
                && let Some(all) = all.take()
            {
                // What came so far is the beginning of the answer.
                for (&choice, (ids, text, _)) in &client.seen.choices {
                    let whole = &all[choice];
                    assert!(whole.ids.starts_with(ids) && whole.text.starts_with(text.as_str()));
                }
                match dice.chance(0.5) {
                    true => client.receiver = None,
                    false => client.cancelled.store(true, std::sync::atomic::Ordering::Relaxed),
                }
            }
        }
    }
    bench.run();
    for (client, all) in &mut clients {
        if let Some(all) = all {
            client.check(all);
        } else if client.receiver.is_some() {
            let seen = client.read();
            assert!(seen.usage.is_some(), "every stream ends with Done");
            assert_eq!(seen.choices.len(), client.request.n);
            assert!(client.seen.choices.values().all(|choice| choice.2.is_some()));
        }
    }
    // The oldest sequence gets at least one row in every step, so all together take no longer than one after the other.
    assert!(bench.steps <= rows_alone, "{} steps for {rows_alone} rows", bench.steps);
    Outcome { preemptions: bench.scheduler.stats().preemptions, steps: bench.steps }
}

#[test]
fn answers_do_not_depend_on_company_or_memory() {
    let (mut preemptions, mut steps) = (0, 0);
    for seed in 0..60 {
        let outcome = simulate(seed, 0.0);
        preemptions += outcome.preemptions;
        steps += outcome.steps;
    }
    assert!(preemptions > 50 && steps > 5000, "the simulation must reach what it tests: {preemptions} in {steps}");
}

#[test]
fn cancellation_disturbs_nobody_and_frees_everything() {
    for seed in 1000..1040 {
        simulate(seed, 0.02);
    }
}

#[test]
fn a_failing_model_ends_only_the_sequences_of_its_step() {
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let mut decoder = HashDecoder::new(300);
        let requests: Vec<Request> = (0..8).map(|_| Request { n: 1, ..random_request(&mut dice) }).collect();
        let limit = |request: &Request| 300 - request.prompt.len();
        let all: Vec<Expected> = requests.iter().map(|r| expected(&decoder, r, 0, limit(r))).collect();
        let counter = std::sync::atomic::AtomicUsize::new(0);
        decoder.before = Box::new(move |_| match counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 37 {
            36 => Err(cachalot_model::ModelError::Forward { reason: "on purpose".into() }),
            _ => Ok(()),
        });
        let config = EngineConfig { max_batch: 2, max_batch_tokens: 64, ..EngineConfig::default() };
        let mut bench = Bench::new(decoder, 1000, config);
        let mut clients: Vec<Client> = requests.into_iter().map(|request| bench.submit(request)).collect();
        bench.run();
        for (client, whole) in clients.iter_mut().zip(&all) {
            if client.read().errors.is_empty() {
                client.check(std::slice::from_ref(whole));
            } else {
                assert!(matches!(&client.seen.errors[..], [EngineError::Model(what)] if what.contains("on purpose")));
                let (ids, text, reason) = &client.seen.choices[&0];
                assert_eq!(*reason, Some(FinishReason::Error));
                assert!(whole.ids.starts_with(ids) && whole.text.starts_with(text.as_str()));
                assert!(client.seen.usage.is_some());
            }
        }
    }
}
