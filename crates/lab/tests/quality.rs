//! The whole harness on the embedded model: exact recipes are exact, and planted bugs are seen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use cachalot_kv::{KvCache, Rope, Segment};
use cachalot_lab::quality::{Answer, Event, QualitySettings, measure};
use cachalot_lab::{Candidate, LabError, Subject, Text, candidate};
use cachalot_model::Decoder;
use std::sync::Arc;
use support::{Meddler, Planted, loaded, named, run, settings, subject, text};

/// Collects what recipes answered, with their names.
fn answers_into(into: &mut Vec<(String, Answer)>) -> impl FnMut(Event<'_>) -> Result<(), LabError> {
    |event| {
        if let Event::Record(record) = event {
            into.extend(record.answers.iter().map(|answer| (record.recipe.clone(), answer.clone())));
        }
        Ok(())
    }
}

#[test]
fn the_same_cache_is_exactly_the_same_and_coarser_ones_are_not() {
    let outcomes = run(&subject(), &named("f16,f32,bf16,k=f16,v=bf16"), &settings());
    let scores: Vec<_> = outcomes.iter().map(|o| o.scores.clone().unwrap()).collect();
    for exact in &scores[..2] {
        assert_eq!(exact.tokens, 2 * 299);
        assert_eq!((exact.kl_mean, exact.kl_p99, exact.kl_max), (0.0, 0.0, 0.0));
        assert_eq!((exact.top1, exact.top5, exact.perplexity_ratio), (1.0, 1.0, 1.0));
        assert_eq!((exact.kl_interval.low, exact.kl_interval.high), (0.0, 0.0));
    }
    let kl: Vec<f64> = scores.iter().map(|s| s.kl_mean).collect();
    // bf16 has three bits less than f16, which differs from f32 by its own rounding only.
    assert!(kl[2] > 0.0 && kl[3] > 8.0 * kl[2], "{kl:?}");
    assert!(kl[4] > 0.0 && kl[4] < kl[3], "{kl:?}");
    assert!(kl[3] < 1e-3 && scores[3].top1 > 0.97, "{:?}", scores[3]);
    for (outcome, bits) in outcomes.iter().zip([16.0, 16.0, 32.0, 16.0, 16.0]) {
        // 300 tokens of a lane take 5 pages of 64, each with a header of 64 bytes.
        let memory = outcome.memory.unwrap();
        let page = 64.0 * 8.0 + bits * 64.0 * 128.0;
        assert_eq!(memory.bits_per_element, 5.0 * page / (300.0 * 128.0), "{}", outcome.recipe);
        assert_eq!(memory.bytes, memory.predicted_bytes);
        assert!(outcome.speed.decode.unwrap() > 0.0 && outcome.speed.scoring.unwrap() > 0.0);
    }
}

#[test]
fn chunks_and_groups_change_no_digit() {
    let scores = |settings: &QualitySettings| -> Vec<_> {
        run(&subject(), &named("f32,bf16"), settings).into_iter().map(|o| o.scores.unwrap()).collect()
    };
    let whole = scores(&settings());
    assert_eq!(scores(&QualitySettings { chunk: 37, ..settings() }), whole);
    // Memory for the reference and one recipe at a time.
    let bytes = |name| candidate::resolve(name, &[]).unwrap().cache(&subject(), 0).unwrap().bytes_for_tokens(320);
    let kv_budget_bytes = bytes("f16") + bytes("f32");
    assert_eq!(scores(&QualitySettings { kv_budget_bytes, ..settings() }), whole);
    let tight = QualitySettings { kv_budget_bytes: kv_budget_bytes - 1, ..settings() };
    let error = measure(&subject(), &text(400), &named("f32"), &tight, &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("larger budget"), "{error}");
}

#[test]
fn fewer_bits_are_worse_whatever_the_chunks() {
    let measured = |chunk| -> Vec<(f64, f64)> {
        let outcomes = run(&subject(), &named("int8,int4,int3,int2"), &QualitySettings { chunk, ..settings() });
        outcomes.iter().map(|o| (o.scores.as_ref().unwrap().kl_mean, o.memory.unwrap().bits_per_element)).collect()
    };
    let rows = measured(128);
    assert!(rows.is_sorted_by(|a, b| a.0 < b.0 && a.1 > b.1), "{rows:?}");
    // Twice as many levels for each bit make a quarter of the squared error, which is what divergence grows with.
    assert!(rows[2].0 > 20.0 * rows[1].0 && rows[4].0 > 2.0 * rows[3].0, "{rows:?}");
    // A query reads older pages encoded and newer ones exactly, wherever the steps were cut.
    assert_eq!(measured(37), rows);
}

