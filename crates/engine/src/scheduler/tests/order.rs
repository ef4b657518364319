//! Who leaves the queue first.

use super::sharing::{answer, cold, random, request, sharing};
use super::*;
use crate::reuse::Order;
use crate::testing::Dice;

fn bench(order: Order) -> Bench {
    let config = sharing(EngineConfig { max_batch: 1, ..EngineConfig::default() });
    let reuse = ReuseConfig { order, ..config.reuse.clone() };
    Bench::new(HashDecoder::new(600), 4000, EngineConfig { reuse, ..config })
}

/// In which order some requests that wait together are complete; before each submission the clock goes on by so much.
fn finished(order: Order, between: Duration) -> Vec<usize> {
    let mut dice = Dice::new(5);
    let known = random(&mut dice, 256);
    let strange = random(&mut dice, 200);
    let mut bench = bench(order);
    let _warm = bench.submit(request(known.clone(), 1));
    while !bench.scheduler.is_idle() {
        bench.step();
    }
    // One has the only place; then come one of which nothing is there, half, and nearly all.
    let prompts = [
        random(&mut dice, 40),
        strange,
        [&known[..128], &random(&mut dice, 128)].concat(),
        [&known[..], &[3]].concat(),
    ];
    let mut clients: Vec<Client> = Vec::new();
    for (i, prompt) in prompts.iter().enumerate() {
        if i > 1 {
            bench.now += between;
        }
        clients.push(bench.submit(request(prompt.clone(), 3)));
        if i == 0 {
            bench.step();
        }
    }
    let mut done = Vec::new();
    while !bench.scheduler.is_idle() {
        bench.step();
        for (i, client) in clients.iter_mut().enumerate() {
            if !done.contains(&i) && client.read().usage.is_some() {
                done.push(i);
            }
        }
    }
    // Whenever its turn comes, everybody's answer is their own.
    for (client, prompt) in clients.iter_mut().zip(&prompts) {
        assert_eq!(answer(client), cold(&request(prompt.clone(), 3), "f16"));
    }
    done
}

#[test]
fn of_those_that_wait_alike_the_one_of_which_most_is_there_is_next() {
    assert_eq!(finished(Order::Arrival, Duration::ZERO), [0, 1, 2, 3]);
    assert_eq!(finished(Order::HitRate, Duration::ZERO), [0, 3, 2, 1]);
}

#[test]
fn who_has_waited_long_enough_comes_first_whatever_is_there() {
    assert_eq!(finished(Order::HitRate, Order::PATIENCE + Duration::from_secs(1)), [0, 1, 2, 3]);
    // Half of it is worth less than eight seconds, nearly all of it more than six.
    assert_eq!(finished(Order::HitRate, Duration::from_secs(3)), [0, 3, 2, 1]);
}

#[test]
fn a_request_that_nobody_knows_anything_of_is_not_starved() {
    let mut dice = Dice::new(6);
    let known = random(&mut dice, 128);
    let mut bench = bench(Order::HitRate);
    let _warm = bench.submit(request(known.clone(), 1));
    while !bench.scheduler.is_idle() {
        bench.step();
    }
    let busy = bench.submit(request(random(&mut dice, 30), 2));
    bench.step();
    let mut strange = bench.submit(request(random(&mut dice, 90), 2));
    let mut others = vec![busy];
    let mut came = 0;
    // Always somebody whose prompt is there, one a second.
    while strange.read().usage.is_none() {
        bench.now += Duration::from_secs(1);
        others.push(bench.submit(request([&known[..], &[came]].concat(), 2)));
        came += 1;
        (0..4).for_each(|_| _ = bench.step());
        assert!(came < 30, "never its turn");
    }
}
