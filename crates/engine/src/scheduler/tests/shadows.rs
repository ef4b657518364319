//! Nobody loses by replays: neither order, nor bits, nor memory; what is in the way of requests is given up.

use super::replays::{config, exact, plan, reported, request};
use super::*;
use crate::replay::Kind;
use crate::testing::{Dice, VOCAB, expected};
use crate::{KvReport, ReplayConfig, ReportSpec, Skipped};
use cachalot_kv::Element;

/// What is asked for, how its cache is kept, and the foreground step at which it comes.
type Arrival = (Request, &'static str, usize);

/// Of shadows' rows together: a quarter of all that may be kept.
const ROW_BYTES: u64 = 100 * 4 * VOCAB as u64;

/// The requests' parts of every step, everybody's tokens, how often somebody was set aside, and what failed.
type Trace = (Vec<Vec<(u64, usize, usize)>>, Vec<Vec<u32>>, u64, Vec<EngineError>);

fn trace(arrivals: &[Arrival], pages: u64, step_tokens: usize, shadow: f64, ended: &mut Vec<KvReport>) -> Trace {
    let replay = ReplayConfig {
        reference: exact(Element::F32),
        shadow,
        shadow_steps: 1.0,
        row_bytes: 4 * ROW_BYTES,
        ..ReplayConfig::default()
    };
    let mut bench = Bench::new(HashDecoder::new(300), pages, config(step_tokens, replay));
    let (mut steps, mut clients) = (Vec::new(), Vec::new());
    loop {
        while let Some((request, recipe, at)) = arrivals.get(clients.len()) {
            if *at > steps.len() && !bench.scheduler.groups.is_empty() {
                break;
            }
            let plan = plan(&bench, recipe);
            clients.push(bench.submit_with(request.clone(), plan));
        }
        if bench.scheduler.groups.is_empty() {
            break;
        }
        let now = bench.tick();
        let Some(mut batch) = bench.scheduler.plan(now) else { continue };
        let parts: Vec<_> =
            batch.parts.iter().map(|part| (part.ticket.request, part.ticket.choice, part.rows)).collect();
        assert!(batch.rows() <= step_tokens.max(16) + parts.len());
        if !parts.is_empty() {
            steps.push(parts);
        }
        let logits = batch.forward(&bench.decoder, &bench.cache);
        let now = bench.tick();
        bench.scheduler.commit(batch, logits, now);
        let ledger = bench.cache.ledger();
        assert!(ledger.peak() <= ledger.budget());
        assert!(bench.scheduler.replays.rows()[1] <= ROW_BYTES);
    }
    bench.run();
    assert_eq!(bench.scheduler.replays.rows(), [0, 0]);
    ended.extend(bench.scheduler.replays.ended.drain(..).map(|(_, kind, report)| {
        assert_eq!(kind, Kind::Shadow);
        report
    }));
    let mut errors = Vec::new();
    let tokens = clients.iter_mut().flat_map(|client| {
        assert!(client.read().usage.is_some() && client.seen.reports.is_empty());
        // What is refused for want of memory is refused either way.
        errors.append(&mut client.seen.errors);
        client.seen.choices.values().map(|choice| choice.0.clone()).collect::<Vec<_>>()
    });
    (steps, tokens.collect(), bench.scheduler.stats().preemptions, errors)
}

#[test]
fn shadows_change_neither_order_nor_bits_of_anybody() {
    let (mut ended, mut preemptions) = (Vec::new(), 0);
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let (pages, step_tokens) = (9 + dice.below(9) as u64, [5, 17, 64, 512][dice.below(4)]);
        let recipes = ["f16", "int4(window=0)", "knorm(budget=0.3)", "streamingllm(budget=free/4)", "bf16"];
        let mut at = 0;
        let arrivals: Vec<Arrival> = (0..10)
            .map(|_| {
                at += dice.below(60);
                let prompt: Vec<u8> = (0..1 + dice.below(150)).map(|_| dice.below(256) as u8).collect();
                let n = [1, 1, 1, 2, 4][dice.below(5)];
                (Request { n, ..request(&prompt, 1 + dice.below(100)) }, recipes[dice.below(recipes.len())], at)
            })
            .collect();
        let without = trace(&arrivals, pages, step_tokens, 0.0, &mut Vec::new());
        assert_eq!(without, trace(&arrivals, pages, step_tokens, 1.0, &mut ended), "seed {seed}");
        preemptions += without.2;
    }
    let mut outcomes = std::collections::BTreeMap::new();
    ended.iter().for_each(|report| *outcomes.entry(code(report)).or_insert(0) += 1);
    assert!(ended.len() > 350, "{outcomes:?}");
    // The simulation must reach what it tests.
    assert!(["compared", "memory", "no_steps"].iter().all(|code| outcomes.get(code) > Some(&15)), "{outcomes:?}");
    assert!(preemptions > 20, "{preemptions}");
}

