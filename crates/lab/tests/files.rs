//! Questions from files: every format, broken lines, prompts that are too long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use cachalot_lab::tasks::{self, Case, Mode, Source, Wanted};
use cachalot_lab::{LabError, Subject, Text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::{loaded, log, subject};

/// A file in a folder of its own, gone when dropped.
struct File(tempfile::TempDir, &'static str);

impl File {
    fn new(name: &'static str, lines: &[Value]) -> File {
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        File::raw(name, lines.join("\n").as_bytes())
    }

    fn raw(name: &'static str, bytes: &[u8]) -> File {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        File(folder, name)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join(self.1)
    }

    fn open(&self, format: &str) -> Result<Vec<Arc<dyn Source>>, LabError> {
        open(format, &self.path())
    }

    fn only(&self, format: &str) -> Arc<dyn Source> {
        let mut sources = self.open(format).unwrap();
        assert_eq!(sources.len(), 1);
        sources.remove(0)
    }

    fn error(&self, format: &str) -> String {
        self.open(format).err().unwrap().to_string()
    }
}

fn open(format: &str, path: &Path) -> Result<Vec<Arc<dyn Source>>, LabError> {
    tasks::named(&format!("{format}:{}", path.display()))
}

fn filler() -> Text {
    log(3)
}

fn wanted(text: &Text) -> Wanted<'_> {
    Wanted { text, tokens: 1500, questions: 100, per_text: 1, mode: Mode::Shared, seed: 1, cut: false }
}

fn decode(ids: &[u32]) -> String {
    loaded().tokenizer.decode(ids)
}

fn cases(source: &Arc<dyn Source>) -> Vec<Case> {
    source.cases(&subject(), &wanted(&filler())).unwrap()
}

/// Lines that are all different, and how many tokens they have.
fn long(lines: usize) -> String {
    (0..lines).map(|i| format!("Line {i} of the log.\n")).collect()
}

#[test]
fn prompts_and_chats_of_a_user() {
    let file = File::new(
        "mine.jsonl",
        &[
            json!({ "prompt": "Once upon a time", "id": "fairy" }),
            json!({
                "prompt": "Who sold it?", "context": "The miller sold the boat.", "answers": ["miller", "the Miller"],
            }),
            json!({ "messages": [
                { "role": "system", "content": "Be brief." },
                { "role": "user", "content": "Remember 7." },
                { "role": "assistant", "content": "Done." },
                { "role": "user", "content": "Which numbers?" },
            ], "expected": [7, "eight"], "max_tokens": 5 }),
            json!({ "messages": [{ "role": "user", "content": "Hello <|im_end|>" }], "answer": "Hello" }),
        ],
    );
    let source = file.only("jsonl");
    assert!(!source.follows_length() && source.warnings().is_empty());
    assert_eq!(source.answer_tokens(), 64);
    let cases = cases(&source);
    assert_eq!(cases.len(), 4);
    // A prompt is continued as it is, and nothing is expected of it.
    assert_eq!(decode(&cases[0].prompt), "Once upon a time");
    assert_eq!((cases[0].id.as_deref(), cases[0].context), (Some("fairy"), 0));
    assert!(cases[0].expected.is_empty() && cases[0].score("anything") == 0.0);
    assert_eq!(cases[1].id.as_deref(), Some("2"));
    // Where the text is apart, it can be reduced without the question.
    assert_eq!(decode(&cases[1].prompt), "The miller sold the boat.\n\nWho sold it?");
    assert_eq!(decode(&cases[1].prompt[..cases[1].context]), "The miller sold the boat.\n\n");
    assert_eq!((cases[1].score("the MILLER did"), cases[1].score("the child")), (1.0, 0.0));
    let chat = decode(&cases[2].prompt);
    assert!(chat.contains("system\nBe brief.\nuser\nRemember 7.\nassistant\nDone.\nuser\nWhich numbers?\n"), "{chat}");
    assert!(decode(&cases[2].prompt[..cases[2].context]).ends_with("Done.\nuser\n"));
    assert_eq!((cases[2].score("7 or so"), cases[2].score("7, Eight")), (0.5, 1.0));
    assert_eq!(cases[2].answer_tokens, 5);
    // What a message spells ends no turn.
    assert!(decode(&cases[3].prompt).contains("Hello <|im_end|>"));
    assert_eq!(cases[3].context, 0);
    // Without a chat template there is no chat.
    let plain = Subject { template: None, ..subject() };
    let error = source.cases(&plain, &wanted(&filler())).unwrap_err().to_string();
    assert!(error.contains("mine.jsonl") && error.contains("line 3") && error.contains("chat template"), "{error}");
}

#[test]
fn broken_lines_are_named_and_left_out() {
    let mut bytes = b"{\"prompt\": \"one\"}\n\n{\"prompt\": \"tw\n".to_vec();
    bytes.extend(b"{\"prompt\": \"\xff\"}\n[1]\n{\"promt\": \"x\"}\n{\"prompt\": 5}\n{\"prompt\": \" \"}\n");
    bytes.extend(b"{\"prompt\": \"a\", \"messages\": []}\n{\"messages\": []}\n");
    bytes.extend(b"{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\"}]}\n");
    bytes.extend(
        b"{\"prompt\": \"x\", \"answer\": \"a\", \"answers\": [\"b\"]}\n{\"prompt\": \"x\", \"max_tokens\": 0}\n",
    );
    bytes.extend(b"{\"messages\": [{\"role\": 5}]}\r\n{\"prompt\": \"two\"}\r\n");
    let file = File::raw("mixed.jsonl", &bytes);
    let source = file.only("jsonl");
    let ids: Vec<Option<String>> = cases(&source).into_iter().map(|case| case.id).collect();
    assert_eq!(ids, [Some("1".to_owned()), Some("15".to_owned())]);
    let warnings = source.warnings();
    let reasons = [
        (3, "broken JSON"),
        (4, "byte 12"),
        (5, "no JSON object"),
        (6, "neither `prompt` nor `messages`"),
        (7, "`prompt` is not a string"),
        (8, "empty"),
        (9, "both"),
        (10, "no messages"),
        (11, "`assistant`"),
        (12, "`answer`"),
        (13, "max_tokens"),
        (14, "message 1"),
    ];
    assert_eq!(warnings.len(), reasons.len(), "{warnings:#?}");
    for (warning, (line, reason)) in warnings.iter().zip(reasons) {
        assert!(warning.contains(&format!("mixed.jsonl, line {line}: ")) && warning.contains(reason), "{warning}");
    }
}

#[test]
fn files_without_a_good_line_are_errors() {
    assert!(File::raw("empty.jsonl", b"\n \n").error("jsonl").contains("is empty"));
    let error = File::raw("binary.jsonl", &[0, 159, 146, 150, 10, 7]).error("jsonl");
    assert!(
        error.contains("binary.jsonl") && error.contains("no line that can be used") && error.contains("line 1"),
        "{error}"
    );
    let error = File::raw("x.jsonl", b"{\"a\": 1}").error("longbench");
    assert!(error.contains("there is no dataset `x`") && error.contains("hotpotqa"), "{error}");
    let error = File::raw("x.jsonl", b"{\"a\": 1}").error("scbench");
    assert!(error.contains("there is no dataset `x`") && error.contains("scbench_repoqa_and_kv"), "{error}");
    let missing = open("ruler", Path::new("/nowhere/at/all.jsonl")).err().unwrap();
    assert!(matches!(&missing, LabError::Io { .. }), "{missing}");
    let folder = tempfile::tempdir().unwrap();
    assert!(open("ruler", folder.path()).err().unwrap().to_string().contains("no .jsonl files"));
}

#[test]
fn prompts_without_room_are_errors_or_cut() {
    let text = long(400);
    let file = File::new("long.jsonl", &[json!({ "prompt": "short" }), json!({ "prompt": text })]);
    let source = file.only("jsonl");
    let filler = filler();
    let error = source.cases(&subject(), &wanted(&filler)).unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("context of 2048"), "{error}");
    let cases = source.cases(&subject(), &Wanted { cut: true, ..wanted(&filler) }).unwrap();
    assert_eq!((cases[0].cut, cases[1].cut), (false, true));
    let (prompt, tokens) = (decode(&cases[1].prompt), cases[1].prompt.len());
    assert!(tokens <= 2048 - 64 && tokens > 2048 - 64 - 20, "{tokens}");
    // The same at both ends, and nothing of the middle.
    assert!(prompt.starts_with("Line 0 of") && prompt.ends_with("Line 399 of the log.\n"));
    let middle = text.len() / 2;
    assert!(!prompt.contains(&text[middle - 30..middle + 30]));
    let head = prompt.chars().zip(text.chars()).take_while(|(a, b)| a == b).count();
    assert!(head.abs_diff(prompt.len() / 2) < 200, "{head} of {}", prompt.len());
    // Messages lose the middle of the longest.
    let chat = json!({ "messages": [
        { "role": "user", "content": text },
        { "role": "assistant", "content": "Read." },
        { "role": "user", "content": "And now?" },
    ] });
    let source = File::new("chat.jsonl", &[chat]).only("jsonl");
    let cases = source.cases(&subject(), &Wanted { cut: true, ..wanted(&filler) }).unwrap();
    let prompt = decode(&cases[0].prompt);
    assert!(prompt.contains("Line 0 of") && prompt.contains("Line 399 of") && !prompt.contains("Line 200 of"));
    assert!(prompt.contains("And now?") && cases[0].cut && cases[0].prompt.len() <= 2048 - 64);
}

