//! Made-up questions and files, asked of the embedded model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use cachalot_lab::quality::{Answer, Event, QualitySettings, measure};
use cachalot_lab::tasks::{self, Mode};
use cachalot_lab::{LabError, candidate};
use serde_json::json;
use support::{log, subject};

/// Every answer with its recipe and its task.
fn ask(tasks: &str, mode: Mode, question_known: bool, chunk: usize) -> Vec<(String, String, Answer)> {
    let settings = QualitySettings {
        windows: 0,
        questions: 4,
        questions_per_text: 4,
        question_tokens: 700,
        tasks: tasks::named(tasks).unwrap(),
        mode,
        question_known,
        chunk,
        resamples: 10,
        ..QualitySettings::new(candidate::resolve("f16", &[]).unwrap(), 1 << 30)
    };
    let mut answers = Vec::new();
    let mut observe = |event: Event<'_>| -> Result<(), LabError> {
        if let Event::Record(record) = event {
            let named = |answer: &Answer| (record.recipe.clone(), record.item.task.clone(), answer.clone());
            answers.extend(record.answers.iter().map(named));
        }
        Ok(())
    };
    let recipes = candidate::resolve_list("f16,snapkv(budget=0.4)", &[]).unwrap();
    let outcomes = measure(&subject(), &log(600), &recipes, &settings, &mut observe).unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()), "{outcomes:#?}");
    let sources = settings.tasks.len();
    // The same cache answers the same.
    assert_eq!(outcomes[1].answers.len(), sources);
    assert!(outcomes[1].answers.iter().all(|task| task.same_as_reference == task.of), "{outcomes:#?}");
    answers
}

#[test]
fn turns_are_answered_as_if_the_prompt_were_new() {
    let answers = |chunk| -> Vec<(String, String, usize, String)> {
        let answers = ask("multi-key,copy", Mode::Turns, false, chunk);
        answers.into_iter().map(|(recipe, task, a)| (recipe, task, a.turn, a.answer)).collect()
    };
    let all = answers(128);
    assert_eq!(all.len(), 3 * 2 * 4);
    assert_eq!(all.iter().map(|answer| answer.2).max(), Some(3));
    assert_eq!(all, answers(57));
}

#[test]
fn files_are_asked_with_the_question_known_and_not() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..40).map(|i| format!("Line {i} of the log. ")).collect();
    let turn = |value: &str| json!({ "input": "What is the value?", "answer": value });
    let kv = json!({ "id": 0, "context": text, "multi_turns": [turn("one"), turn("two"), turn("three")] });
    let prompts =
        [json!({ "prompt": text }), json!({ "prompt": "Question: Which line?", "context": text, "answer": "3" })];
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("scbench_kv.jsonl"), kv.to_string()).unwrap();
    std::fs::write(path("mine.jsonl"), prompts.map(|line| line.to_string()).join("\n")).unwrap();
    let tasks = format!("jsonl:{},scbench:{}", path("mine.jsonl"), path("scbench_kv.jsonl"));
    for mode in [Mode::Shared, Mode::Turns] {
        for known in [false, true] {
            let answers = ask(&tasks, mode, known, 128);
            assert_eq!(answers.len(), 3 * 5);
            assert_eq!(answers.iter().filter(|(.., a)| a.expected.is_empty() && a.score == 0.0).count(), 3);
            assert_eq!(answers.iter().filter(|(.., a)| a.scoring == "contains").count(), 9);
        }
    }
    // A prompt that is always known is reduced behind its end, whatever was asked for.
    let reduced = |known| -> Vec<String> {
        let answers = ask(&format!("jsonl:{}", path("mine.jsonl")), Mode::Single, known, 128);
        let second = answers.into_iter().filter(|(recipe, _, a)| recipe != "f16" && a.index == 0);
        second.map(|(.., a)| a.answer).collect()
    };
    assert_eq!(reduced(false), reduced(true));
}
