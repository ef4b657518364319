//! Reports: zero where the cache was exact, and the numbers by hand where it was not.

use super::*;
use crate::testing::{Dice, VOCAB, expected};
use crate::{Divergence, KvReport, ReplayConfig, ReportSpec, Sampling, Skipped};
use cachalot_kv::recipe::expression::Files;
use cachalot_kv::{Element, KvFormat, Recipe, Segment};

pub fn request(prompt: &[u8], max_tokens: usize) -> Request {
    Request {
        prompt: prompt.iter().map(|&b| u32::from(b)).collect(),
        max_tokens: Some(max_tokens),
        sampling: Sampling { seed: Some(3), ..Sampling::default() },
        ignore_eos: true,
        ..Request::default()
    }
}

pub fn reported(request: Request) -> Request {
    Request { report: Some(ReportSpec { share: 1.0, within: None }), ..request }
}

pub fn config(step_tokens: usize, replay: ReplayConfig) -> EngineConfig {
    EngineConfig { max_batch: 4, max_batch_tokens: step_tokens, replay, ..EngineConfig::default() }
}

pub fn exact(format: Element) -> KvFormat {
    KvFormat { k: format, v: format }
}

/// A way of keeping the cache of the model of hashes.
pub fn plan(bench: &Bench, expression: &str) -> Arc<CachePlan> {
    let recipe = Recipe::parse(expression, Files::Refused).unwrap();
    Arc::new(recipe.plan(&bench.cache.config().layers, None).unwrap())
}

/// The logits of every step of an answer, computed one token after the other.
fn logits(bench: &Bench, plan: &Arc<CachePlan>, tokens: &[u32], prompt: usize) -> Vec<Vec<f32>> {
    let mut kv = bench.cache.create_with(plan).unwrap();
    bench.cache.expect(&mut kv, prompt).unwrap();
    let mut all = Vec::new();
    for rows in std::iter::once(0..prompt).chain((prompt..tokens.len() - 1).map(|i| i..i + 1)) {
        bench.cache.reserve(&mut kv, rows.len()).unwrap();
        let mut segments = [Segment { seq: &mut kv, rows: rows.len() }];
        let last = rows.len() - 1;
        all.push(bench.decoder.forward(&bench.cache, &mut segments, &tokens[rows], &[last]).unwrap());
        bench.cache.settle(&mut kv);
        bench.cache.reduce(&mut kv).unwrap();
    }
    all
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let norm = logits.iter().map(|&z| f64::from(z).exp()).sum::<f64>().ln();
    logits.iter().map(|&z| f64::from(z) - norm).collect()
}

fn measured(report: &KvReport) -> &Divergence {
    report.outcome.as_ref().unwrap()
}

