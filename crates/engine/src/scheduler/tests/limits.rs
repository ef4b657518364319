//! What is refused, and what just fits.

use super::*;
use crate::Sampling;

fn prompt(len: usize) -> Request {
    Request { prompt: vec![65; len], sampling: Sampling::greedy(), ignore_eos: true, ..Request::default() }
}

#[test]
fn lengths_at_the_edge_of_the_context() {
    let bench = Bench::new(HashDecoder::new(100), 1000, EngineConfig::default());
    let check = |request: &Request| bench.check(request);
    assert_eq!(check(&prompt(99)), Ok(1));
    assert_eq!(check(&prompt(100)), Err(EngineError::PromptTooLong { prompt: 100, context: 100 }));
    assert_eq!(check(&prompt(0)), Err(EngineError::EmptyPrompt));
    assert_eq!(check(&Request { max_tokens: Some(7), ..prompt(60) }), Ok(7));
    assert_eq!(check(&Request { max_tokens: Some(700), ..prompt(60) }), Ok(40));
    let text = check(&prompt(100)).unwrap_err().to_string();
    assert!(text.matches("100").count() == 2, "names both numbers: {text}");
}

#[test]
fn a_configured_context_is_no_longer_than_the_models() {
    for (max_context, context) in [(0, 100), (50, 50), (200, 100)] {
        let config = EngineConfig { max_context, ..EngineConfig::default() };
        assert_eq!(Bench::new(HashDecoder::new(100), 1000, config).limits.context, context);
    }
}

#[test]
fn a_prompt_that_never_fits_is_refused_with_both_numbers() {
    // Two pages for each of the two layers.
    let mut bench = Bench::new(HashDecoder::new(1000), 4, EngineConfig::default());
    assert_eq!(bench.limits.capacity, 128);
    assert_eq!(bench.check(&prompt(127)), Ok(1));
    let budget = bench.cache.ledger().budget();
    let refused = EngineError::KvTooSmall { prompt: 128, needed: budget / 4 * 6, budget };
    assert_eq!(bench.check(&prompt(128)), Err(refused.clone()));
    // Submitted all the same, it ends at once and holds up nobody.
    let mut client = bench.submit(prompt(128));
    bench.run();
    assert_eq!(client.read().errors, [refused]);
    assert!(client.read().usage.is_some());
}

#[test]
fn the_whole_budget_can_be_used_by_one() {
    let mut bench = Bench::new(HashDecoder::new(1000), 4, EngineConfig::default());
    let mut client = bench.submit(prompt(100));
    bench.run();
    let choice = &client.read().choices[&0];
    assert_eq!((choice.0.len(), choice.2), (28, Some(FinishReason::Length)));
    assert_eq!(bench.scheduler.stats().preemptions, 0);
}

#[test]
fn windows_need_less_than_the_whole_length() {
    let config = EngineConfig { max_batch_tokens: 32, ..EngineConfig::default() };
    let bench = Bench::new(HashDecoder::new(1000), 13, config);
    // One layer keeps all; the other 40 tokens of window and 32 of a chunk, on three pages: ten pages are left.
    assert_eq!(bench.limits.capacity, 640);
}

#[test]
fn a_windowed_prompt_that_fits_by_its_chunks_is_computed() {
    let config = EngineConfig { max_batch_tokens: 32, ..EngineConfig::default() };
    let mut bench = Bench::new(HashDecoder::new(1000), 13, config);
    let request = Request { max_tokens: Some(5), ..prompt(630) };
    let mut client = bench.submit(Request { sampling: Sampling { seed: Some(1), ..Sampling::greedy() }, ..request });
    bench.run();
    let whole = crate::testing::expected(&bench.decoder, &client.request.clone(), 0, 1000);
    client.check(&[whole]);
}