#[test]
fn a_replay_makes_room_at_once() {
    for report in [false, true] {
        // Twelve pages of half floats: the exact cache takes two for each of its own.
        let replay = ReplayConfig { reference: exact(Element::F32), shadow: 1.0, beside: 16, ..Default::default() };
        let mut bench = Bench::new(HashDecoder::new(500), 12, config(16, replay));
        let asked = request(&[b'a'; 100], 20);
        let mut first = bench.submit(if report { reported(asked) } else { asked });
        while first.read().choices.values().all(|choice| choice.2.is_none()) {
            bench.step();
        }
        assert_eq!(first.seen.usage.is_some(), !report, "only a report holds up the answer");
        (0..4).for_each(|_| _ = bench.step());
        assert!(bench.scheduler.replays.held() > 0);
        let mut second = bench.submit(request(&[b'b'; 330], 10));
        let steps = bench.steps;
        while second.read().choices.is_empty() {
            bench.step();
        }
        assert_eq!(bench.steps - steps, 330usize.div_ceil(16), "it waits for nobody");
        assert_eq!(bench.scheduler.replays.ended[0].2.outcome, Err(Skipped::Memory));
        bench.run();
        let whole = expected(&bench.decoder, &second.request.clone(), 0, 500);
        second.check(&[whole]);
        let seen = first.read();
        assert_eq!((seen.usage.is_some(), seen.reports.len()), (true, usize::from(report)));
    }
}

#[test]
fn what_never_fits_is_said_at_once() {
    let replay = ReplayConfig { reference: exact(Element::F32), ..ReplayConfig::default() };
    let mut bench = Bench::new(HashDecoder::new(500), 8, config(64, replay));
    let mut client = bench.submit(reported(request(&[b'a'; 200], 20)));
    bench.run();
    assert_eq!(client.read().reports[&0].outcome, Err(Skipped::Memory));
    assert!(client.seen.usage.is_some());
}

#[test]
fn a_replay_without_time_is_given_up() {
    for (within, after) in [(None, 30), (Some(Duration::from_millis(50)), 15)] {
        let replay = ReplayConfig { patience: Duration::from_millis(30), ..ReplayConfig::default() };
        let mut bench = Bench::new(HashDecoder::new(500), 1000, config(1, replay));
        let asked = Request { report: Some(ReportSpec { share: 1.0, within }), ..request(b"abc", 10) };
        let (mut first, mut other) = (bench.submit(asked), bench.submit(request(b"xyz", 100)));
        bench.run();
        let report = &first.read().reports[&0];
        assert!(matches!(report.outcome, Err(Skipped::Deadline { .. })), "{report:?}");
        assert!(report.seconds > after as f64 / 1e3 && report.seconds < 0.1, "{report:?}");
        assert_eq!(report.exact_tokens, 0);
        // The answer's own times end with the answer.
        let (first, other) = (first.seen.usage.unwrap().timings, other.read().usage.unwrap().timings);
        assert!(first.total_ms + 30.0 < other.total_ms);
    }
}

#[test]
fn clients_that_go_away_end_their_replay() {
    let slow = || {
        let mut bench = Bench::new(HashDecoder::new(500), 1000, config(4, ReplayConfig::default()));
        let mut client = bench.submit(reported(Request { n: 2, ..request(&[b'a'; 100], 8) }));
        while client.read().choices.values().filter(|choice| choice.2.is_some()).count() < 2 {
            bench.step();
        }
        (0..3).for_each(|_| _ = bench.step());
        assert!(client.read().usage.is_none() && bench.scheduler.replays.held() > 0);
        (bench, client)
    };
    let (mut bench, mut client) = slow();
    client.receiver = None;
    bench.step();
    assert!(bench.scheduler.is_idle() && bench.cache.ledger().used() == 0);

    let (mut bench, mut client) = slow();
    client.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
    bench.run();
    assert!(client.read().reports.values().all(|report| report.outcome == Err(Skipped::Cancelled)));
    assert!(client.seen.reports.len() == 2 && client.seen.usage.is_some());

    let (mut bench, mut client) = slow();
    bench.decoder.before = Box::new(|_| Err(cachalot_model::ModelError::Forward { reason: "on purpose".into() }));
    bench.run();
    assert!(matches!(&client.read().reports[&1].outcome, Err(Skipped::Failed(EngineError::Model(_)))));
    assert!(client.seen.errors.is_empty() && client.seen.usage.is_some(), "the answer was complete");
}

#[test]
fn shadows_wait_in_a_short_queue_and_end_with_the_engine() {
    let replay = ReplayConfig { reference: exact(Element::F32), shadow: 1.0, ..ReplayConfig::default() };
    let mut bench = Bench::new(
        HashDecoder::new(500),
        1000,
        config(4, ReplayConfig { waiting_shadows: 2, beside: 1, ..replay.clone() }),
    );
    let clients: Vec<Client> = (0..9).map(|i| bench.submit(request(&[i; 40], 5))).collect();
    bench.run();
    let codes: Vec<&str> = bench.scheduler.replays.ended.iter().map(|(_, _, report)| code(report)).collect();
    assert_eq!(codes.len(), clients.len());
    assert!(codes.contains(&"queue") && codes.contains(&"compared"), "{codes:?}");

    let mut bench = Bench::new(HashDecoder::new(500), 1000, config(4, replay));
    let (mut first, mut second) = (bench.submit(request(&[1; 40], 5)), bench.submit(request(&[2; 40], 40)));
    while first.read().usage.is_none() {
        bench.step();
    }
    bench.scheduler.end_shadows(bench.now);
    bench.run();
    assert!(second.read().usage.is_some());
    let codes: Vec<&str> = bench.scheduler.replays.ended.iter().map(|(_, _, report)| code(report)).collect();
    assert_eq!(codes, ["closing", "closing"]);
}

fn code(report: &KvReport) -> &'static str {
    report.outcome.as_ref().err().map_or("compared", Skipped::code)
}