#[test]
fn an_exact_cache_is_found_exact_in_any_company() {
    let (mut compared, mut skipped) = (0, 0);
    for seed in 0..25 {
        let mut dice = Dice::new(seed);
        let replay = ReplayConfig { beside: 1 + dice.below(20), concurrent: 1 + dice.below(2), ..Default::default() };
        let config = EngineConfig {
            max_batch: 1 + dice.below(5),
            max_batch_tokens: [3, 17, 64, 512][dice.below(4)],
            replay,
            ..EngineConfig::default()
        };
        let mut bench = Bench::new(HashDecoder::new(300), 10 + dice.below(14) as u64, config);
        let mut clients = Vec::new();
        for _ in 0..8 {
            let prompt: Vec<u8> = (0..[1, 3, 70, 140][dice.below(4)]).map(|_| dice.below(256) as u8).collect();
            let sampling = Sampling { seed: Some(dice.below(1000) as u64), ..Sampling::default() };
            let request = Request { n: [1, 1, 2, 3][dice.below(4)], sampling, ..request(&prompt, dice.below(90)) };
            let limit = bench.check(&request).unwrap();
            let all: Vec<Expected> =
                (0..request.n).map(|choice| expected(&bench.decoder, &request, choice, limit)).collect();
            clients.push((bench.submit(reported(request)), all));
            (0..dice.below(30)).for_each(|_| _ = bench.step());
        }
        bench.run();
        assert_eq!(bench.scheduler.replays.rows(), [0, 0]);
        for (client, all) in &mut clients {
            client.check(all);
            assert_eq!(client.seen.reports.len(), client.request.n);
            for (choice, report) in &client.seen.reports {
                assert_eq!(report.of, all[*choice].ids.len());
                match &report.outcome {
                    Ok(divergence) => {
                        let (steps, whole) = (divergence.steps, (64 / client.request.n).min(report.of));
                        assert_eq!((steps, divergence.agreeing), (whole, whole));
                        assert_eq!((divergence.kl_max, divergence.kl_mean()), (0.0, 0.0));
                        assert_eq!((divergence.kl_first(), divergence.perplexity_ratio()), (Some(0.0), 1.0));
                        compared += 1;
                    }
                    Err(Skipped::NoSteps) => assert_eq!(report.of, 0),
                    Err(Skipped::Memory) => skipped += 1,
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
    assert!(compared > 100 && skipped > 5, "{compared} {skipped}");
}

#[test]
fn numbers_are_those_computed_by_hand() {
    let reference = exact(Element::F32);
    for expression in ["bf16", "f16", "int4(window=0)", "knorm(budget=0.4) + bf16", "streamingllm(budget=70)"] {
        let mut bench =
            Bench::new(HashDecoder::new(500), 1000, config(64, ReplayConfig { reference, ..ReplayConfig::default() }));
        let plan = plan(&bench, expression);
        let sampling = Sampling { seed: Some(5), temperature: 1.2, repetition_penalty: 1.3, ..Sampling::default() };
        let asked = Request { sampling, ..request(&[b'k'; 130], 40) };
        let mut client = bench.submit_with(reported(asked), plan.clone());
        bench.run();
        let report = client.read().reports[&0].clone();
        let divergence = measured(&report);
        let tokens = [&client.request.prompt[..], &client.seen.choices[&0].0].concat();
        let lossy = logits(&bench, &plan, &tokens, 130);
        let exact = CachePlan::exact(reference, [1, 1].into_iter());
        let exact = logits(&bench, &Arc::new(exact), &tokens, 130);
        let (mut kl, mut more, mut agreeing, mut chosen) = (Vec::new(), 0.0, 0, 0);
        for (step, (lossy, exact)) in lossy.iter().zip(&exact).enumerate() {
            let (q, p) = (log_softmax(lossy), log_softmax(exact));
            kl.push(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
            let token = tokens[130 + step] as usize;
            more += p[token] - q[token];
            let best = |of: &[f64]| (0..VOCAB).max_by(|&a, &b| of[a].total_cmp(&of[b])).unwrap();
            agreeing += usize::from(best(&p) == best(&q));
            chosen += usize::from(best(&p) == token);
        }
        assert_eq!((divergence.steps, report.of, kl.len()), (40, 40, 40), "{expression}");
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{expression}: {a} {b}");
        near(divergence.kl_mean(), kl.iter().sum::<f64>() / 40.0);
        near(divergence.kl_max, kl.iter().copied().fold(0.0, f64::max));
        near(divergence.kl_max, kl[divergence.kl_max_step]);
        near(divergence.kl_first().unwrap(), kl[0]);
        near(divergence.perplexity_ratio(), (more / 40.0).exp());
        assert_eq!((divergence.agreeing, divergence.chosen_top1), (agreeing, chosen), "{expression}");
        assert!(divergence.kl_max > 0.0 && chosen < 40, "{expression}");
        // The last token of the answer says nothing about a step.
        assert_eq!((report.exact_tokens, report.exact), (130 + 39, reference));
    }
}

#[test]
fn what_a_reduction_drops_is_first_missed_at_the_second_step() {
    let mut bench = Bench::new(HashDecoder::new(500), 1000, config(64, ReplayConfig::default()));
    let plan = plan(&bench, "knorm(budget=0.3)");
    let mut client = bench.submit_with(
        Request { report: Some(ReportSpec { share: 0.0, within: None }), ..request(&[b'k'; 200], 30) },
        plan,
    );
    bench.run();
    let divergence = *measured(&client.read().reports[&0]);
    assert_eq!((divergence.steps, divergence.kl_first()), (2, Some(0.0)));
    assert!(divergence.kl_max > 0.0 && divergence.kl_max_step == 1);
}

#[test]
fn company_and_chunks_change_no_bit_of_a_report() {
    let outcomes = |step_tokens, company: usize| {
        let replay = ReplayConfig { reference: exact(Element::F32), beside: 3, ..ReplayConfig::default() };
        let mut bench = Bench::new(HashDecoder::new(500), 1000, config(step_tokens, replay));
        let plan = plan(&bench, "int4(window=0)");
        let mut client = bench.submit_with(reported(Request { n: 3, ..request(&[b'k'; 100], 60) }), plan);
        let _others: Vec<Client> = (0..company).map(|i| bench.submit(request(&[i as u8; 50], 150))).collect();
        bench.run();
        let all: Vec<Divergence> = client.read().reports.values().map(|report| *measured(report)).collect();
        assert_eq!(all.len(), 3);
        all
    };
    let alone = outcomes(512, 0);
    assert!(alone.iter().all(|divergence| divergence.steps == 21 && divergence.kl_max > 0.0));
    assert_ne!(alone[0], alone[1]);
    assert_eq!(alone, outcomes(7, 3));
    assert_eq!(alone, outcomes(64, 9));
}

#[test]
fn choices_share_the_prompt_of_the_exact_cache() {
    let mut bench = Bench::new(HashDecoder::new(500), 1000, config(64, ReplayConfig::default()));
    let mut client = bench.submit(reported(Request { n: 3, ..request(&[b'k'; 130], 20) }));
    bench.run();
    let tokens: Vec<usize> = client.read().reports.values().map(|report| report.exact_tokens).collect();
    // Up to the nineteenth token of the answer; of the prompt only the last token again.
    assert_eq!(tokens, [130 + 19, 1 + 19, 1 + 19]);
}
