//! Particular situations, one at a time.

use super::*;
use crate::sampling::Sampling;
use crate::testing::{VOCAB, expected};

fn request(prompt: &[u8], max_tokens: usize) -> Request {
    Request {
        prompt: prompt.iter().map(|&b| u32::from(b)).collect(),
        max_tokens: Some(max_tokens),
        sampling: Sampling { seed: Some(3), ..Sampling::default() },
        ignore_eos: true,
        ..Request::default()
    }
}

fn bench(pages: u64) -> Bench {
    Bench::new(
        HashDecoder::new(500),
        pages,
        EngineConfig { max_batch: 4, max_batch_tokens: 64, ..EngineConfig::default() },
    )
}

#[test]
fn choices_share_one_prompt_and_differ() {
    let mut bench = bench(1000);
    let mut client = bench.submit(Request { n: 3, ..request(&[7; 130], 20) });
    bench.run();
    let all: Vec<Expected> = (0..3).map(|choice| expected(&bench.decoder, &client.request, choice, 500)).collect();
    client.check(&all);
    assert_ne!(all[0].ids, all[1].ids);
    assert_eq!(client.seen.progress, [64, 128, 130], "one pass over the prompt");
    assert_eq!(bench.scheduler.stats().prompt_tokens, 130);
    // Three chunks, the last with the first token, and nineteen steps of all three.
    assert_eq!(bench.steps, 3 + 19);
}

#[test]
fn more_choices_than_places_are_finished_in_turn() {
    let mut bench = bench(1000);
    let mut client = bench.submit(Request { n: 9, ..request(b"hello", 6) });
    bench.run();
    let all: Vec<Expected> = (0..9).map(|choice| expected(&bench.decoder, &client.request, choice, 500)).collect();
    client.check(&all);
}

#[test]
fn prompts_are_computed_beside_decoding() {
    let mut bench = bench(1000);
    let mut first = bench.submit(request(b"first", 200));
    bench.step();
    let mut second = bench.submit(request(&[b'x'; 400], 2));
    let before = first.read().choices[&0].0.len();
    // 63 rows a step beside the one that decodes.
    for _ in 0..7 {
        bench.step();
    }
    assert_eq!(first.read().choices[&0].0.len(), before + 7, "a long prompt does not stop the others");
    assert_eq!(second.read().progress, [63, 126, 189, 252, 315, 378, 400]);
    bench.run();
}

#[test]
fn a_full_batch_of_decodes_does_not_starve_a_prompt() {
    let config = EngineConfig { max_batch: 40, max_batch_tokens: 20, ..EngineConfig::default() };
    let mut bench = Bench::new(HashDecoder::new(500), 1000, config);
    let _others: Vec<Client> = (0..30).map(|_| bench.submit(request(b"x", 100))).collect();
    for _ in 0..5 {
        bench.step();
    }
    let mut long = bench.submit(request(&[b'y'; 64], 1));
    for _ in 0..4 {
        bench.step();
    }
    assert_eq!(long.read().progress, [16, 32, 48, 64]);
    bench.run();
}

#[test]
fn nobody_enters_before_there_is_memory() {
    // Four pages: one for each layer of two sequences.
    let mut bench = bench(4);
    let mut clients: Vec<Client> = (0..3).map(|i| bench.submit(request(&[b'a' + i; 40], 20))).collect();
    for _ in 0..4 {
        bench.step();
        let stats = bench.scheduler.stats();
        assert_eq!((stats.running, stats.queued), (2, 1));
    }
    bench.run();
    assert_eq!(bench.scheduler.stats().preemptions, 0);
    assert!(clients.iter_mut().all(|client| client.read().choices[&0].0.len() == 20));
}

#[test]
fn the_youngest_is_set_aside_and_comes_back_with_the_same_bits() {
    // Twelve pages: six for each layer. Three sequences begin with one page a layer and grow to four.
    let mut bench = bench(12);
    let mut clients: Vec<Client> = (0..3).map(|i| bench.submit(request(&[b'a' + i; 50], 180))).collect();
    bench.run();
    assert!(bench.scheduler.stats().preemptions > 0);
    let ends: Vec<f64> = clients.iter_mut().map(|c| c.read().usage.unwrap().timings.total_ms).collect();
    assert!(ends.is_sorted(), "oldest first: {ends:?}");
    for client in &mut clients {
        let whole = expected(&bench.decoder, &client.request.clone(), 0, 500);
        client.check(&[whole]);
    }
    assert_eq!(bench.scheduler.stats().generated_tokens, 3 * 180, "what is computed again is not counted again");
}

#[test]
fn logits_that_are_not_numbers_end_one_sequence_alone() {
    let mut bench = bench(1000);
    // Rows of a step come oldest first: the second of two.
    bench.decoder.after = Box::new(|logits| {
        if logits.len() == 2 * VOCAB {
            logits[VOCAB + 5] = f32::NAN;
        }
    });
    let (mut good, mut bad) = (bench.submit(request(b"good", 10)), bench.submit(request(b"bad", 10)));
    bench.run();
    assert!(matches!(bad.read().errors[..], [EngineError::NonFiniteLogits { token: 5, .. }]));
    assert_eq!(bad.read().choices[&0].2, Some(FinishReason::Error));
    bench.decoder.after = Box::new(|_| {});
    let whole = expected(&bench.decoder, &good.request.clone(), 0, 500);
    good.check(&[whole]);
}

