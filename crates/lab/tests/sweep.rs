//! Sweeps are continued where they were cut off, and say what does not fit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use cachalot_lab::cell::Cell;
use cachalot_lab::quality::Record;
use cachalot_lab::report::Run;
use cachalot_lab::sweep::{Event, Kind, Plan, Store, SweepSettings, sheet, sweep};
use cachalot_lab::tasks::Mode;
use cachalot_lab::{LabError, candidate};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use support::{named, subject, text};

fn run(started: u64) -> Run {
    Run {
        command: vec!["cachalot".into(), "lab".into()],
        started,
        version: "0".into(),
        program_digest: None,
        model: json!({ "name": "calf" }),
        text: Value::Null,
        settings: Value::Null,
        machine: Value::Null,
    }
}

fn settings(recipes: &str, tasks: &str, depths: &[usize]) -> SweepSettings {
    SweepSettings {
        reference: candidate::resolve("f16", &[]).unwrap(),
        recipes: named(recipes),
        kinds: Kind::named(tasks).unwrap(),
        depths: depths.to_vec(),
        windows: 2,
        generations: 1,
        generation_tokens: 12,
        questions: 4,
        per_text: 2,
        mode: Mode::Shared,
        known: vec![false],
        chunk: 128,
        decode: 2,
        seed: 1,
        kv_budget_bytes: 1 << 30,
        cut: false,
    }
}

/// Runs a sweep until so many records are there; how many were added.
fn go(folder: &Path, settings: &SweepSettings, most: usize, started: u64) -> Result<usize, LabError> {
    let subject = subject();
    let plan = Plan::new(&subject, &text(400), settings)?;
    let mut store = Store::open(folder, &run(started))?;
    let mut added = 0;
    sweep(&subject, &plan, settings, &mut store, &mut |event| {
        if matches!(event, Event::Item(_)) && added >= most {
            return Err(LabError::Settings("interrupted".into()));
        }
        added += usize::from(matches!(event, Event::Record(_)));
        Ok(())
    })
}

fn cells(folder: &Path) -> Vec<Cell> {
    let mut cells = sheet(&Store::read(folder).unwrap()).cells;
    // What took how long is never the same.
    cells.iter_mut().for_each(|cell| {
        cell.speed = Default::default();
        cell.runs.clear();
    });
    cells
}

const TASKS: &str = "perplexity,generation,needle,attention";

#[test]
fn what_was_cut_off_is_continued_and_nothing_is_lost() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = settings("f32,int8,int2,streamingllm(budget=0.4)", TASKS, &[256, 400]);
    let all = go(whole.path(), &settings, usize::MAX, 1).unwrap();
    // Windows, generations, texts and attention, at two lengths, of five caches.
    assert_eq!(all, 2 * (2 + 1 + 2 + 1) * 5);
    let mut added = 0;
    for started in 0.. {
        let before = Store::read(cut.path()).map_or(0, |store| store.len());
        match go(cut.path(), &settings, 7, started) {
            Ok(last) => {
                added += last;
                break;
            }
            Err(error) => assert_eq!(error.to_string(), "interrupted"),
        }
        added += Store::read(cut.path()).unwrap().len() - before;
        // The machine fails in the middle of a line.
        let mut file = std::fs::File::options().append(true).open(cut.path().join("results.jsonl")).unwrap();
        file.write_all(b"{\"kind\":\"record\",\"rec").unwrap();
    }
    assert_eq!(added, all);
    assert_eq!(
        Store::read(cut.path()).unwrap().broken().len() + 2,
        sheet(&Store::read(cut.path()).unwrap()).runs.len() + 1
    );
    assert_eq!(cells(cut.path()), cells(whole.path()));
    // Again there is nothing to do.
    assert_eq!(go(whole.path(), &settings, usize::MAX, 2).unwrap(), 0);
}

#[test]
fn cells_say_what_exact_and_coarse_caches_cost() {
    let folder = tempfile::tempdir().unwrap();
    go(folder.path(), &settings("f32,int8,int4,int3,int2", TASKS, &[400]), usize::MAX, 1).unwrap();
    let cells = sheet(&Store::read(folder.path()).unwrap()).cells;
    let of = |recipe: &str, task: &str| cells.iter().find(|cell| cell.recipe == recipe && cell.task == task).unwrap();
    for task in ["perplexity", "generation"] {
        let kl = |recipe: &str| of(recipe, task).divergence.clone().unwrap().kl_mean;
        assert_eq!(kl("f16"), 0.0);
        assert!(["int8", "int4", "int3", "int2"].is_sorted_by(|a, b| kl(a) < kl(b)), "{task}");
    }
    let reference = of("f16", "perplexity");
    assert!(reference.is_reference && (reference.items, reference.planned) == (2, 2));
    let memory = of("int8", "perplexity").memory.unwrap();
    assert!(memory.bytes < memory.reference_bytes && memory.peak_bytes >= memory.bytes, "{memory:?}");
    assert!(memory.bits > 8.0 && memory.bits < 16.0);
    let answered = of("f16", "needle").answers.clone().unwrap();
    assert_eq!((answered.questions, answered.difference, answered.same), (4, 0.0, 1.0));
    // Four equal pairs prove little.
    assert!(answered.difference_interval.low < -0.2 && answered.by_depth.len() == 4);
    assert_eq!(of("f16", "generation").generation.clone().unwrap().agreement, 1.0);
    let error = |recipe: &str| of(recipe, "attention").heads.iter().flatten().sum::<f64>();
    assert!(error("f16") == 0.0 && error("int8") > 0.0 && error("int2") > error("int3"));
    let speed = of("int4", "perplexity").speed;
    assert!(speed.decode.unwrap() > 0.0 && speed.decode_ratio.unwrap() > 0.0 && speed.prefill.unwrap() > 0.0);
    assert!(of("int4", "needle").speed.ttft.unwrap() > 0.0);
}

