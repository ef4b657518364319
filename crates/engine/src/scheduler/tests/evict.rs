//! Which shared blocks go when memory is wanted.

use cachalot_store::tier::PolicyKind;

use super::sharing::{answer, cold, random, request, sharing};
use super::*;
use crate::testing::Dice;

/// Tokens that are still there of a prompt that came three times, after a stream of others that come once.
fn left_after_a_stream(evict: PolicyKind) -> usize {
    let mut dice = Dice::new(5);
    let mut config = sharing(EngineConfig { max_batch: 1, ..EngineConfig::default() });
    config.reuse.evict = evict;
    let mut bench = Bench::new(HashDecoder::new(600), 60, config);
    let known = random(&mut dice, 300);
    let mut ask = |prompt: Vec<u32>| {
        let mut client = bench.submit(request(prompt, 3));
        while !bench.scheduler.is_idle() {
            bench.step();
        }
        assert_eq!(answer(&mut client), cold(&client.request, "f16"));
        client.seen.usage.unwrap().cached_tokens
    };
    let first = [(); 3].map(|()| ask(known.clone()));
    assert_eq!(first, [0, 299, 299]);
    (0..12).for_each(|_| assert_eq!(ask(random(&mut dice, 300)), 0));
    let left = ask(known);
    assert!(bench.scheduler.stats().evicted_blocks > 20);
    bench.run();
    left
}

#[test]
fn a_stream_that_never_comes_back_does_not_push_out_what_does() {
    assert_eq!(left_after_a_stream(PolicyKind::Lru), 0);
    assert!(left_after_a_stream(PolicyKind::S3Fifo) >= 256);
}