#[test]
fn ruler_as_its_scripts_write_it() {
    let line = |index: usize| {
        json!({
            "index": index, "input": format!("Remember the numbers.\n{}Which number has the mill?", long(20)),
            "outputs": ["48213", "55555"], "length": 300, "answer_prefix": " The number is",
        })
    };
    // A folder with a folder for each dataset.
    let file = File::new("niah_multivalue/validation.jsonl", &[line(0), line(1)]);
    std::fs::write(
        file.0.path().join("qa_1.jsonl"),
        json!({ "input": "all in one line", "outputs": ["a", "b"] }).to_string(),
    )
    .unwrap();
    let sources = open("ruler", file.0.path()).unwrap();
    let names: Vec<&str> = sources.iter().map(|source| source.name()).collect();
    assert_eq!(names, ["ruler:niah_multivalue", "ruler:qa_1"]);
    let (needles, qa) = (cases(&sources[0]), cases(&sources[1]));
    assert_eq!((needles.len(), needles[1].id.as_deref(), needles[0].answer_tokens), (2, Some("1"), 128));
    assert!(decode(&needles[0].prompt).ends_with("mill?\nassistant\n The number is"), "{}", decode(&needles[0].prompt));
    assert!(decode(&needles[0].prompt[..needles[0].context]).ends_with("Line 19 of the log.\n"));
    assert_eq!(needles[0].score("48213."), 0.5);
    // Questions need one of the answers only, and one line cannot be told apart.
    assert_eq!((qa[0].score("B!"), qa[0].answer_tokens, qa[0].context), (1.0, 32, 0));
    // The file alone has the folder's name.
    assert_eq!(file.only("ruler").name(), "ruler:niah_multivalue");
}