#[test]
fn planted_bugs_are_seen() {
    let recipes: Vec<Arc<dyn Candidate>> = vec![
        Arc::new(Planted("nothing", |_| {})),
        Arc::new(Planted("off by one", |c| c.layers.iter_mut().for_each(|l| l.window = Some(298)))),
        Arc::new(Planted("window of 128", |c| c.layers.iter_mut().for_each(|l| l.window = Some(128)))),
        Arc::new(Planted("window of 16", |c| c.layers.iter_mut().for_each(|l| l.window = Some(16)))),
        Arc::new(Planted("wrong positions", |c| {
            let rope = Arc::new(Rope::new((0..32).map(|i| 10_000f32.powf(i as f32 / -32.0)).collect(), 1.0));
            c.layers.iter_mut().for_each(|l| l.rope = Some(rope.clone()));
        })),
        Arc::new(Planted("no positions in one layer", |c| c.layers[3].rope = None)),
        Arc::new(Planted("wrong scale in one layer", |c| c.layers[3].scale *= 1.05)),
        Arc::new(Planted("other heads", |c| c.layers[0].kv_heads = 1)),
    ];
    let outcomes = run(&subject(), &recipes, &settings());
    let kl = |name: &str| {
        let outcome = outcomes.iter().find(|o| o.recipe == name).unwrap();
        outcome.scores.as_ref().unwrap_or_else(|| panic!("{outcome:?}")).kl_mean
    };
    let coarse = run(&subject(), &named("bf16"), &settings())[1].scores.as_ref().unwrap().kl_mean;
    assert_eq!(kl("nothing"), 0.0);
    for bug in
        ["window of 128", "window of 16", "wrong positions", "no positions in one layer", "wrong scale in one layer"]
    {
        assert!(kl(bug) > 3.0 * coarse, "{bug}: {} beside {coarse} of bf16", kl(bug));
    }
    assert!(kl("window of 16") > 0.05 && kl("window of 16") > kl("window of 128"));
    assert!(kl("wrong positions") > 0.01);
    // The least that can be wrong: the last two tokens miss the first one or two.
    assert!(kl("off by one") > 0.0 && kl("off by one") < kl("window of 128"));
    // Before the window ends nothing is forgotten, and after that something is.
    let depths = &outcomes.iter().find(|o| o.recipe == "window of 128").unwrap().scores.as_ref().unwrap().by_depth;
    assert_eq!(depths.iter().filter(|d| d.to <= 128).map(|d| d.kl_mean).sum::<f64>(), 0.0);
    assert!(depths.iter().filter(|d| d.from >= 128).all(|d| d.kl_mean > 0.0), "{depths:?}");
    // What cannot run at all fails alone.
    let heads = outcomes.iter().find(|o| o.recipe == "other heads").unwrap();
    assert!(heads.failure.is_some() && heads.scores.is_none(), "{heads:?}");
}

#[test]
fn needles_are_found_and_lost() {
    // The model was trained on the first kind alone.
    let settings = QualitySettings { windows: 0, questions: 6, questions_per_text: 1, ..settings() };
    let recipes: Vec<Arc<dyn Candidate>> = vec![
        candidate::resolve("f32", &[]).unwrap(),
        Arc::new(Planted("window of 16", |c| c.layers.iter_mut().for_each(|l| l.window = Some(16)))),
    ];
    let mut answers = Vec::new();
    // Without its chat template the model is asked in the words it was trained on.
    let subject = Subject { template: None, ..subject() };
    let outcomes = measure(&subject, &text(400), &recipes, &settings, &mut answers_into(&mut answers)).unwrap();
    let right: Vec<usize> = outcomes.iter().map(|o| o.answers[0].right).collect();
    assert!(right[0] >= 5 && right[1] >= 5 && right[2] == 0, "{right:?} {answers:#?}");
    assert_eq!(outcomes[0].answers[0].same_as_reference, 6);
    assert_eq!(answers.len(), 18);
    assert!(answers.iter().all(|(_, a)| (330..=400).contains(&a.prompt_tokens)), "{answers:#?}");
    let mut depths: Vec<f64> =
        answers.iter().filter(|(recipe, _)| recipe == "f16").map(|(_, a)| a.depth.unwrap()).collect();
    depths.sort_by(f64::total_cmp);
    assert!(depths.iter().enumerate().all(|(i, depth)| (depth - (i as f64 + 0.5) / 6.0).abs() < 1e-9), "{depths:?}");
}