#[test]
fn a_panic_while_sampling_ends_one_sequence_alone() {
    let mut bench = bench(1000);
    let mut good = bench.submit(request(b"good", 10));
    let bias = Sampling { logit_bias: vec![(ByteVocabulary::PANICS, 100.0)], ..Sampling::greedy() };
    let mut bad = bench.submit(Request { sampling: bias, ..request(b"bad", 10) });
    bench.run();
    assert!(matches!(&bad.read().errors[..], [EngineError::Panicked(what)] if what.contains("on purpose")));
    assert!(bad.read().usage.is_some());
    let whole = expected(&bench.decoder, &good.request.clone(), 0, 500);
    good.check(&[whole]);
}

#[test]
fn a_request_whose_sequence_was_lost_can_still_be_ended() {
    let mut bench = bench(1000);
    let mut client = bench.submit(Request { n: 2, ..request(b"x", 9) });
    bench.step();
    // What a panic between removing and inserting would leave behind.
    bench.scheduler.running.clear();
    bench.scheduler.fail_all(EngineError::Panicked("x".into()), bench.now);
    assert!(bench.scheduler.is_idle());
    assert_eq!(client.read().errors.len(), 1);
    assert!(client.read().usage.is_some() && client.read().choices.len() == 2);
}

#[test]
fn logits_of_the_wrong_size_are_the_models_fault() {
    struct Short(HashDecoder);
    impl Decoder for Short {
        fn spec(&self) -> &cachalot_model::ModelSpec {
            self.0.spec()
        }
        fn forward(
            &self,
            cache: &KvCache,
            segments: &mut [cachalot_kv::Segment<'_>],
            tokens: &[u32],
            rows: &[usize],
        ) -> Result<Vec<f32>, cachalot_model::ModelError> {
            self.0.forward(cache, segments, tokens, rows).map(|mut logits| {
                logits.pop();
                logits
            })
        }
    }
    let mut bench = bench(1000);
    let mut client = bench.submit(request(b"x", 3));
    let mut batch = bench.scheduler.plan(bench.now).unwrap();
    let logits = batch.forward(&Short(HashDecoder::new(500)), &bench.cache);
    bench.scheduler.commit(batch, logits, bench.now);
    assert!(matches!(&client.read().errors[..], [EngineError::Model(what)] if what.contains("259")));
    bench.run();
}

#[test]
fn nothing_to_generate_computes_the_prompt_only() {
    let mut bench = bench(1000);
    let mut client = bench.submit(Request { n: 2, ..request(&[1; 100], 0) });
    bench.run();
    let seen = client.read();
    assert_eq!(seen.progress, [64, 100]);
    assert!(seen.choices.values().all(|c| c.0.is_empty() && c.2 == Some(FinishReason::Length)));
    assert_eq!((seen.choices.len(), seen.usage.unwrap().completion_tokens, bench.steps), (2, 0, 2));
}

#[test]
fn cancel_all_and_fail_all_tell_everybody() {
    let mut bench = bench(1000);
    let mut clients: Vec<Client> = (0..6).map(|_| bench.submit(Request { n: 2, ..request(b"hello", 50) })).collect();
    for _ in 0..3 {
        bench.step();
    }
    bench.scheduler.cancel_all(bench.now);
    bench.run();
    for client in &mut clients {
        let seen = client.read();
        assert!(seen.choices.len() == 2 && seen.choices.values().all(|c| c.2 == Some(FinishReason::Cancelled)));
        assert!(seen.usage.is_some() && seen.errors.is_empty());
    }
    let mut client = bench.submit(request(b"hello", 50));
    bench.scheduler.fail_all(EngineError::Panicked("x".into()), bench.now);
    assert_eq!(client.read().errors, [EngineError::Panicked("x".into())]);
    bench.run();
}

#[test]
fn timings_are_those_of_the_clock() {
    let mut bench = bench(1000);
    let mut client = bench.submit(request(&[b'x'; 128], 11));
    bench.run();
    // Submitted at 1; two ticks a step: planned at 2 and 4, done at 3 and 5; then a token every two ticks.
    let t = client.read().usage.unwrap().timings;
    assert_eq!((t.queue_ms, t.prompt_ms, t.ttft_ms, t.total_ms), (1.0, Some(3.0), Some(4.0), 24.0));
    assert_eq!(t.decode_tokens_per_second, Some(500.0));
}

#[test]
fn text_held_back_for_a_stop_comes_with_the_last_token() {
    let mut bench = bench(1000);
    let mut plain = bench.submit(request(b"q", 30));
    bench.run();
    let text = plain.read().choices[&0].1.clone();
    // A stop text that begins with the end of the answer, and never completes.
    let tail: String = text.chars().skip(text.chars().count() - 3).collect();
    let mut held = bench.submit(Request { stop: vec![format!("{tail}~never~")], ..request(b"q", 30) });
    bench.run();
    assert_eq!(held.read().choices[&0].1, text);
    assert_eq!(held.read().choices[&0].2, Some(FinishReason::Length));
    // And one that is in the middle.
    let middle: String = text.chars().skip(10).take(2).collect();
    let mut stopped = bench.submit(Request { stop: vec![middle.clone()], ..request(b"q", 30) });
    bench.run();
    let at = text.find(&middle).unwrap();
    assert_eq!(stopped.read().choices[&0].1, text[..at]);
    assert_eq!(stopped.read().choices[&0].2, Some(FinishReason::Stop));
}