/// With the question known only recipes that reduce are measured again; for the others it is all the same.
#[test]
fn known_questions_concern_those_that_reduce() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings("int4,snapkv(budget=0.5)", "needle", &[400]);
    settings.known = vec![false, true];
    let mut records: Vec<Record> = Vec::new();
    let subject = subject();
    let plan = Plan::new(&subject, &text(400), &settings).unwrap();
    let mut store = Store::open(folder.path(), &run(1)).unwrap();
    sweep(&subject, &plan, &settings, &mut store, &mut |event| {
        if let Event::Record(record) = event {
            records.push(record.clone());
        }
        Ok(())
    })
    .unwrap();
    let count = |recipe: &str, known| {
        records.iter().filter(|r| r.recipe.starts_with(recipe) && r.item.known == Some(known)).count()
    };
    assert_eq!([count("f16", false), count("int4", false), count("snapkv", false)], [2, 2, 2]);
    assert_eq!([count("f16", true), count("int4", true), count("snapkv", true)], [0, 0, 2]);
    let cells = cells(folder.path());
    let of = |recipe: &str, known| {
        let cell = cells.iter().find(|cell| cell.recipe.starts_with(recipe) && cell.known == Some(known)).unwrap();
        cell.answers.clone().unwrap()
    };
    assert_eq!(of("int4", true), of("int4", false));
    assert_eq!(of("f16", true).questions, 4);
}

#[test]
fn a_folder_is_for_one_sweep_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings("int4", "needle", &[400]);
    let held = Store::open(folder.path(), &run(1)).unwrap();
    assert!(matches!(go(folder.path(), &settings, usize::MAX, 2), Err(LabError::Busy { .. })));
    drop(held);
    assert!(go(folder.path(), &settings, usize::MAX, 2).unwrap() > 0);
}

/// Another seed makes other questions: those of the last run count.
#[test]
fn what_depends_on_something_else_is_measured_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings("int4", "needle,perplexity", &[400]);
    assert_eq!(go(folder.path(), &settings, usize::MAX, 1).unwrap(), 8);
    settings.seed = 2;
    // Windows do not depend on the seed.
    assert_eq!(go(folder.path(), &settings, usize::MAX, 2).unwrap(), 4);
    let sheet = sheet(&Store::read(folder.path()).unwrap());
    let needle = sheet.cells.iter().find(|cell| cell.task == "needle" && !cell.is_reference).unwrap();
    assert_eq!((needle.items, needle.runs.clone()), (2, vec![run(2).id()]));
    // More recipes and lengths stand beside what is there.
    let more = self::settings("int8", "perplexity", &[256, 400]);
    assert_eq!(go(folder.path(), &more, usize::MAX, 3).unwrap(), 2 + 4);
    let names: Vec<String> =
        self::sheet(&Store::read(folder.path()).unwrap()).recipes.iter().map(|r| r.name.clone()).collect();
    assert_eq!(names, ["f16", "int4", "int8"]);
}

#[test]
fn what_does_not_fit_is_named() {
    let subject = subject();
    let plan = |tasks: &str, depths: &[usize]| Plan::new(&subject, &text(400), &settings("int4", tasks, depths));
    let skipped = plan("perplexity,generation,needle", &[24, 400]).unwrap().skipped;
    let named: Vec<(&str, usize)> = skipped.iter().map(|skipped| (&skipped.task[..], skipped.tokens)).collect();
    assert_eq!(named, [("generation", 24), ("needle", 24)]);
    assert!(skipped[1].reason.contains("at least"), "{skipped:?}");
    let error = |tasks: &str, depths: &[usize]| plan(tasks, depths).err().unwrap().to_string();
    assert!(error("needle", &[24]).contains("nothing to measure"));
    assert!(error("needle", &[4000]).contains("context of 2048"));
    assert!(error("needle", &[]).contains("--depths"));
    assert!(error("perplexity", &[2048]).contains("to decode"));
}
