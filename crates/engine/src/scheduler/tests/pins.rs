//! Prompts that stay for a time.

use super::sharing::{answer, cold, random, request, sharing};
use super::*;
use crate::Pinned;
use crate::blend::Wish;
use crate::testing::Dice;

const SECONDS: Option<Duration> = Some(Duration::from_secs(60));

fn bench(pages: u64, share: f64) -> Bench {
    let mut config = sharing(EngineConfig { max_batch: 2, ..EngineConfig::default() });
    config.reuse.pin_share = share;
    Bench::new(HashDecoder::new(600), pages, config)
}

fn of(tenant: &str, prompt: &[u32], pin: Option<Duration>) -> Request {
    let wish = Wish { pin, ..Wish::default() };
    Request { tenant: tenant.into(), wish, ..request(prompt.to_vec(), 3) }
}

/// Asks and looks whether the answer is what it would be alone.
fn ask(bench: &mut Bench, request: Request) -> Usage {
    let mut client = bench.submit(request);
    while !bench.scheduler.is_idle() {
        bench.step();
    }
    assert_eq!(answer(&mut client), cold(&client.request, "f16"));
    client.seen.usage.unwrap()
}

fn stream(bench: &mut Bench, dice: &mut Dice) {
    (0..12).for_each(|_| assert_eq!(ask(bench, of("", &random(dice, 300), None)).cached_tokens, 0));
}

#[test]
fn a_pinned_prompt_outlives_a_stream_until_its_time_is_over() {
    let mut dice = Dice::new(11);
    for pin in [None, SECONDS] {
        let mut bench = bench(60, 0.5);
        let text = random(&mut dice, 300);
        let usage = ask(&mut bench, of("a", &text, pin));
        let held = bench.scheduler.stats().pinned_bytes;
        match usage.pinned {
            None => assert_eq!((pin, held), (None, 0)),
            Some(pinned) => assert_eq!(pinned, Pinned::Held { tokens: 300, bytes: held }),
        }
        stream(&mut bench, &mut dice);
        assert!(bench.scheduler.stats().evicted_blocks > 20, "{:?}", bench.scheduler.stats());
        let plan = bench.cache.config().plan.clone();
        let domain = bench.reuse.domain(&plan, "a", None).unwrap();
        let pinned = bench.scheduler.pinned(domain, &text, bench.now);
        assert_eq!(pinned.map(|(tokens, _)| tokens), pin.map(|_| 300));
        assert!(pinned.is_none_or(|(_, left)| left <= Duration::from_secs(60) && left > Duration::from_secs(50)));
        let again = of("a", &text, None);
        // The block in which it ends is copied where there is room for a copy.
        let cached = ask(&mut bench, again.clone()).cached_tokens;
        assert!(if pin.is_some() { [256, 299].contains(&cached) } else { cached == 0 }, "{cached}");
        bench.now += Duration::from_secs(61);
        stream(&mut bench, &mut dice);
        assert_eq!(bench.scheduler.stats().pinned_bytes, 0);
        assert_eq!(ask(&mut bench, again).cached_tokens, 0, "its time is over");
        bench.run();
    }
}

#[test]
fn a_tenant_pins_its_share_and_no_more_and_is_told() {
    let mut dice = Dice::new(12);
    let mut bench = bench(400, 0.05);
    let texts: Vec<Vec<u32>> = (0..4).map(|_| random(&mut dice, 300)).collect();
    let most = (bench.cache.ledger().budget() as f64 * 0.05) as u64;
    let mut granted = 0;
    for text in &texts {
        match ask(&mut bench, of("a", text, SECONDS)).pinned.unwrap() {
            Pinned::Held { tokens, bytes } => {
                assert!(tokens >= 256);
                granted += bytes;
            }
            Pinned::NoRoom { needed_bytes, free_bytes } => {
                assert_eq!(free_bytes, most - granted);
                assert!(needed_bytes > free_bytes);
            }
            Pinned::NotShared => panic!(),
        }
        assert_eq!(bench.scheduler.stats().pinned_bytes, granted);
    }
    assert!(granted > 0 && granted <= most && granted * 2 > most, "{granted} of {most}");
    // What is pinned already costs nothing more, whoever else has no room.
    let again = ask(&mut bench, of("a", &texts[0], SECONDS)).pinned.unwrap();
    assert!(matches!(again, Pinned::Held { .. }), "{again:?}");
    assert_eq!(bench.scheduler.stats().pinned_bytes, granted);
    let other = ask(&mut bench, of("b", &texts[0], SECONDS)).pinned.unwrap();
    assert!(matches!(other, Pinned::Held { .. }), "another tenant has its own: {other:?}");
    // Zero lets go.
    let none = ask(&mut bench, of("b", &texts[0], Some(Duration::ZERO))).pinned;
    assert_eq!(none, Some(Pinned::Held { tokens: 0, bytes: 0 }));
    assert_eq!(bench.scheduler.stats().pinned_bytes, granted);
    let now = bench.tick();
    bench.scheduler.delete_tenant(Tenant::named("a"), Box::new(|deletion| assert!(deletion.is_complete())), now);
    assert_eq!(bench.scheduler.stats().pinned_bytes, 0);
    bench.run();
}

#[test]
fn a_request_that_could_not_run_beside_pins_ends_them() {
    let mut dice = Dice::new(13);
    let mut bench = bench(18, 1.0);
    let text = random(&mut dice, 300);
    let held = ask(&mut bench, of("a", &text, SECONDS)).pinned.unwrap();
    assert!(matches!(held, Pinned::Held { .. }), "{held:?}");
    let long = random(&mut dice, 500);
    let usage = ask(&mut bench, of("b", &long, None));
    assert_eq!(usage.completion_tokens, 3);
    assert_eq!(bench.scheduler.stats().pinned_bytes, 0);
    bench.run();
}

#[test]
fn what_nobody_shares_is_not_pinned_and_said_so() {
    let mut bench = bench(400, 0.5);
    assert_eq!(ask(&mut bench, of("", &[1; 300], None)).pinned, None);
    bench.run();
    let mut alone = Bench::new(HashDecoder::new(600), 400, EngineConfig::default());
    let usage = ask(&mut alone, of("", &[1; 300], SECONDS));
    assert_eq!(usage.pinned, Some(Pinned::NotShared));
    alone.run();
}
