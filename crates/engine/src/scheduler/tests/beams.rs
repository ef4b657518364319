use super::*;
use crate::beam::{Beam, Candidate, Hypothesis, Search, Stopping};
use crate::sampling::{Sampler, Sampling, Scratch};
use crate::testing::Dice;
use cachalot_kv::Segment;

/// The same search, every step of every beam computed from nothing in a cache of its own.
fn reference(decoder: &HashDecoder, request: &Request) -> Vec<Hypothesis> {
    let (cache, mut scratch) = (cache(1000), Scratch::default());
    let mut search = Search::new(request.beam.unwrap(), request.max_tokens.unwrap());
    loop {
        let mut all = Vec::new();
        for beam in 0..search.width() {
            let live = search.live(beam).unwrap().clone();
            let mut sampler = Sampler::new(Arc::new(request.sampling.clone()), 0, 0, &request.prompt);
            live.tokens.iter().for_each(|token| sampler.accept(*token));
            let text: Vec<u32> = request.prompt.iter().chain(&live.tokens).copied().collect();
            let mut kv = cache.create();
            cache.reserve(&mut kv, text.len()).unwrap();
            let mut segments = [Segment { seq: &mut kv, rows: text.len() }];
            let logits = decoder.forward(&cache, &mut segments, &text, &[text.len() - 1]).unwrap();
            for (token, logprob) in sampler.best(&logits, None, search.per_beam(), &mut scratch).unwrap() {
                let ends = request.stop_tokens.contains(&token);
                all.push(Candidate { beam, token, sum: live.sum + logprob, logprob: None, ends });
            }
        }
        if search.step(all).is_empty() {
            return search.into_best(request.n);
        }
    }
}

fn request(dice: &mut Dice, tokens: usize) -> Request {
    let width = 1 + dice.below(5);
    let stopping = [Stopping::Early, Stopping::Hopeless, Stopping::Never][dice.below(3)];
    Request {
        prompt: (0..tokens).map(|_| dice.below(200) as u32).collect(),
        n: 1 + dice.below(width),
        beam: Some(Beam { width, length_penalty: dice.below(4) as f32 - 1.0, stopping }),
        max_tokens: Some(1 + dice.below(12)),
        // Some of them come up.
        stop_tokens: (0..40).collect(),
        ignore_eos: true,
        sampling: Sampling { repetition_penalty: if dice.chance(0.3) { 1.3 } else { 1.0 }, ..Sampling::greedy() },
        ..Request::default()
    }
}

/// In any company, with memory for all, for some, or for hardly more than one beam, texts are those of beams computed alone.
#[test]
fn beams_are_those_of_lone_sequences() {
    let (mut preempted, mut ended) = (0, 0);
    for seed in 0..12 {
        let mut dice = Dice::new(seed);
        let pages = [400, 24, 12][dice.below(3)];
        let config = EngineConfig { max_batch: 4 + dice.below(8), max_batch_tokens: 64, ..EngineConfig::default() };
        let mut bench = Bench::new(HashDecoder::new(1000), pages, config);
        let requests: Vec<Request> = (0..4)
            .map(|_| {
                let tokens = 1 + dice.below(150);
                request(&mut dice, tokens)
            })
            .collect();
        let mut clients: Vec<Client> = requests.iter().map(|request| bench.submit(request.clone())).collect();
        bench.run();
        for (request, client) in requests.iter().zip(&mut clients) {
            let seen = client.read();
            assert_eq!(seen.errors, [], "seed {seed}");
            let expected = reference(&bench.decoder, request);
            for (choice, text) in expected.iter().enumerate() {
                let (ids, _, reason) = &seen.choices[&choice];
                assert_eq!(ids, &text.tokens, "seed {seed}: {request:?}");
                let stop = if text.stopped { FinishReason::Stop } else { FinishReason::Length };
                assert_eq!(*reason, Some(stop));
            }
            ended += expected.iter().filter(|text| text.stopped).count();
        }
        preempted += bench.scheduler.stats().preemptions;
    }
    assert!(preempted > 0 && ended > 0, "{preempted} {ended}");
}

#[test]
fn one_beam_is_the_most_likely_token() {
    let mut bench = Bench::new(HashDecoder::new(1000), 100, EngineConfig::default());
    let plain = Request {
        prompt: vec![5, 6, 7],
        max_tokens: Some(20),
        sampling: Sampling { seed: Some(1), ..Sampling::greedy() },
        ..Request::default()
    };
    let mut greedy = bench.submit(plain.clone());
    let mut beam = bench.submit(Request { beam: Some(Beam::default()), ..plain });
    bench.run();
    assert_eq!(greedy.read().choices, beam.read().choices);
}

/// A client that goes away, and a model that fails, leave nothing behind.
#[test]
fn beams_end_together() {
    let wide = Request {
        prompt: (0..100).collect(),
        beam: Some(Beam { width: 4, ..Beam::default() }),
        n: 2,
        max_tokens: Some(50),
        ignore_eos: true,
        sampling: Sampling::greedy(),
        ..Request::default()
    };
    let mut bench = Bench::new(HashDecoder::new(1000), 100, EngineConfig::default());
    let mut gone = bench.submit(wide.clone());
    (0..8).for_each(|_| assert!(bench.step()));
    gone.receiver = None;
    bench.run();
    let steps = std::sync::atomic::AtomicUsize::new(0);
    let mut decoder = HashDecoder::new(1000);
    decoder.before = Box::new(move |_| {
        if steps.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= 8 {
            Err(cachalot_model::ModelError::Forward { reason: "no more".into() })
        } else {
            Ok(())
        }
    });
    let mut bench = Bench::new(decoder, 100, EngineConfig::default());
    let mut failed = bench.submit(wide);
    bench.run();
    let seen = failed.read();
    assert_eq!(seen.errors.len(), 1, "{:?}", seen.errors);
    assert!((0..2).all(|choice| seen.choices[&choice].2 == Some(FinishReason::Error)));
}
