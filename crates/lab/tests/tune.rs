//! Recipes that a search finds are what it says of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use cachalot_lab::candidate;
use cachalot_lab::quality::{QualitySettings, measure};
use cachalot_lab::tasks;
use cachalot_lab::tune::{Aim, Choice, Found, Goal, TuneSettings, tune};
use support::{subject, text};

fn settings(aim: Aim) -> TuneSettings {
    TuneSettings {
        reference: candidate::resolve("f16", &[]).unwrap(),
        goal: Goal { aim, losses: Vec::new(), perplexity: None },
        tokens: 256,
        context: 1024,
        windows: 2,
        questions: 5,
        spend: 9_000,
        heads: false,
        choice: Choice::default(),
        method: "streamingllm".into(),
        profiles: Vec::new(),
        chunk: 128,
        seed: 1,
        kv_budget_bytes: 1 << 30,
        by_chance: false,
    }
}

fn found(settings: &TuneSettings) -> Result<Found, String> {
    tune(&subject(), &text(400), settings, &mut |_| Ok(())).map_err(|error| error.to_string())
}

/// The recipe's file, measured by the laboratory on the text held back, comes to what it says.
#[test]
fn a_recipe_is_what_its_notes_say() {
    let settings = TuneSettings { by_chance: true, ..settings(Aim::Smallest { kl: 0.005 }) };
    let found = found(&settings).unwrap();
    let held = &found.evidence.held;
    assert!(held.kl <= 0.005 && held.kl > 0.0, "{held:?}");
    let recipe = candidate::from_toml(&found.recipe, "found", &[]).unwrap();
    let bytes = recipe.cache(&subject(), 0).unwrap().bytes_for_tokens(1024);
    assert_eq!(bytes, found.evidence.chosen.bytes);
    let exact = settings.reference.cache(&subject(), 0).unwrap().bytes_for_tokens(1024);
    assert!(bytes < exact / 2, "{bytes} {exact}");
    // Every other window of the text is held back.
    let quality = QualitySettings {
        window: 256,
        windows: 4,
        context: 128,
        chunk: 128,
        decode: 0,
        questions: 0,
        resamples: 10,
        ..QualitySettings::new(settings.reference.clone(), 1 << 30)
    };
    let mut records = Vec::new();
    measure(&subject(), &text(400), &[recipe], &quality, &mut |event| {
        if let cachalot_lab::quality::Event::Record(record) = event {
            records.push(record.clone());
        }
        Ok(())
    })
    .unwrap();
    let held_back = records.iter().filter(|record| !record.is_reference && record.item.index % 2 == 1);
    let sums = held_back.flat_map(|record| record.window.as_ref().unwrap().blocks.clone());
    let (tokens, kl) = sums.fold((0.0, 0.0), |(tokens, kl), block| (tokens + block[0], kl + block[1]));
    assert!((kl / tokens - held.kl).abs() < 1e-12, "{} {}", kl / tokens, held.kl);
    // Chance had the same tokens.
    let (chance, _) = found.evidence.chance.as_ref().unwrap();
    assert!(chance.spent <= found.evidence.spent + 4 * 512 && bytes <= chance.bytes, "{bytes} {}", chance.bytes);
    assert!(found.recipe.contains("Wanted: the smallest cache at 1024 tokens"), "{}", found.recipe);
}

/// Heads of a layer that have widths of their own are what the recipe says, too.
#[test]
fn heads_can_have_widths_of_their_own() {
    let settings = TuneSettings { heads: true, ..settings(Aim::Smallest { kl: 0.01 }) };
    let found = found(&settings).unwrap();
    assert!(found.evidence.held.kl <= 0.01 && found.recipe.contains("heads = "), "{}", found.recipe);
    let recipe = candidate::from_toml(&found.recipe, "found", &[]).unwrap();
    assert_eq!(recipe.cache(&subject(), 0).unwrap().bytes_for_tokens(1024), found.evidence.chosen.bytes);
}

#[test]
fn bytes_are_a_limit_and_the_seed_decides() {
    let settings = settings(Aim::Best { bytes: 900_000 });
    let one = found(&settings).unwrap();
    assert!(one.evidence.chosen.bytes <= 900_000);
    assert_eq!(one.recipe, found(&settings).unwrap().recipe);
    // Less room is no better.
    let less = found(&TuneSettings {
        goal: Goal { aim: Aim::Best { bytes: 450_000 }, ..settings.goal },
        ..self::settings(Aim::Best { bytes: 1 })
    });
    assert!(less.unwrap().evidence.chosen.kl > one.evidence.chosen.kl);
}

#[test]
fn what_cannot_be_met_is_said() {
    let error = found(&settings(Aim::Smallest { kl: 1e-12 })).err().unwrap();
    assert!(error.contains("nothing that was tried") && error.contains("closest"), "{error}");
    let error = found(&settings(Aim::Best { bytes: 10 })).err().unwrap();
    assert!(error.contains("nothing that was tried"), "{error}");
    let impossible = Goal { perplexity: Some(0.5), ..settings(Aim::Smallest { kl: 0.01 }).goal };
    let error = found(&TuneSettings { goal: impossible, ..settings(Aim::Smallest { kl: 0.01 }) }).err().unwrap();
    assert!(error.contains("does not hold") && error.contains("perplexity"), "{error}");
    let error = found(&TuneSettings { tokens: 9999, ..settings(Aim::Smallest { kl: 0.01 }) }).err().unwrap();
    assert!(error.contains("4 to 2048"), "{error}");
    assert!(found(&settings(Aim::Smallest { kl: f64::NAN })).err().unwrap().contains("above zero"));
}

#[test]
fn tasks_are_held_to_what_they_may_lose() {
    let needle = tasks::named("needle").unwrap().remove(0);
    let goal = Goal { losses: vec![(needle, 1.0)], ..settings(Aim::Smallest { kl: 0.05 }).goal };
    let found = found(&TuneSettings { goal, ..settings(Aim::Smallest { kl: 0.05 }) }).unwrap();
    let loss = &found.evidence.held.losses[0];
    assert_eq!((&loss.task[..], loss.questions), ("needle", 5));
    assert!(loss.interval.low <= loss.loss && loss.loss <= loss.interval.high);
    assert!(found.recipe.contains("Of 5 questions of needle"), "{}", found.recipe);
}