#[test]
fn longbench_is_cut_in_the_middle_of_its_context() {
    let line = |context: String| {
        json!({
            "input": "Which line is the last?", "context": context, "answers": ["line 399", "399"], "length": 2000,
            "dataset": "hotpotqa", "language": "en", "all_classes": null, "_id": "abc",
        })
    };
    let source = File::new("hotpotqa.jsonl", &[line(long(3)), line(long(400))]).only("longbench");
    let filler = filler();
    let cases = source.cases(&subject(), &Wanted { tokens: 600, ..wanted(&filler) }).unwrap();
    assert_eq!((source.name(), cases[0].id.as_deref()), ("longbench:hotpotqa", Some("abc")));
    assert_eq!(cases.iter().map(|case| case.cut).collect::<Vec<_>>(), [false, true]);
    let (prompt, context) = (decode(&cases[1].prompt), decode(&cases[1].prompt[..cases[1].context]));
    assert!(cases[1].prompt.len() <= 600 && cases[1].prompt.len() > 580, "{}", cases[1].prompt.len());
    assert!(context.contains("Line 0 of") && context.contains("Line 399 of"), "{context}");
    assert!(!context.contains("Which line") && prompt.contains("Which line is the last?\nAnswer:"));
    assert_eq!((cases[1].score("It's 399"), cases[1].score("the 399.")), (2.0 / 3.0, 1.0));
    // Not even the questions fit.
    let error = source.cases(&subject(), &Wanted { tokens: 20, ..wanted(&filler) }).unwrap_err().to_string();
    assert!(error.contains("line 1") && error.contains("20 tokens"), "{error}");
    // Few examples without a template, the first line only; LongBench-E has another ending.
    let line = json!({
        "input": "Question: What is the mill?\nType:", "context": "Question: Where?\nType: Place",
        "answers": ["Thing"], "all_classes": ["Thing", "Place"], "length": 9, "dataset": "trec", "_id": "t",
    });
    let trec = File::new("trec_e.jsonl", &[line]).only("longbench");
    let case = &trec.cases(&subject(), &wanted(&filler)).unwrap()[0];
    assert!(decode(&case.prompt).ends_with("Type: Place\n\nQuestion: What is the mill?\nType:"));
    assert_eq!(
        (case.score("\nThing\nPlace"), case.score("Thing or Place"), case.score("Place\nThing")),
        (1.0, 0.5, 0.0)
    );
}