#[test]
fn a_recipe_that_breaks_breaks_alone() {
    // Logits that are no numbers for long sequences in a cache of more than sixteen bits.
    let broken = Meddler(|cache: &KvCache, segments: &mut [Segment<'_>], tokens: &[u32], rows: &[usize]| {
        let breaks = cache.bytes_per_token() > 4000.0 && segments.iter().any(|s| s.seq.len() + s.rows > 200);
        let mut logits = loaded().model.forward(cache, segments, tokens, rows)?;
        logits.iter_mut().for_each(|logit| *logit = if breaks { f32::NAN } else { *logit });
        Ok(logits)
    });
    let subject = Subject { decoder: &broken, ..subject() };
    let outcomes = run(&subject, &named("f32,bf16"), &settings());
    let failure = outcomes[1].failure.as_ref().unwrap();
    assert!(failure.contains("NaN") && failure.contains("window 1, from token 128"), "{failure}");
    for whole in [&outcomes[0], &outcomes[2]] {
        assert!(whole.failure.is_none() && whole.scores.as_ref().unwrap().tokens == 2 * 299);
    }
    // Without the reference there is nothing to compare with.
    let settings = QualitySettings { reference: candidate::resolve("f32", &[]).unwrap(), ..settings() };
    let error = measure(&subject, &text(400), &named("bf16"), &settings, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(&error, LabError::Reference { name, .. } if name == "f32"), "{error}");
}

#[test]
fn settings_that_cannot_be_met_say_what_would() {
    let fails = |text: &Text, settings: QualitySettings| {
        measure(&subject(), text, &named("f32"), &settings, &mut |_| Ok(())).unwrap_err().to_string()
    };
    let long = text(400);
    assert!(fails(&long, QualitySettings { window: 2047, ..settings() }).contains("context of 2048"));
    assert!(
        fails(&long, QualitySettings { questions: 1, question_tokens: 2040, ..settings() }).contains("context of 2048")
    );
    assert!(fails(&long, QualitySettings { windows: 0, ..settings() }).contains("nothing to measure"));
    assert!(fails(&long, QualitySettings { chunk: 0, ..settings() }).contains("at least 1"));
    assert!(fails(&long, QualitySettings { window: 1, ..settings() }).contains("predicts nothing"));
    assert!(fails(&long, QualitySettings { questions: 1, question_tokens: 10, ..settings() }).contains("at least"));
    let short = fails(&text(20), QualitySettings { windows: 1, ..settings() });
    assert!(short.contains("made-up sentences") && short.contains("a window 300"), "{short}");
    let filler = fails(&text(20), QualitySettings { windows: 0, questions: 1, ..settings() });
    assert!(filler.contains("too short to fill"), "{filler}");
}

#[test]
fn an_observer_that_fails_ends_the_run() {
    let result = measure(&subject(), &text(400), &named("f32"), &settings(), &mut |event| match event {
        Event::Record(_) => Err(LabError::Settings("disk full".into())),
        _ => Ok(()),
    });
    assert_eq!(result.unwrap_err().to_string(), "disk full");
}

/// Answers are those of whole prompts: what questions share is read once, the rest on branches.
#[test]
fn questions_that_share_their_text_are_answered_as_if_alone() {
    let ask = |needles, chunk| {
        let mut answers = Vec::new();
        let settings = QualitySettings { windows: 0, questions: needles, question_tokens: 500, chunk, ..settings() };
        let mut total = (0, 0);
        {
            let mut collect = answers_into(&mut answers);
            let mut observe = |event: Event<'_>| {
                if let Event::Progress { done, total: all } = event {
                    total = (done, all);
                }
                collect(event)
            };
            measure(&subject(), &text(400), &named("int3"), &settings, &mut observe).unwrap();
        }
        assert_eq!(total.0, total.1);
        answers
            .into_iter()
            .map(|(recipe, a)| (recipe, a.index, a.answer, a.prompt_tokens, a.prefill_tokens))
            .collect::<Vec<_>>()
    };
    let (together, again) = (ask(12, 128), ask(12, 33));
    assert_eq!(together, again);
    assert_eq!(together.len(), 24);
    // Three texts of four questions, each read once.
    for (_, index, _, prompt, computed) in &together {
        assert!(if index % 4 == 0 { prompt == computed } else { *computed < 90 }, "{index} {computed}");
    }
}