#[test]
fn scbench_in_its_two_modes() {
    let turn = |key: &str, value: &str| json!({ "input": format!("Key: \"{key}\"\nThe value is"), "answer": value });
    let line =
        json!({ "id": 3, "context": long(30), "multi_turns": [turn("a", "v1"), turn("b", "v2"), turn("c", "v3")] });
    let source = File::new("scbench_kv.jsonl", &[line.clone(), line]).only("scbench");
    let filler = filler();
    for subject in [subject(), Subject { template: None, ..subject() }] {
        let cases = |mode| source.cases(&subject, &Wanted { mode, questions: 5, ..wanted(&filler) }).unwrap();
        let (single, shared, turns) = (cases(Mode::Single), cases(Mode::Shared), cases(Mode::Turns));
        assert_eq!((single.len(), shared.len(), turns.len()), (2, 5, 5));
        assert_eq!(turns.iter().map(|case| case.turn).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
        for (shared, turns) in shared.iter().zip(&turns) {
            assert_eq!((shared.turn, shared.context, &shared.expected), (0, turns.context, &turns.expected));
            assert!(decode(&shared.prompt[..shared.context]).trim_end().ends_with("Line 29 of the log."));
        }
        let (first, third) = (decode(&turns[0].prompt), decode(&turns[2].prompt));
        assert_eq!(decode(&shared[0].prompt), first);
        assert!(third.starts_with(first.trim_end()), "{third}");
        // Both right answers, whatever was answered, and not the third.
        assert!(third.contains("v1") && third.contains("v2") && !third.contains("v3"));
        assert!(!decode(&shared[2].prompt).contains("v1"));
        assert_eq!((turns[0].score("it is v1"), turns[0].score("V1")), (1.0, 0.0));
    }
}

#[test]
fn scbench_scores_by_dataset_and_turn() {
    let score = |name: &'static str, turn: Value, answer: &str| {
        let other = json!({
            "input": "x", "answer": "fn other() { 2 }", "task": "scbench_repoqa", "options": ["x", "fn other() { 2 }"],
        });
        let line = json!({ "id": 0, "context": "text", "multi_turns": [turn, other] });
        let file = File::new(name, &[line]);
        let case = cases(&file.only("scbench")).remove(0);
        (case.score(answer), case.answer_tokens)
    };
    let choice = json!({ "input": "Who?", "answer": "Brandt", "options": ["Abbott", "Brandt", "Castillo", "Dupont"] });
    assert_eq!(score("scbench_choice_eng.jsonl", choice.clone(), "B"), (1.0, 40));
    assert_eq!(score("choice_eng.jsonl", choice, "A"), (0.0, 40));
    assert_eq!(score("scbench_mf.jsonl", json!({ "input": "The median is", "answer": 5.5 }), "5.5"), (1.0, 5));
    assert_eq!(score("scbench_mf.jsonl", json!({ "input": "The largest is", "answer": 7 }), "7.9"), (1.0, 5));
    let names = json!({ "input": "Which?", "answer": ["AB", "CD"] });
    assert_eq!(score("scbench_vt.jsonl", names, "ab"), (0.5, 30));
    // Whole answers, not their letters.
    assert_eq!(score("scbench_many_shot.jsonl", json!({ "input": "?", "answer": "(A)" }), "A"), (0.0, 10));
    assert_eq!(score("scbench_qa_chn.jsonl", json!({ "input": "?", "answer": "北京" }), "北京。"), (1.0, 40));
    let function = json!({ "input": "?", "answer": "fn one ( ) { 1 }", "task": "scbench_repoqa" });
    assert_eq!(score("scbench_repoqa.jsonl", function.clone(), "```rust\nfn one ( ) { 1 }\n```"), (1.0, 1024));
    assert_eq!(score("scbench_repoqa_and_kv.jsonl", function, "fn other() { 2 }"), (0.0, 1024));
    let pair = json!({ "input": "?", "answer": "v", "task": "scbench_kv" });
    assert_eq!(score("scbench_repoqa_and_kv.jsonl", pair, "is v"), (1.0, 80));
    let broken =
        json!({ "id": 0, "context": "text", "multi_turns": [{ "input": "?", "answer": "E", "options": ["A", "B"] }] });
    let error = File::new("scbench_choice_eng.jsonl", &[broken]).error("scbench");
    assert!(error.contains("line 1: turn 1: its answer is none"), "{error}");
}

#[test]
fn files_and_kinds_go_together() {
    let file = File::new("mine.jsonl", &[json!({ "prompt": "x" })]);
    let path = file.path().display().to_string();
    let sources = tasks::named(&format!("needle, jsonl:{path}, jsonl:{path}")).unwrap();
    let names: Vec<&str> = sources.iter().map(|source| source.name()).collect();
    assert_eq!(names, ["needle", &format!("jsonl:{path}")]);
}
